"""The policies of an experiment file that need no episodes to learn from, built for a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.custom_policy import CustomPolicy, PoolFacts
from raise_mdit.agents.greats import GradientProducts, greats_policy
from raise_mdit.agents.group_policy import (
    exp3_policy,
    join_small_groups,
    thompson_policy,
    ucb_policy,
)
from raise_mdit.agents.influence import InfluencePolicy, influence_policy
from raise_mdit.agents.static import BUDGET_SHARE, random_policy, ranked_policy, signal_policy
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import KINDS, Cost, Observation, OnlinePolicy, SelectionPolicy
from raise_mdit.learners.adamw import decay_factor
from raise_mdit.learners.alignment import gradient_products
from raise_mdit.policy_config import (
    BanditSection,
    CustomPolicyConfig,
    Exp3Config,
    FullDataConfig,
    GradientAlignmentConfig,
    GreatsConfig,
    InfluenceConfig,
    PolicyConfig,
    PpoConfig,
    RandomSection,
    ThompsonConfig,
    UcbConfig,
)
from raise_mdit.policy_section import PolicySection
from raise_mdit.pool_rankings import normal_scores, rank_pool
from raise_mdit.preparation import Preparation
from raise_mdit.progress import Progress
from raise_mdit.ranking_config import RankedSection
from raise_mdit.streams import stream


class Selector(NamedTuple):
    """A policy, and what making it cost."""

    policy: SelectionPolicy
    cost: Cost = Cost()


def fixed_selector(
    preparation: Preparation,
    policy: PolicyConfig,
    seed: int,
    *,
    progress: Progress,
    charge: Callable[[Cost], None],
) -> Selector:
    """A policy that does not learn.

    Args:
        preparation: The pool and what is known of it.
        policy: Any policy that picks and does not learn.
        seed: Of its draws.
        progress: Told of long work.
        charge: Told what each of its picks costs.
    """
    picks = preparation.config.environment.batch_size
    rng = np.random.default_rng(stream(policy.label, seed, "picks"))
    match policy:
        case RandomSection():
            return Selector(
                random_policy(rng, num_picks=picks, allowed=allowed(preparation, policy))
            )
        case FullDataConfig():
            originals = preparation.pool.kinds == KINDS.index("original")
            return Selector(random_policy(rng, num_picks=picks, allowed=originals))
        case RankedSection():
            ranking = rank_pool(preparation, policy, seed, progress=progress)
            most = allowed(preparation, policy, ranks=ranking.ranks)
            ranked = ranked_policy(ranking.ranks, num_picks=picks, allowed=most)
            return Selector(ranked, ranking.cost)
        case GradientAlignmentConfig():
            return Selector(signal_policy(num_picks=picks))
        case GreatsConfig():
            return Selector(_greats(preparation, charge))
    raise AssertionError(f"{policy.label} learns, or picks nothing")


def bandit_selector(preparation: Preparation, policy: BanditSection, seed: int) -> OnlinePolicy:
    """A policy that learns from every step which group of candidates to draw from.

    Args:
        preparation: The pool.
        policy: A bandit.
        seed: Of its draws.
    """
    picks = preparation.config.environment.batch_size
    rng = np.random.default_rng(stream(policy.label, seed, "picks"))
    renewal = preparation.training.renewal
    groups = join_small_groups(
        preparation.groups,
        num_picks=picks,
        generations=None if renewal is None else renewal.generations,
    )
    match policy:
        case Exp3Config():
            return exp3_policy(groups, num_picks=picks, rng=rng, exploration=policy.exploration)
        case UcbConfig():
            return ucb_policy(groups, num_picks=picks, rng=rng, exploration=policy.exploration)
        case ThompsonConfig():
            return thompson_policy(groups, num_picks=picks, rng=rng)
    raise AssertionError(f"{policy.label} does not learn step by step")


def influence_selector(
    policy: InfluenceConfig, seed: int, *, num_features: int, num_picks: int
) -> InfluencePolicy:
    """A regression of improvements on what the policy sees.

    Args:
        policy: Its settings.
        seed: Of its draws.
        num_features: Columns of a candidate.
        num_picks: Candidates of a batch.
    """
    return influence_policy(
        num_features=num_features,
        num_picks=num_picks,
        rng=np.random.default_rng(stream(policy.label, seed, "picks")),
        choice=policy.choice,
        ridge=policy.ridge,
    )


def own_policy(preparation: Preparation, policy: CustomPolicyConfig, seed: int) -> CustomPolicy:
    """A policy of the user's own.

    Args:
        preparation: The pool.
        policy: The section that names its class.
        seed: Of its draws.

    Raises:
        ConfigError: It cannot be made.
    """
    facts = PoolFacts(preparation.training.features, preparation.table.names, preparation.groups)
    return CustomPolicy(
        policy,
        facts,
        num_picks=preparation.config.environment.batch_size,
        rng=np.random.default_rng(stream(policy.label, seed, "picks")),
    )


class Prior(NamedTuple):
    """The ranking that a policy began as, or has for a hint, made for this pool."""

    scores: NDArray[np.float32] | None = None
    """[N] normal scores; None where the policy has none."""
    cost: Cost = Cost()


def prior_of(
    preparation: Preparation, policy: PolicyConfig, seed: int, *, progress: Progress
) -> Prior:
    """What a policy's prior, or hint, says of each candidate.

    Args:
        preparation: The pool and what is known of it.
        policy: Any.
        seed: Of the draws of rankings that draw.
        progress: Told of long work.
    """
    if not isinstance(policy, PpoConfig | InfluenceConfig) or policy.ranking is None:
        return Prior()
    ranking = rank_pool(preparation, policy.ranking, seed, progress=progress)
    return Prior(normal_scores(ranking.ranks), ranking.cost)


def allowed(
    preparation: Preparation,
    policy: PolicySection,
    *,
    ranks: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_] | None:
    """[N] which candidates a policy may pick; None where it may pick all.

    Args:
        preparation: The pool.
        policy: Any.
        ranks: [N] of a policy that ranks.
    """
    if isinstance(policy, RandomSection) and policy.drawn_from is not None:
        kinds = [KINDS.index(kind) for kind in policy.drawn_from]
        return np.isin(preparation.pool.kinds, kinds)
    if isinstance(policy, RankedSection) and policy.repeat > 1:
        assert ranks is not None, "what may be repeated is ranked first"
        return ranks < preparation.num_different_picks(policy.repeat, ranks=ranks)
    return None


def _greats(preparation: Preparation, charge: Callable[[Cost], None]) -> SelectionPolicy:
    """Greedy by gradients of the learner as it is at each step."""
    config, batch_size = preparation.config, preparation.config.environment.batch_size
    measure = gradient_products(preparation.tuning.learner, preparation.reward_items)

    def of_rows(rows: NDArray[np.int64]) -> GradientProducts:
        products, gram, cost = measure([preparation.training.rows[int(row)] for row in rows])
        charge(cost)
        return GradientProducts(products, gram)

    return greats_policy(
        of_rows,
        num_picks=batch_size,
        step_size=lambda observation: _learning_rate(config, observation) / batch_size,
    )


def _learning_rate(config: ExperimentConfig, observation: Observation) -> float:
    """Of the learner at the moment of an observation."""
    spent = float(observation["context"][BUDGET_SHARE])
    return config.learner.learning_rate * decay_factor(config.learner.schedule, spent)
