"""The static policies of an experiment file, built for a pool."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.static import random_policy, ranked_policy
from raise_mdit.candidates import content_hash
from raise_mdit.config import (
    FullDataConfig,
    LongestConfig,
    NearestToTargetConfig,
    PolicyConfig,
    RandomConfig,
)
from raise_mdit.core import KINDS, SelectionPolicy
from raise_mdit.preparation import Preparation


def static_policy(
    preparation: Preparation, policy: PolicyConfig, seed: int
) -> SelectionPolicy | None:
    """The policy, or None for one that picks nothing.

    Args:
        preparation: The pool and what is known of it.
        policy: Any policy that does not learn.
        seed: Of its draws.
    """
    picks = preparation.config.environment.batch_size
    rng = np.random.default_rng(stream(policy.label, seed, "picks"))
    match policy:
        case RandomConfig():
            return random_policy(rng, num_picks=picks, allowed=allowed(preparation, policy))
        case FullDataConfig():
            return ranked_policy(_originals_first(preparation.pool.kinds, rng), num_picks=picks)
        case LongestConfig():
            return ranked_policy(_longest_first(preparation), num_picks=picks)
        case NearestToTargetConfig():
            return ranked_policy(preparation.nearest_ranks, num_picks=picks)
    return None


def allowed(preparation: Preparation, policy: RandomConfig) -> NDArray[np.bool_] | None:
    """[N] which candidates a random policy may pick; None where it may pick all."""
    if policy.kinds is None:
        return None
    kinds = [KINDS.index(kind) for kind in policy.kinds]
    return np.isin(preparation.pool.kinds, kinds)


def stream(label: str, seed: int, purpose: str) -> int:
    """A seed of its own for each policy, seed and purpose; 31 bits, as Gymnasium and SB3 take."""
    return int(content_hash([label, seed, purpose]), 16) % 2**31


def _originals_first(kinds: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """[N] random ranks of the originals, and behind them everything else."""
    synthesised = kinds != KINDS.index("original")
    return np.argsort(np.lexsort((rng.permutation(len(kinds)), synthesised)))


def _longest_first(preparation: Preparation) -> NDArray[np.int64]:
    """[N] ranks by response tokens, ties by row."""
    return np.argsort(np.argsort(-preparation.pool.num_response_tokens, kind="stable"))
