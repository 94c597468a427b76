"""Rewards on fewer items: which items stand for all of reward-validation, and what that costs.

Items are drawn by strata in proportion to their sizes, once for an experiment, so that every step,
episode, policy and seed is measured on the same ones. Stratified estimates and their variance:
Cochran 1977, Sampling Techniques, 3rd edition, sections 5.3 to 5.6.

Where reward-validation has several targets, they count alike if asked: each as its loss over that
before training.

Shapes: ``I`` items of reward-validation, ``G`` targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raise_mdit.core import EncodedRow, Evaluation


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Which target each item is of."""

    numbers: NDArray[np.int64]
    """[I] target of each item, from 0; each has one at least."""
    scored: NDArray[np.int64]
    """[I] scored tokens of each item."""

    @classmethod
    def of(cls, items: Sequence[EncodedRow], numbers: NDArray[np.int64]) -> Targets:
        """Those of encoded items.

        Raises:
            ValueError: There is not one number an item, or a number from 0 is left out.
        """
        if len(numbers) != len(items) or not np.bincount(numbers).all():
            raise ValueError(
                f"targets are one number from 0 for each of {len(items)} items, "
                f"got {len(numbers)}: {sorted(set(numbers.tolist()))}"
            )
        return cls(numbers, np.array([item.num_scored for item in items]))

    def losses(self, evaluation: Evaluation) -> NDArray[np.float64]:
        """[G] mean loss per scored token of each target, in nats."""
        sums = np.bincount(self.numbers, weights=self.scored * evaluation.item_losses)
        losses: NDArray[np.float64] = sums / np.bincount(self.numbers, weights=self.scored)
        return losses

    def ratio(self, evaluation: Evaluation, before: Evaluation) -> float:
        """Mean over targets of loss over the loss before."""
        return float((self.losses(evaluation) / self.losses(before)).mean())


def stratified_items(
    strata: Sequence[str], num_items: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Ascending positions of the items that stand for all.

    Every stratum gives its share of ``num_items``, rounded by largest remainders, ties by name.

    Args:
        strata: Stratum of each item, such as its task.
        num_items: How many are drawn, at most all.
        rng: Of the draws.
    """
    labels = np.asarray(strata)
    names, sizes = np.unique(labels, return_counts=True)
    quotas, remainders = np.divmod(num_items * sizes, len(labels))
    for index in np.argsort(-remainders, kind="stable")[: num_items - int(quotas.sum())]:
        quotas[index] += 1
    drawn = [
        rng.choice(np.flatnonzero(labels == name), quota, replace=False)
        for name, quota in zip(names, quotas, strict=True)
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def mean_by_step(gains: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """[T] mean gain at each step over episodes, which may differ in length."""
    longest = max(map(len, gains))
    by_step = [[row[step] for row in gains if len(row) > step] for step in range(longest)]
    return np.array([sum(values) / len(values) for values in by_step], np.float32)


def subset_error(gains_I: NDArray[np.float64], strata: Sequence[str], num_items: int) -> float:
    """Standard error of the mean gain when only ``num_items`` are measured, drawn by strata.

    Args:
        gains_I: Improvement of every item, from a measurement of all of them.
        strata: Stratum of each item.
        num_items: How many would be measured.
    """
    labels = np.asarray(strata)
    share = num_items / len(labels)
    variance = 0.0
    for name in np.unique(labels):
        gains = gains_I[labels == name]
        if len(gains) > 1:
            weight = len(gains) / len(labels)
            drawn = max(share * len(gains), 1.0)
            left_out = max(0.0, 1.0 - drawn / len(gains))
            variance += weight**2 * left_out * float(np.var(gains, ddof=1)) / drawn
    return math.sqrt(variance)
