"""Bandits over groups of candidates: each step plays one group and trains on k of its candidates.

A bandit knows nothing of candidates but their group. It learns from the gain of every step and
keeps what it learned over episodes.

Shapes: ``N`` candidates of the pool, ``W`` slots of a window, ``k`` picks, ``G`` groups.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.bandits import Bandit, Exp3, Thompson, Ucb1
from raise_mdit.agents.static import State
from raise_mdit.core import Observation


class GroupPolicy:
    """Lets a bandit play a group, and picks k of its candidates: the least used, ties by lot."""

    def __init__(
        self,
        bandit: Bandit,
        *,
        groups_N: NDArray[np.int64],
        num_picks: int,
        rng: np.random.Generator,
    ) -> None:
        """Nothing is learned.

        Args:
            bandit: Over the groups.
            groups_N: [N] group of each candidate, from 0 to G - 1, none with fewer than k.
            num_picks: k.
            rng: Of the picks within a group.
        """
        assert np.bincount(groups_N).min() >= num_picks, "small groups are joined"
        self._bandit = bandit
        self._groups_N = groups_N
        self._num_groups = _num_groups(groups_N)
        self._num_picks = num_picks
        self._rng = rng

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], State]:
        """Slots of k candidates of one group, of those of which the window offers as many.

        A bandit explores as long as it plays: ``deterministic`` changes nothing, because a final
        fine-tuning without episodes before it is where all learning takes place.

        Raises:
            ValueError: No group has k candidates in the window.
        """
        assert observation["window"].ndim == 1, "a bandit learns from one fine-tuning at a time"
        slots = np.flatnonzero(observation["mask"])
        groups = self._groups_N[observation["window"][slots]]
        offered_G = np.bincount(groups, minlength=self._num_groups)
        playable_G = offered_G >= self._num_picks
        if not playable_G.any():
            raise ValueError(
                f"a bandit plays a group of which {self._num_picks} candidates are on offer, and "
                f"the largest has {offered_G.max()} among {len(slots)}; offer the whole pool"
            )
        group = self._bandit.play(playable_G)
        return self._least_used(slots[groups == group], observation["selected"]), state

    def learn(self, rows: NDArray[np.int64], gain: float) -> None:
        """Credit the group that was played.

        Args:
            rows: [k] pool rows that were trained on, all of one group.
            gain: Of the step.
        """
        group = self._groups_N[rows[0]]
        assert (self._groups_N[rows] == group).all(), "a play is of one group"
        self._bandit.credit(int(group), gain)

    def _least_used(
        self, slots: NDArray[np.int64], selected_W: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """Those k of some slots."""
        order = np.lexsort((self._rng.permutation(len(slots)), selected_W[slots]))
        return slots[order[: self._num_picks]].astype(np.int64)


def exp3_policy(
    groups: NDArray[np.int64], *, num_picks: int, rng: np.random.Generator, exploration: float
) -> GroupPolicy:
    """Plays groups by :class:`Exp3`.

    Args:
        groups: [N] group of each candidate, as :func:`join_small_groups` gives them.
        num_picks: k.
        rng: Of plays and picks.
        exploration: Gamma, share of plays that are uniform; above 0, at most 1.
    """
    bandit = Exp3(_num_groups(groups), exploration=exploration, rng=rng)
    return GroupPolicy(bandit, groups_N=groups, num_picks=num_picks, rng=rng)


def ucb_policy(
    groups: NDArray[np.int64], *, num_picks: int, rng: np.random.Generator, exploration: float
) -> GroupPolicy:
    """Plays groups by :class:`Ucb1`.

    Args:
        groups: [N] group of each candidate, as :func:`join_small_groups` gives them.
        num_picks: k.
        rng: Of ties and picks.
        exploration: Factor in the square root of the bound, above 0.
    """
    bandit = Ucb1(_num_groups(groups), exploration=exploration, rng=rng)
    return GroupPolicy(bandit, groups_N=groups, num_picks=num_picks, rng=rng)


def thompson_policy(
    groups: NDArray[np.int64], *, num_picks: int, rng: np.random.Generator
) -> GroupPolicy:
    """Plays groups by :class:`Thompson`.

    Args:
        groups: [N] group of each candidate, as :func:`join_small_groups` gives them.
        num_picks: k.
        rng: Of plays and picks.
    """
    bandit = Thompson(_num_groups(groups), rng=rng)
    return GroupPolicy(bandit, groups_N=groups, num_picks=num_picks, rng=rng)


def join_small_groups(
    groups: NDArray[np.int64],
    *,
    num_picks: int,
    generations: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """[N] groups from 0 to G - 1, each of which always has a batch's worth of candidates on offer.

    A group with fewer than k could never be played. As long as there is one, the smallest group is
    joined with the next smallest, ties by label. So no candidate is lost, the small are joined with
    the small, and of the groups that are large enough as they are at most one takes others in.

    Args:
        groups: [N] label of each candidate's group.
        num_picks: k.
        generations: [N] generation of each candidate where a pool renews those on offer: 0 is
            always on offer, the others one at a time. A group is as small as it is in the
            generation that leaves it fewest.
    """
    members_N = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    counts = _counts_on_offer(members_N, generations)
    joined_G = np.arange(len(counts))
    while len(left := np.unique(joined_G)) > 1:
        sizes = counts[left].min(axis=1)
        smallest, next_smallest = np.argsort(sizes, kind="stable")[:2]
        if sizes[smallest] >= num_picks:
            break
        kept, gone = sorted((left[smallest], left[next_smallest]))
        counts[kept] += counts[gone]
        joined_G[joined_G == gone] = kept
    assert counts[joined_G].min() >= num_picks, "whatever is on offer fills a batch"
    return np.unique(joined_G[members_N], return_inverse=True)[1].astype(np.int64)


def _counts_on_offer(
    members_N: NDArray[np.int64], generations: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """[G, generations] candidates of each group that are on offer with each generation."""
    if generations is None:
        return np.bincount(members_N)[:, None]
    shape = _num_groups(members_N), int(generations.max()) + 1
    counts = np.bincount(members_N * shape[1] + generations, minlength=shape[0] * shape[1])
    by_generation = counts.reshape(shape)
    return by_generation[:, :1] + by_generation[:, 1:]


def _num_groups(groups_N: NDArray[np.int64]) -> int:
    """G of groups from 0 to G - 1."""
    return int(groups_N.max()) + 1
