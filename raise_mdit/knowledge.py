"""What is known of the pool's examples before anything is trained, and what finding out cost.

Tier `cheap` reads tokens, tier `model` runs a model over the pool, and rankings are always made of
what the tuned model makes of the examples. Only what a policy of the experiment looks at is found
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost
from raise_mdit.corpus import Corpus, EncodedExample
from raise_mdit.features import ExampleFeatures
from raise_mdit.learners.auxiliary import measure_by_auxiliary
from raise_mdit.learners.forward import Precision
from raise_mdit.learners.pretrained import Pretrained
from raise_mdit.learners.probe import Reading, measure, read, start_token, without_prompts
from raise_mdit.learners.sentence_encoder import encode_sentences
from raise_mdit.learners.static_features import static_features
from raise_mdit.policy_config import PolicyConfig, RandomSection
from raise_mdit.policy_section import Pass
from raise_mdit.policy_source import check_embeddings, embeddings_in_words
from raise_mdit.progress import Progress
from raise_mdit.synthesis import made_by_embeddings

TIER_PASSES: frozenset[Pass] = frozenset({"pool", "responses"})
"""Passes that tier `model` consists of."""
PASS_NAMES: Mapping[Pass, str] = {
    "pool": "the pool",
    "responses": "the pool's responses alone",
    "reward_validation": "reward-validation",
}


@dataclass(frozen=True, slots=True, eq=False)
class Knowledge:
    """Features of the pool's examples, and what the untuned model makes of them."""

    config: ExperimentConfig
    features: ExampleFeatures | None
    """By `features.tier`; None where nothing is made of them."""
    passes: Mapping[Pass, Reading]
    """Those that some policy of the experiment ranks by."""

    def cost(self, policy: PolicyConfig) -> Cost:
        """Of all that had to be known of the examples if the policy had run alone.

        MDIT candidates are chosen by the embeddings of `features.tier`, so that with `cheap` they
        take no pass over the pool; a learned policy looks at the features of that tier; rankings
        are made of what the tuned model makes of the examples, whatever the tier.

        Args:
            policy: Any that picks from the pool.
        """
        looks = _looks_at_features(self.config, policy)
        cost = Cost()
        if looks:
            assert self.features is not None
            cost = cost.plus(self.features.cost)
        of_the_tier = TIER_PASSES if looks and _tuned_model_reads(self.config) else frozenset()
        for name in sorted(policy.needed_passes - of_the_tier):
            cost = cost.plus(self.passes[name].cost)
        return cost


def find_out(
    config: ExperimentConfig,
    pretrained: Pretrained,
    corpus: Corpus,
    *,
    policies: Sequence[PolicyConfig],
    precision: Precision,
    cache: Path,
    progress: Progress,
) -> Knowledge:
    """What candidates are made by and policies look at.

    Args:
        config: The experiment.
        pretrained: The model, untuned.
        corpus: Its examples.
        policies: That look.
        precision: Arithmetic of the passes.
        cache: Folder of measurements made before.
        progress: Told of the passes.

    Raises:
        RunError: A policy that another run has trained knows the embeddings of another model.
    """
    check_embeddings(policies, embeddings_in_words(config.features, pretrained.digest))
    finder = _Finder(config, pretrained, corpus, precision, cache, progress)
    features = None
    if made_by_embeddings(config) or any(_looks_at_features(config, each) for each in policies):
        features = finder.example_features()
    needed = sorted({name for policy in policies for name in policy.needed_passes})
    return Knowledge(config, features, {name: finder.reading(name) for name in needed})


@dataclass(frozen=True, slots=True)
class _Finder:
    config: ExperimentConfig
    pretrained: Pretrained
    corpus: Corpus
    precision: Precision
    cache: Path
    progress: Progress

    def example_features(self) -> ExampleFeatures:
        """By the tier; `gradient` adds to `cheap` what the environment measures at each step."""
        config = self.config
        known = self._by_tier()
        if config.features.sentence_encoder is None:
            return known
        texts = [each.example.text for each in self._pool]
        self.progress.start("reading the pool with the sentence encoder", len(texts))
        embedded = encode_sentences(
            config.features.sentence_encoder,
            texts,
            device=config.model.device,
            max_length=config.model.max_length,
            cache=self.cache,
            advance=self.progress.advance,
        )
        return known._replace(embeddings=embedded.embeddings, cost=known.cost.plus(embedded.cost))

    def _by_tier(self) -> ExampleFeatures:
        config = self.config
        if config.features.tier != "model":
            self.progress.start("describing the pool by its tokens", None)
            return static_features(self.pretrained.model, self.corpus.encoded("pool"))
        if config.features.auxiliary_model is not None:
            self.progress.start("reading the pool with the auxiliary model", len(self._pool))
            return measure_by_auxiliary(
                config.features.auxiliary_model,
                [each.example for each in self._pool],
                system_prompt=config.model.system_prompt,
                max_length=config.model.max_length,
                device=config.model.device,
                precision=self.precision,
                cache=self.cache,
                advance=self.progress.advance,
            )
        self.progress.start("reading the pool with the untuned model", len(self._pool))
        return measure(
            self.pretrained.model,
            self.corpus.encoded("pool"),
            digest=self.pretrained.digest,
            start_token=start_token(self.pretrained.tokenizer),
            precision=self.precision,
            cache=self.cache,
            advance=self.progress.advance,
        )

    @property
    def _pool(self) -> Sequence[EncodedExample]:
        return self.corpus.splits["pool"]

    def reading(self, name: Pass) -> Reading:
        """A pass of the tuned model as it is; one that the tier has made is in the cache."""
        rows = self.corpus.encoded("reward_validation" if name == "reward_validation" else "pool")
        if name == "responses":
            rows = without_prompts(rows, start_token(self.pretrained.tokenizer))
        self.progress.start(f"reading {PASS_NAMES[name]} with the untuned model", len(rows))
        return read(
            self.pretrained.model,
            rows,
            digest=self.pretrained.digest,
            precision=self.precision,
            cache=self.cache,
            advance=self.progress.advance,
        )


def _looks_at_features(config: ExperimentConfig, policy: PolicyConfig) -> bool:
    """Whether a policy chooses by features or windows, or from candidates made by embeddings."""
    if policy.looks_at_features:
        return True
    kinds = policy.drawn_from if isinstance(policy, RandomSection) else None
    made = made_by_embeddings(config)
    return bool(made if kinds is None else made.intersection(kinds))


def _tuned_model_reads(config: ExperimentConfig) -> bool:
    """Whether the features of the examples are what the tuned model makes of them."""
    return config.features.tier == "model" and config.features.auxiliary_model is None
