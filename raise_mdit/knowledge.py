"""What is known of the pool's examples before anything is trained, and what finding out cost.

Tier `cheap` reads tokens, tier `model` runs a model over the pool, and RDS+ always compares what
the tuned model makes of the examples. Only what a policy of the experiment looks at is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raise_mdit.config import (
    ExperimentConfig,
    GradientAlignmentConfig,
    NearestToTargetConfig,
    PolicyConfig,
    PpoConfig,
    RandomConfig,
)
from raise_mdit.core import Cost
from raise_mdit.corpus import Corpus, EncodedExample
from raise_mdit.features import ExampleFeatures
from raise_mdit.learners.auxiliary import measure_by_auxiliary
from raise_mdit.learners.forward import Precision
from raise_mdit.learners.pretrained import Pretrained
from raise_mdit.learners.probe import Reading, measure, read, start_token
from raise_mdit.learners.sentence_encoder import encode_sentences
from raise_mdit.learners.static_features import static_features
from raise_mdit.progress import Progress
from raise_mdit.synthesis import made_by_embeddings


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What the tuned model, as it is, makes of the examples that RDS+ compares."""

    pool: Reading
    reward_validation: Reading


@dataclass(frozen=True, slots=True, eq=False)
class Knowledge:
    """Features of the pool's examples, and what RDS+ compares."""

    config: ExperimentConfig
    features: ExampleFeatures | None
    """By `features.tier`; None where nothing is made of them."""
    measured: Measured | None
    """None where no policy is RDS+."""

    def cost(self, policy: PolicyConfig) -> Cost:
        """Of all that had to be known of the examples if the policy had run alone.

        MDIT candidates are chosen by the embeddings of `features.tier`, so that with `cheap` they
        take no pass over the pool; PPO looks at the features of that tier; RDS+ compares what the
        tuned model makes of the examples, whatever the tier.

        Args:
            policy: Any that picks from the pool.
        """
        cost = Cost()
        if _looks_at_features(self.config, policy):
            assert self.features is not None
            cost = cost.plus(self.features.cost)
        if isinstance(policy, NearestToTargetConfig):
            assert self.measured is not None
            cost = cost.plus(self.measured.reward_validation.cost)
            if not (_looks_at_features(self.config, policy) and _tuned_model_reads(self.config)):
                cost = cost.plus(self.measured.pool.cost)  # else the tier's first pass is this one
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
    """
    finder = _Finder(config, pretrained, corpus, precision, cache, progress)
    features, measured = None, None
    if made_by_embeddings(config) or any(_looks_at_features(config, each) for each in policies):
        features = finder.example_features()
    if any(isinstance(policy, NearestToTargetConfig) for policy in policies):
        measured = finder.measured()
    return Knowledge(config, features, measured)


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
        texts = [f"{each.example.prompt}\n{each.example.response}" for each in self._pool]
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

    def measured(self) -> Measured:
        """The tuned model's embeddings; a pool that the tier has read is in the cache."""
        splits = (self.corpus.encoded("pool"), self.corpus.encoded("reward_validation"))
        self.progress.start("reading what RDS+ compares", sum(map(len, splits)))
        readings = [
            read(
                self.pretrained.model,
                split,
                digest=self.pretrained.digest,
                precision=self.precision,
                cache=self.cache,
                advance=self.progress.advance,
            )
            for split in splits
        ]
        return Measured(*readings)


def _looks_at_features(config: ExperimentConfig, policy: PolicyConfig) -> bool:
    """Whether a policy chooses by features or windows, or from candidates made by embeddings."""
    if isinstance(policy, PpoConfig | GradientAlignmentConfig):
        return True
    kinds = policy.kinds if isinstance(policy, RandomConfig) else None
    made = made_by_embeddings(config)
    return bool(made if kinds is None else made.intersection(kinds))


def _tuned_model_reads(config: ExperimentConfig) -> bool:
    """Whether the features of the examples are what the tuned model makes of them."""
    return config.features.tier == "model" and config.features.auxiliary_model is None
