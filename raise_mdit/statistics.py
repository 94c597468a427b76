"""Intervals over seeds: what a handful of runs says about a mean or a trend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
"""Share of intervals that hold the true mean, were the experiment repeated."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the range that holds the true one."""

    mean: float
    low: float | None
    """Lower end; None where there are too few finite samples to say."""
    high: float | None
    """Upper end, or None like ``low``."""
    num_samples: int

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval is negative."""
        return self.high is not None and self.high < 0

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is positive."""
        return self.low is not None and self.low > 0


def student_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The interval of Student (1908, Biometrika 6:1) for the mean of a few normal samples.

    One sample has no spread and therefore no interval, nor have samples that are not all finite.
    Equal samples give an interval without width.

    Args:
        values: One number a seed, at least one.
        confidence: Share of such intervals that hold the true mean, between 0 and 1.
    """
    assert 0 < confidence < 1, f"confidence {confidence} is not between 0 and 1"
    without_spread = interval_without_spread(values)
    if without_spread is not None:
        return without_spread
    mean = math.fsum(values) / len(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return _around(mean, error, len(values) - 1, len(values), confidence)


def interval_without_spread(values: Sequence[float]) -> Interval | None:
    """What can be said of a mean whose samples have no spread; None where they have one.

    Args:
        values: At least one.
    """
    assert values, "a mean needs a sample"
    if len(values) == 1 or not all(map(math.isfinite, values)):
        return Interval(sum(values) / len(values), None, None, len(values))
    if min(values) == max(values):  # their average may be off by a last digit, and so have a spread
        return Interval(values[0], values[0], values[0], len(values))
    return None


def slope_interval(series: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> Interval:
    """The least-squares slope of a number against its position, with an interval.

    Several series (one a seed) give the mean of their slopes with the interval over seeds. A single
    one gives the classical interval of the regression, which is too narrow where its residuals
    follow each other.

    Args:
        series: One sequence a seed, of at least three finite numbers each.
        confidence: As in :func:`student_interval`.
    """
    assert series, "a slope needs a series"
    fits = [_least_squares(values) for values in series]
    if len(fits) > 1:
        return student_interval([slope for slope, _ in fits], confidence)
    slope, error = fits[0]
    return _around(slope, error, len(series[0]) - 2, len(series[0]), confidence)


def _around(
    mean: float, error: float, freedom: int, num_samples: int, confidence: float
) -> Interval:
    # stdtrit is what scipy.stats.t.ppf calls; scipy.stats itself takes far longer to import.
    margin = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return Interval(mean, mean - margin, mean + margin, num_samples)


def _least_squares(values: Sequence[float]) -> tuple[float, float]:
    """Slope and its standard error."""
    assert len(values) > 2, "a slope with an error needs three points"
    heights = np.asarray(values, np.float64)
    places = np.arange(len(heights)) - (len(heights) - 1) / 2
    spread = float(places @ places)
    slope = float(places @ heights) / spread
    residuals = heights - heights.mean() - slope * places
    return slope, math.sqrt(float(residuals @ residuals) / (len(heights) - 2) / spread)
