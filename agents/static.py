"""Policies that do not learn: they rank the pool once, or draw from it blindly.

They see observations and give actions exactly as a trained policy does, and use a candidate again
only when every other one in the window has been used.

Shapes: ``N`` candidates of the pool, ``W`` slots of a window, ``k`` picks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raise_mdit.core import Observation

State = tuple[NDArray[Any], ...] | None
"""A recurrent state, which no policy here has: it is given back as it came."""

BUDGET_SHARE = 1
"""Where `context` says which part of the budget is spent."""


Order = Callable[[Observation], NDArray[np.int64]]
"""Gives each slot of one window a rank, [W]; the lowest are picked first."""


class StaticPolicy:
    """Picks the k slots that come first in a given order, least used candidates before others."""

    def __init__(
        self, order: Order, *, num_picks: int, allowed: NDArray[np.bool_] | None = None
    ) -> None:
        """Take the order.

        Args:
            order: Of the slots of a window.
            num_picks: k.
            allowed: [N] whether a candidate of the pool may be picked; None allows all.
        """
        self._order = order
        self._num_picks = num_picks
        self._allowed = allowed

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], State]:
        """Slots of k candidates of a window, or of each window of a batch."""
        if observation["window"].ndim == 1:
            return self._pick(observation), state
        windows = range(len(observation["window"]))
        single = ({key: part[i] for key, part in observation.items()} for i in windows)
        return np.stack([self._pick(each) for each in single]), state

    def _pick(self, observation: Observation) -> NDArray[np.int64]:
        """Slots by mask, then by how often they were used, then by the order."""
        order = self._order(observation)
        barred = observation["mask"] == 0
        if self._allowed is not None:
            barred |= ~self._allowed[observation["window"]]
        slots = np.lexsort((order, observation["selected"], barred))
        return slots[: self._num_picks].astype(np.int64)


class ReplayPolicy:
    """Picks the batches of a schedule, one after another, in each episode."""

    def __init__(self, batches: Sequence[NDArray[np.int64]]) -> None:
        """Take the schedule.

        Args:
            batches: [k] pool rows of each step; every window offers them.
        """
        self._batches = batches
        self._step = 0

    @property
    def num_steps(self) -> int:
        """Length of the schedule."""
        return len(self._batches)

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], State]:
        """Slots of the step's batch in a window; an episode begins where nothing is spent."""
        self._step = 0 if observation["context"][BUDGET_SHARE] == 0 else self._step + 1
        window = observation["window"][observation["mask"] > 0]
        order = np.argsort(window)
        batch = self._batches[self._step]
        slots = order[np.searchsorted(window, batch, sorter=order)]
        assert (window[slots] == batch).all(), "the window offers what was picked"
        return slots.astype(np.int64), state


def ranked_policy(
    ranks: NDArray[np.int64], *, num_picks: int, allowed: NDArray[np.bool_] | None = None
) -> StaticPolicy:
    """Picks the candidates of the lowest rank.

    Args:
        ranks: [N] rank of each candidate of the pool; 0 is picked first.
        num_picks: k.
        allowed: [N] whether a candidate of the pool may be picked; None allows all.
    """
    return StaticPolicy(
        lambda observation: ranks[observation["window"]], num_picks=num_picks, allowed=allowed
    )


def random_policy(
    rng: np.random.Generator, *, num_picks: int, allowed: NDArray[np.bool_] | None = None
) -> StaticPolicy:
    """Picks uniformly, without replacement over an episode.

    Args:
        rng: Of the picks.
        num_picks: k.
        allowed: [N] whether a candidate of the pool may be picked; None allows all. Windows hold at
            least k of these.
    """
    return StaticPolicy(
        lambda observation: rng.permutation(len(observation["window"])),
        num_picks=num_picks,
        allowed=allowed,
    )


def signal_policy(*, num_picks: int) -> StaticPolicy:
    """Picks the candidates with the strongest signal, which is the last column of `candidates`."""
    return StaticPolicy(
        lambda observation: np.argsort(np.argsort(-observation["candidates"][:, -1])),
        num_picks=num_picks,
    )
