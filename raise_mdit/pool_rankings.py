"""The rankings of an experiment file, made for its pool.

What is known of examples is carried over to synthesised candidates by the shares of their parents,
as features are.

Shapes: ``N`` candidates of the pool, ``M`` examples.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from raise_mdit.candidates import parents_of
from raise_mdit.core import Cost
from raise_mdit.learners.gradient_features import less_features
from raise_mdit.policy_section import Pass
from raise_mdit.preparation import Preparation, Ranking
from raise_mdit.progress import Progress
from raise_mdit.ranking_config import (
    DeitaConfig,
    DsirConfig,
    IfdConfig,
    InTurnConfig,
    KCenterConfig,
    LessConfig,
    LongestConfig,
    NearestToTargetConfig,
    PerplexityConfig,
    RankedSection,
    ShortestConfig,
    SsplConfig,
)
from raise_mdit.rankings.difficulty import (
    by_ifd,
    by_length,
    by_perplexity,
    by_stage,
    instruction_following_difficulty,
)
from raise_mdit.rankings.diversity import (
    by_k_center,
    by_quality_and_diversity,
    deita_quality,
    most_central,
)
from raise_mdit.rankings.dsir import by_importance
from raise_mdit.rankings.nearest import by_less, nearest_first
from raise_mdit.rankings.order import in_turn
from raise_mdit.streams import stream
from raise_mdit.synthesis import purpose_rng


def rank_pool(
    preparation: Preparation,
    policy: RankedSection,
    seed: int,
    *,
    progress: Progress,
) -> Ranking:
    """The ranking that a policy, or a prior, follows.

    A ranking that draws gives the same to all policies with the same seed, whoever follows it, so
    that none is ahead by luck of the draw.

    Args:
        preparation: The pool and what is known of it.
        policy: Any section of a ranking.
        seed: Of the arm.
        progress: Told of long work.
    """
    if isinstance(policy, InTurnConfig):
        each = [rank_pool(preparation, one, seed, progress=progress) for one in policy.rankings]
        costs = reduce(Cost.plus, (one.cost for one in each))
        return Ranking(in_turn([one.ranks for one in each]), costs)
    if isinstance(policy, LessConfig):
        return _less(preparation, policy, progress)
    facts = _Facts(preparation)
    match policy:
        case NearestToTargetConfig() | DsirConfig():
            return Ranking(_towards_target(policy, facts, seed))
        case KCenterConfig() | DeitaConfig():
            return Ranking(_diverse(policy, facts))
    return Ranking(_by_difficulty(policy, facts, seed))


def normal_scores(ranks: NDArray[np.int64]) -> NDArray[np.float32]:
    """[N] a ranking as it would be if it were normal: about 0 in the middle, high for rank 0.

    Blom's scores (1958), rank by rank: the quantile of (N - rank - 3/8) / (N + 1/4).
    """
    upwards = len(ranks) - ranks - 0.375
    return np.asarray(norm.ppf(upwards / (len(ranks) + 0.25)), np.float32)


def _towards_target(
    policy: NearestToTargetConfig | DsirConfig, facts: _Facts, seed: int
) -> NDArray[np.int64]:
    if isinstance(policy, NearestToTargetConfig):
        return nearest_first(facts.embeddings, facts.target_embeddings)
    rng, buckets = _draws(policy, seed), policy.buckets
    return by_importance(facts.texts, facts.target_texts, num_buckets=buckets, rng=rng)


def _diverse(policy: KCenterConfig | DeitaConfig, facts: _Facts) -> NDArray[np.int64]:
    embeddings, num_ranked = facts.embeddings, facts.num_different_picks(policy.repeat)
    if isinstance(policy, KCenterConfig):
        return by_k_center(embeddings, num_ranked=num_ranked, seed_row=most_central(embeddings))
    return by_quality_and_diversity(
        facts.quality, embeddings, threshold=policy.threshold, num_ranked=num_ranked
    )


def _by_difficulty(policy: RankedSection, facts: _Facts, seed: int) -> NDArray[np.int64]:
    match policy:
        case LongestConfig():
            return by_length(facts.num_response_tokens, first="longest")
        case ShortestConfig():
            return by_length(facts.num_response_tokens, first="shortest")
        case PerplexityConfig():
            return by_perplexity(facts.log_probs("pool"), policy.part)
        case IfdConfig():
            return by_ifd(facts.log_probs("pool"), facts.log_probs("responses"))
        case SsplConfig():
            losses = -facts.log_probs("pool")
            steps = min(facts.num_steps, len(losses) // facts.batch_size)
            rng = _draws(policy, seed)
            return by_stage(losses, num_steps=steps, batch_size=facts.batch_size, rng=rng)
    raise AssertionError(f"{policy.label} ranks nothing")


def _draws(policy: DsirConfig | SsplConfig, seed: int) -> np.random.Generator:
    """The same for all who follow a ranking of this kind."""
    return np.random.default_rng(stream(policy.kind, seed, "picks"))


class _Facts:
    """What is known of each candidate."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self.batch_size = preparation.config.environment.batch_size
        self.num_steps = preparation.steps_per_episode

    def num_different_picks(self, repeat: int) -> int:
        """As :meth:`Preparation.num_different_picks`."""
        return self._preparation.num_different_picks(repeat)

    def log_probs(self, name: Pass) -> NDArray[np.float64]:
        """[N] mean log-probability of the response's tokens."""
        return self._preparation.candidate_means(self._preparation.knowledge.passes[name].log_probs)

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """[N, H] unit length."""
        return self._preparation.candidate_embeddings(
            self._preparation.knowledge.passes["pool"].embeddings
        )

    @property
    def target_embeddings(self) -> NDArray[np.float32]:
        """[Q, H] of reward-validation, unit length."""
        return self._preparation.knowledge.passes["reward_validation"].embeddings

    @property
    def num_response_tokens(self) -> NDArray[np.int64]:
        """[N]."""
        return self._preparation.pool.num_response_tokens

    @property
    def quality(self) -> NDArray[np.float64]:
        """[N] DEITA's, by proxy."""
        difficulty = instruction_following_difficulty(
            self.log_probs("pool"), self.log_probs("responses")
        )
        return deita_quality(difficulty, self.num_response_tokens)

    @property
    def texts(self) -> list[str]:
        """Of each candidate: its parents', where it is made of several."""
        examples = self._preparation.examples
        pool = self._preparation.pool
        parents = (parents_of(pool.recipe(row)) for row in range(len(pool)))
        return ["\n".join(examples[key].text for key, _ in each) for each in parents]

    @property
    def target_texts(self) -> list[str]:
        """Of each item of reward-validation."""
        split = self._preparation.corpus.splits["reward_validation"]
        return [each.example.text for each in split]


