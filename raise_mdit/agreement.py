"""Whether two learners agree on what is worth training on: asked before the dearer one is used.

Shapes: ``P`` probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from raise_mdit.core import Cost, EncodedRow, Learner
from raise_mdit.statistics import Interval

RESAMPLES = 10_000

Probe = Sequence[Sequence[EncodedRow]]
"""A short fine-tuning: the batches of its steps."""


class Agreement(NamedTuple):
    """How alike two learners rank the same fine-tunings."""

    correlation: Interval
    """Spearman's rank correlation of the gains, with its bootstrap interval over probes."""
    first_gains_P: NDArray[np.float64]
    """Validation loss that each probe takes off under the first learner."""
    second_gains_P: NDArray[np.float64]
    """The same under the second."""
    first_cost: Cost
    second_cost: Cost

    @property
    def sentence(self) -> str:
        """What a person needs to know before the second learner is used."""
        interval = self.correlation
        found = f"rank correlation {interval.mean:.2f}, 95 % interval {interval.low:.2f} to "
        found += f"{interval.high:.2f}, over {interval.num_samples} short fine-tunings"
        if interval.is_above_zero:
            return f"Proxy learner: it ranks candidates as the learner does ({found})."
        return (
            "Proxy learner: it is not shown to rank candidates as the learner does "
            f"({found}); what a policy learns from it may not carry over."
        )


def rank_agreement(
    first: Learner,
    second: Learner,
    probes: Sequence[Probe],
    items: Sequence[EncodedRow],
    *,
    rng: np.random.Generator,
) -> Agreement:
    """Fine-tune both learners on the same probes, each from its start, and compare the gains.

    Args:
        first: At its start, to which it returns.
        second: Likewise.
        probes: At least three.
        items: On which gains are measured.
        rng: Of the resamples.
    """
    first_gains, first_cost = _gains(first, probes, items)
    second_gains, second_cost = _gains(second, probes, items)
    correlation = rank_correlation(first_gains, second_gains, rng)
    return Agreement(correlation, first_gains, second_gains, first_cost, second_cost)


def rank_correlation(
    first_P: NDArray[np.float64], second_P: NDArray[np.float64], rng: np.random.Generator
) -> Interval:
    """Spearman's correlation with a percentile bootstrap interval (Efron 1979) over the pairs.

    A constant side has no ranks and correlates with nothing: 0.
    """
    assert len(first_P) == len(second_P) >= 3, "three pairs at least"
    draws = rng.integers(0, len(first_P), (RESAMPLES, len(first_P)))
    resampled = _spearman(first_P[draws], second_P[draws])
    low, high = np.quantile(resampled, [0.025, 0.975])
    mean = float(_spearman(first_P[None], second_P[None])[0])
    return Interval(mean, float(low), float(high), len(first_P))


def _spearman(first_RP: NDArray[np.float64], second_RP: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = [
        ranks - ranks.mean(axis=1, keepdims=True)
        for ranks in (rankdata(first_RP, axis=1), rankdata(second_RP, axis=1))
    ]
    norms = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    products = (centred[0] * centred[1]).sum(axis=1)
    quotients = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return np.asarray(quotients, np.float64)


def _gains(
    learner: Learner, probes: Sequence[Probe], items: Sequence[EncodedRow]
) -> tuple[NDArray[np.float64], Cost]:
    start = learner.snapshot()
    before = learner.evaluate(items)
    cost = before.cost
    gains = []
    for probe in probes:
        for step, batch in enumerate(probe):
            cost = cost.plus(learner.update(batch, progress=step / len(probe)).cost)
        after = learner.evaluate(items)
        cost = cost.plus(after.cost)
        gains.append(before.loss - after.loss)
        learner.restore(start)
    return np.array(gains), cost
