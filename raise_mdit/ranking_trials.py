"""Rankings tried out: which of them does reward-validation like best?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.static import ranked_policy
from raise_mdit.arm_environments import ArmEnvironments, Played
from raise_mdit.core import SelectionPolicy
from raise_mdit.envs import InstructionSelectionEnv
from raise_mdit.policy_config import BestOfConfig
from raise_mdit.pool_rankings import rank_pool
from raise_mdit.progress import Progress
from raise_mdit.ranking_config import RankedSection
from raise_mdit.results import RankingTrial
from raise_mdit.selectors import allowed


class Trial(NamedTuple):
    """A ranking that was followed through one fine-tuning."""

    ranking: str
    """In words."""
    ranks: NDArray[np.int64]
    """[N], 0 is picked first."""
    policy: SelectionPolicy
    played: Played

    @property
    def result(self) -> RankingTrial:
        """What is kept of it."""
        return RankingTrial(self.ranking, self.played.total)


Play = Callable[[InstructionSelectionEnv, SelectionPolicy, int], Played]
"""Plays an episode of a number, counted from 0."""


def try_rankings(
    environments: ArmEnvironments,
    policy: BestOfConfig,
    *,
    label: str,
    seed: int,
    play: Play,
    progress: Progress,
) -> list[Trial]:
    """Follow each ranking once. What it was made from, and its fine-tuning, are charged.

    Nothing is learned on the way, so reward-validation is read as
    :meth:`raise_mdit.arm_environments.ArmEnvironments.trying` says.

    Args:
        environments: Of the arm.
        policy: Which rankings.
        label: Of the arm.
        seed: Of the arm.
        play: Plays an episode and records it.
        progress: Told of long work.
    """
    followed = [
        (section.in_words, *_follow(environments, section, seed, progress))
        for section in policy.rankings
    ]
    env = environments.trying()
    progress.start(f"{label} s{seed}: trying rankings", len(followed))
    trials = [
        Trial(name, ranks, ranked, play(env, ranked, number))
        for number, (name, ranks, ranked) in enumerate(followed)
    ]
    progress.finish()
    return trials


def _follow(
    environments: ArmEnvironments, section: RankedSection, seed: int, progress: Progress
) -> tuple[NDArray[np.int64], SelectionPolicy]:
    """A ranking, charged, and the policy that follows it."""
    preparation = environments.preparation
    ranking = rank_pool(preparation, section, seed, progress=progress)
    environments.ledger.charge("features", ranking.cost)
    most = allowed(preparation, section, ranks=ranking.ranks)
    num_picks = preparation.config.environment.batch_size
    return ranking.ranks, ranked_policy(ranking.ranks, num_picks=num_picks, allowed=most)


def best_trial(trials: list[Trial]) -> Trial:
    """The one that improved the model most; of equals, the first."""
    return max(trials, key=lambda trial: trial.played.total)