def _less(preparation: Preparation, policy: LessConfig, progress: Progress) -> Ranking:
    """By gradients of the learner before any training, as which it is left; one for all seeds."""
    config, training = preparation.config, preparation.training
    preparation.tuning.learner.restore(preparation.tuning.base)  # an episode may have trained it
    rng = purpose_rng(config, "less")
    offered = training.offered(training.generation(episode=0, step=0))
    batch_size = config.environment.batch_size
    warmup = [
        [training.rows[row] for row in rng.choice(offered, batch_size, replace=False)]
        for _ in range(policy.warmup_steps)
    ]
    progress.start("projecting gradients for LESS", policy.checkpoints * len(training))
    features = less_features(
        preparation.tuning.learner,
        training.rows,
        preparation.reward_items,
        warmup_batches=warmup,
        checkpoints=policy.checkpoints,
        dimensions=policy.dimensions,
        seed=config.data.seed,
        identity=_identity(preparation),
        cache=preparation.cache,
        advance=progress.advance,
    )
    progress.finish()
    ranks = by_less(
        features.candidates_CND,
        features.targets_CQD,
        learning_rates_C=features.learning_rates_C,
        tasks_Q=preparation.reward_tasks,
    )
    return Ranking(ranks, features.cost)


def _identity(preparation: Preparation) -> str:
    """All that the learner depends on before it is trained."""
    config, pretrained = preparation.config, preparation.pretrained
    arithmetic = f"{preparation.precision} {pretrained.model.device.type}"
    return f"{pretrained.digest} {arithmetic} {config.learner.model_dump_json()} {config.data.seed}"
