"""What a selection policy observes: a window of candidates and the stage of the fine-tuning.

Nothing here costs more in a larger pool, once a sampler is made: windows, counts and shares are
kept for what was offered or picked, never for all candidates.

Shapes: ``N`` candidates of the pool, ``R`` rows of it, ``W`` slots of the window, ``F`` features,
``G`` context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from raise_mdit.core import KINDS, Observation

CONTEXT = ("loss_ratio", "budget_share", "last_reward", *(f"share_{kind}" for kind in KINDS))
"""The stage: validation loss as a share of the start's (the mean of such shares where targets count
alike), budget spent, the last reward, and which share of all picks so far came from each kind.
RAISE's stage is the first two."""

BEYOND_EVERY_ROW = np.iinfo(np.int64).max
"""Ends a sorted list of rows, so that a search always finds a place within it."""


class DistinctSlots(spaces.MultiDiscrete):
    """k different slots of a window, in order: MultiDiscrete [W] * k without repetition."""

    def __init__(self, num_slots: int, num_picks: int) -> None:
        super().__init__([num_slots] * num_picks)
        self.num_slots = num_slots
        self.num_picks = num_picks

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.int64]:
        """Distinct slots, uniformly; masks of single slots are not supported."""
        assert mask is None, "a window is masked by the observation, not by the space"
        assert probability is None, "samples are uniform"
        return self.np_random.permutation(self.num_slots)[: self.num_picks].astype(np.int64)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is k slots of the window, none twice."""
        return bool(super().contains(x)) and len(set(np.asarray(x).tolist())) == self.num_picks


def observation_space(num_slots: int, num_features: int, num_candidates: int) -> spaces.Dict[Any]:
    """The space of observations; the environment's docstring says what each part means."""

    def unbounded(*shape: int) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, shape, np.float32)

    return spaces.Dict(
        {
            "candidates": unbounded(num_slots, num_features),
            "context": unbounded(len(CONTEXT)),
            "selected": spaces.Box(0, np.inf, (num_slots,), np.float32),
            "mask": spaces.MultiBinary(num_slots),
            "window": spaces.Box(0, num_candidates - 1, (num_slots,), np.int64),
        }
    )


@dataclass(frozen=True, slots=True)
class Stage:
    """How far an episode is."""

    loss_ratio: float = 1.0
    budget_share: float = 0.0
    last_reward: float = 0.0


class Picks:
    """How often each candidate was picked in an episode, held for those that were."""

    def __init__(self, kinds: NDArray[np.int64]) -> None:
        """Nothing is picked.

        Args:
            kinds: [N] kind of each candidate.
        """
        self._kinds = kinds
        self._rows = np.array([BEYOND_EVERY_ROW])
        self._counts = np.zeros(1, np.int64)
        self._kind_counts = np.zeros(len(KINDS), np.int64)

    def add(self, rows: NDArray[np.int64]) -> None:
        """Count a batch of different pool rows."""
        new = np.sort(rows[self.counts(rows) == 0])
        places = np.searchsorted(self._rows, new)
        self._rows = np.insert(self._rows, places, new)
        self._counts = np.insert(self._counts, places, 0)
        self._counts[np.searchsorted(self._rows, rows)] += 1
        self._kind_counts += np.bincount(self._kinds[rows], minlength=len(KINDS))

    def counts(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[R] how often each of these pool rows was picked."""
        places = np.searchsorted(self._rows, rows)
        found = self._rows[places] == rows
        return np.where(found, self._counts[places], 0).astype(np.float32)

    def shares(self) -> NDArray[np.float64]:
        """Share of each kind in all picks, zeros before the first."""
        return np.asarray(self._kind_counts / max(1, self._kind_counts.sum()), np.float64)


def observe(
    window: NDArray[np.int64],
    *,
    num_slots: int,
    features: NDArray[np.float32],
    picks: Picks,
    stage: Stage,
    signal: NDArray[np.float32] | None = None,
) -> Observation:
    """The observation of a window.

    Args:
        window: Pool rows offered, at most ``num_slots``; slots beyond are masked and repeat row 0.
        num_slots: W.
        features: [N, F] of the pool.
        picks: Of the episode.
        stage: Of the episode.
        signal: A number for each row of ``window``, appended as a last feature that is 0 where
            masked.
    """
    mask = np.zeros(num_slots, np.int8)
    mask[: len(window)] = 1
    rows = np.zeros(num_slots, np.int64)
    rows[: len(window)] = window
    candidates = features[rows]
    if signal is not None:
        column = np.zeros(num_slots, np.float32)
        column[: len(window)] = signal
        candidates = np.column_stack([candidates, column])
    stage_numbers = [stage.loss_ratio, stage.budget_share, stage.last_reward]
    return {
        "candidates": candidates,
        "context": np.array([*stage_numbers, *picks.shares()], np.float32),
        "selected": picks.counts(rows),
        "mask": mask,
        "window": rows,
    }


class WindowSampler:
    """Draws windows without favour: every stratum gives the same number, as far as it has them.

    A draw takes time and memory of its size and of the number of strata, whatever the pool: without
    replacement NumPy uses Floyd's algorithm, and a shuffle of at most 20 times what it draws.
    """

    def __init__(self, strata: NDArray[np.int64], rows: NDArray[np.int64] | None = None) -> None:
        """Sort the rows by stratum.

        Args:
            strata: [N] of the pool.
            rows: Pool rows to draw from; None takes all.
        """
        rows = np.arange(len(strata)) if rows is None else rows
        offered = strata[rows]
        self._members = [rows[offered == stratum] for stratum in np.unique(offered)]
        self._sizes = np.array([len(members) for members in self._members])

    def draw(self, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """``size`` different pool rows in random order; the whole pool where it is not larger."""
        parts = [
            members[rng.choice(len(members), quota, replace=False, shuffle=False)]
            for members, quota in zip(self._members, self._quotas(size, rng), strict=True)
        ]
        return rng.permutation(np.concatenate(parts))

    def _quotas(self, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Equal shares, what a small stratum lacks going to the others, remainders by lot."""
        quotas = np.zeros_like(self._sizes)
        left = min(size, int(self._sizes.sum()))
        while left > 0:
            open_strata = np.flatnonzero(quotas < self._sizes)
            each = left // len(open_strata)
            if each == 0:
                quotas[rng.choice(open_strata, left, replace=False)] += 1
                return quotas
            room = (self._sizes - quotas)[open_strata]
            quotas[open_strata] += np.minimum(each, room)
            left -= int(np.minimum(each, room).sum())
        return quotas
