import math

import numpy as np
import pytest
from scipy import stats

from raise_mdit.statistics import Interval, slope_interval, student_interval


def test_interval_by_hand() -> None:
    # Mean 2, standard deviation 1, error 1/sqrt(3); t of 2 degrees of freedom at 0.975 is 4.302653.
    interval = student_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.low == pytest.approx(2.0 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.high == pytest.approx(2.0 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.num_samples == 3


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_interval_equals_that_of_scipy(confidence: float) -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=7)
    expected = stats.t.interval(confidence, 6, loc=values.mean(), scale=stats.sem(values))
    interval = student_interval(values.tolist(), confidence)
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-12)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = [student_interval(rng.normal(5.0, 3.0, size=4).tolist()) for _ in range(4000)]
    covered = sum(
        i.low <= 5.0 <= i.high for i in intervals if i.low is not None and i.high is not None
    )
    assert covered / 4000 == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_one_sample_has_no_interval() -> None:
    assert student_interval([1.5]) == Interval(1.5, None, None, 1)


def test_equal_samples_have_an_interval_without_width() -> None:
    assert student_interval([0.1, 0.1, 0.1]) == Interval(0.1, 0.1, 0.1, 3)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_sample_that_is_not_finite_leaves_no_interval(value: float) -> None:
    interval = student_interval([1.0, value, 2.0])
    assert not math.isfinite(interval.mean)
    assert (interval.low, interval.high, interval.num_samples) == (None, None, 3)


def test_infinities_of_both_signs_have_no_mean() -> None:
    assert math.isnan(student_interval([math.inf, -math.inf]).mean)


@pytest.mark.parametrize(
    ("low", "high", "below", "above"),
    [(-2.0, -1.0, True, False), (1.0, 2.0, False, True), (-1.0, 1.0, False, False)],
)
def test_side_of_zero(low: float, high: float, below: bool, above: bool) -> None:
    interval = Interval((low + high) / 2, low, high, 3)
    assert (interval.is_below_zero, interval.is_above_zero) == (below, above)


def test_interval_that_touches_zero_is_on_neither_side() -> None:
    interval = Interval(0.0, 0.0, 0.0, 2)
    assert not interval.is_below_zero
    assert not interval.is_above_zero


def test_slope_of_one_series_equals_that_of_scipy() -> None:
    heights = np.random.default_rng(2).normal(size=20) + 0.3 * np.arange(20)
    fit = stats.linregress(np.arange(20), heights)
    margin = stats.t.ppf(0.975, 18) * fit.stderr
    interval = slope_interval([heights.tolist()])
    assert interval.mean == pytest.approx(fit.slope)
    assert (interval.low, interval.high) == pytest.approx((fit.slope - margin, fit.slope + margin))


def test_slope_of_several_series_has_its_interval_over_series() -> None:
    series = [[0.0, slope, 2 * slope] for slope in (1.0, 2.0, 3.0)]
    interval, expected = slope_interval(series), student_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.low) == pytest.approx((expected.mean, expected.low))
    assert interval.num_samples == 3
