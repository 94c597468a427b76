"""Intervals and p-values for a mean over a few seeds or over many test items, by the bootstrap.

The interval is BCa (bias-corrected and accelerated; Efron 1987, JASA 82:171), which follows the
skew of the samples. With a handful of seeds it is too narrow, since a resample's variance is
(n - 1) / n of the samples' and its quantiles are those of a normal rather than of Student's
distribution: of 95 % intervals of 5 normal samples 83 % hold the true mean, of 3 samples 73 %. So
the distance of each end to the mean is widened by Student's quantile over the normal one, times the
square root of n / (n - 1); both corrections are Hesterberg's (2015, The American Statistician
69:371), who applies them to levels, which with 5 samples cannot reach beyond the smallest one. Then
94 % of the intervals hold it, with 5 samples and with 3. `python -m raise_mdit.benchmarks.coverage`
measures that, for skewed samples too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from raise_mdit.statistics import CONFIDENCE, Interval, interval_without_spread

NUM_RESAMPLES = 10_000
SMALLEST_P = 1e-6
"""p-values are told down to this; a smaller one is set to it."""
BLOCK = 4_000_000
"""Counts that are held as numbers of 8 bytes at a time."""


class MeanBootstrap:
    """The bootstrap distribution of a mean, and what it says.

    Resamples are drawn from a generator with a fixed seed: the same samples give the same interval.
    """

    def __init__(self, values: Sequence[float], *, resamples: int = NUM_RESAMPLES) -> None:
        """Draw the resamples.

        Args:
            values: [n] finite samples that are not all equal, at least two.
            resamples: How many.
        """
        assert len(values) > 1, "one sample has no spread"
        samples = np.asarray(values, np.float64)
        assert np.isfinite(samples).all(), "samples are finite"
        assert samples.min() < samples.max(), "equal samples have no spread"
        self._mean = float(samples.mean())
        self._size = len(samples)
        self._sorted = np.sort(_resampled_means(samples - self._mean, resamples))
        self._bias = _bias(self._sorted)
        self._acceleration = _acceleration(samples)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Both ends of the widened BCa interval.

        Args:
            confidence: Share of such intervals that hold the true mean, between 0 and 1.
        """
        assert 0 < confidence < 1, f"confidence {confidence} is not between 0 and 1"
        upper = (1 + confidence) / 2
        levels = [self._level(float(ndtri(side))) for side in (1 - upper, upper)]
        low, high = np.quantile(self._sorted, levels)
        factor = widening(self._size, confidence)
        return self._mean + factor * float(low), self._mean + factor * float(high)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of a true mean of zero: 1 minus the widest confidence that excludes it.

        It agrees with :meth:`interval`: below 0.05 where the 95 % interval leaves out zero. Two
        samples have few resamples, and never more than 0.5.
        """
        excluded, included = 0.0, 1 - SMALLEST_P
        if self._excludes_zero(included):
            return SMALLEST_P
        while included - excluded > SMALLEST_P / 2:
            middle = (excluded + included) / 2
            if self._excludes_zero(middle):
                excluded = middle
            else:
                included = middle
        return 1 - excluded

    def _excludes_zero(self, confidence: float) -> bool:
        low, high = self.interval(confidence)
        return low > 0 or high < 0

    def _level(self, z: float) -> float:
        """The level at which the sorted resamples are read for a normal quantile."""
        shifted = self._bias + z
        return float(ndtr(self._bias + shifted / (1 - self._acceleration * shifted)))


def bootstrap_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The widened BCa interval of the mean.

    One sample has no spread and therefore no interval, nor have samples that are not all finite.
    Equal samples give an interval without width.

    Args:
        values: One number a seed, at least one.
        confidence: Share of such intervals that hold the true mean, between 0 and 1.
    """
    without_spread = interval_without_spread(values)
    if without_spread is not None:
        return without_spread
    low, high = MeanBootstrap(values).interval(confidence)
    return Interval(math.fsum(values) / len(values), low, high, len(values))


def zero_mean_p_value(values: Sequence[float]) -> float | None:
    """The p-value of a true mean of zero; None where there is no interval either.

    Samples that are all equal leave no doubt: 1 for zeros, else the smallest that is told.
    """
    without_spread = interval_without_spread(values)
    if without_spread is None:
        return MeanBootstrap(values).p_value
    if without_spread.low is None:
        return None
    return 1.0 if without_spread.mean == 0 else SMALLEST_P


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979, Scandinavian Journal of Statistics 6:65).

    Rejecting those below 0.05 errs in any of them with a probability of at most 0.05.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def widening(size: int, confidence: float) -> float:
    """What the distance of each end of a plain BCa interval to the mean is multiplied by.

    Args:
        size: Samples, at least two.
        confidence: Of the interval, between 0 and 1.
    """
    upper = (1 + confidence) / 2
    student = float(stdtrit(size - 1, upper)) / float(ndtri(upper))
    return student * math.sqrt(size / (size - 1))


def samples_to_settle(values: Sequence[float], *, level: float, most: int) -> int | None:
    """How many samples in all would tell the mean from zero, were it and the spread as seen so far.

    The smallest n at which Student's half-width at that level is below the mean's distance to zero.
    New samples have another mean: if the one so far is the true one, about every second experiment
    of that size finds it.

    Args:
        values: [n] finite samples so far, at least two.
        level: Probability of a false finding, such as 0.05 over the number of comparisons.
        most: Where to stop.

    Returns:
        The number, at least two; None where more than ``most`` would be needed.
    """
    assert len(values) > 1, "one sample has no spread"
    mean, spread = abs(float(np.mean(values))), float(np.std(values, ddof=1))
    sizes = np.arange(2, most + 1)
    half_widths = stdtrit(sizes - 1, 1 - level / 2) * spread / np.sqrt(sizes)
    enough = np.flatnonzero(half_widths < mean)
    return int(sizes[enough[0]]) if len(enough) else None


def _resampled_means(deviations: NDArray[np.float64], resamples: int) -> NDArray[np.float64]:
    """[R] mean of each resample of deviations from the mean."""
    size = len(deviations)
    counts = _counts(size, resamples)
    blocks = np.array_split(counts, max(1, counts.size // BLOCK))
    return np.concatenate([block.astype(np.float64) @ deviations for block in blocks]) / size


@lru_cache(maxsize=8)
def _counts(size: int, resamples: int) -> NDArray[np.uint16]:
    """[R, n] how often each sample is in each resample."""
    rng = np.random.default_rng(size)
    counts = np.empty((resamples, size), np.uint16)
    for block in np.array_split(counts, max(1, counts.size // BLOCK)):
        drawn = rng.integers(0, size, block.shape) + size * np.arange(len(block))[:, None]
        block[:] = np.bincount(drawn.ravel(), minlength=block.size).reshape(block.shape)
    return counts


def _bias(sorted_R: NDArray[np.float64]) -> float:
    """Normal quantile of the share of resampled deviations below zero; ties count half."""
    scale = float(np.abs(sorted_R).max())
    ties = 1e-9 * scale  # sums in another order differ by a last digit
    below = np.searchsorted(sorted_R, -ties, "left") + np.searchsorted(sorted_R, ties, "right")
    share = below / 2 / len(sorted_R)
    edge = 0.5 / len(sorted_R)
    return float(ndtri(min(max(share, edge), 1 - edge)))


def _acceleration(samples: NDArray[np.float64]) -> float:
    """A sixth of the skewness of the jackknife's values (Efron 1987, equation 6.6)."""
    influence = samples - samples.mean()  # leaving one out moves the mean by -influence / (n - 1)
    return float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
