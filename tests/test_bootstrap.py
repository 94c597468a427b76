"""Intervals and p-values of a mean: against other implementations, by simulation and by laws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from raise_mdit.bootstrap import (
    SMALLEST_P,
    MeanBootstrap,
    bootstrap_interval,
    holm,
    samples_to_settle,
    widening,
    zero_mean_p_value,
)
from raise_mdit.statistics import Interval

EXPERIMENTS = 2000
SKEWED = [0.1, 0.2, 0.15, 0.9, 0.3, 2.5, 0.05, 0.4]

numbers = st.integers(-1000, 1000).map(lambda number: number / 64)
FEW = settings(deadline=None, max_examples=30)
samples_of_few = st.lists(numbers, min_size=2, max_size=12).filter(lambda few: len(set(few)) > 1)


def plain_ends(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The interval without its widening, of many resamples."""
    mean, factor = float(np.mean(values)), widening(len(values), confidence)
    low, high = MeanBootstrap(values, resamples=100_000).interval(confidence)
    return mean + (low - mean) / factor, mean + (high - mean) / factor


# --- The interval.


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(
    "values", [SKEWED, [-each for each in SKEWED], [*np.sin(range(15))], [*np.geomspace(1, 99, 30)]]
)
def test_without_widening_it_is_the_bca_interval_of_scipy(
    values: list[float], confidence: float
) -> None:
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        method="BCa",
        n_resamples=100_000,
        confidence_level=confidence,
        rng=np.random.default_rng(1),
        batch=10_000,
    ).confidence_interval
    width = theirs.high - theirs.low

    low, high = plain_ends(values, confidence)

    # Two percent: of 100,000 resamples the bias is known to 0.004, and so are both ends.
    assert low == pytest.approx(theirs.low, abs=0.02 * width)
    assert high == pytest.approx(theirs.high, abs=0.02 * width)


def test_the_correction_for_skew_moves_both_ends() -> None:
    """Or what agrees with scipy above might be the percentile interval."""
    low, high = plain_ends(SKEWED)
    means = np.random.default_rng(0).choice(SKEWED, (100_000, len(SKEWED))).mean(axis=1)

    assert [low, high] > list(np.quantile(means, [0.035, 0.985]))


@pytest.mark.parametrize(("size", "confidence"), [(2, 0.95), (5, 0.95), (5, 0.5), (400, 0.99)])
def test_the_widening_is_that_of_student_and_of_the_unbiased_variance(
    size: int, confidence: float
) -> None:
    level = (1 + confidence) / 2
    quantiles = stats.t(size - 1).ppf(level) / stats.norm.ppf(level)

    assert widening(size, confidence) == pytest.approx(quantiles * np.sqrt(size / (size - 1)))


def held_shares(num_seeds: int) -> tuple[float, float]:
    """Shares of 95 % intervals of normal samples that hold the mean: widened, and plain."""
    rng = np.random.default_rng(7)
    factor = widening(num_seeds, 0.95)
    widened = plain = 0
    for _ in range(EXPERIMENTS):
        samples = rng.normal(3.0, 2.0, num_seeds)
        low, high = MeanBootstrap(samples.tolist()).interval()
        error = 3.0 - samples.mean()
        widened += low <= 3.0 <= high
        plain += low - samples.mean() <= factor * error <= high - samples.mean()
    return widened / EXPERIMENTS, plain / EXPERIMENTS


def test_with_five_seeds_95_of_100_intervals_hold_the_truth_and_plain_bca_would_not() -> None:
    widened, plain = held_shares(5)

    assert 0.93 <= widened <= 0.97
    assert plain < 0.85


def test_with_three_seeds_94_of_100_intervals_hold_the_truth() -> None:
    widened, plain = held_shares(3)

    assert 0.92 <= widened <= 0.96
    assert plain < 0.77


def test_with_two_seeds_the_interval_is_the_range_widened() -> None:
    """A quarter of all resamples are the smaller sample twice, and a quarter the larger."""
    low, high = MeanBootstrap([1.0, 4.0]).interval()

    assert (low, high) == pytest.approx(
        (2.5 - 1.5 * widening(2, 0.95), 2.5 + 1.5 * widening(2, 0.95))
    )


def test_many_normal_samples_have_nearly_students_interval() -> None:
    samples = np.random.default_rng(3).normal(1.0, 0.5, 200)
    student = stats.t.interval(0.95, 199, samples.mean(), stats.sem(samples))

    found = MeanBootstrap(samples.tolist()).interval()

    assert found == pytest.approx(student, abs=0.05 * (student[1] - student[0]))


def test_a_thousand_items_are_counted_in_blocks_as_they_would_be_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = np.random.default_rng(2).exponential(size=37).tolist()
    at_once = MeanBootstrap(samples, resamples=3000).interval()
    monkeypatch.setattr("raise_mdit.bootstrap.BLOCK", 1000)

    in_blocks = MeanBootstrap(samples, resamples=3001).interval()

    assert in_blocks == pytest.approx(at_once, abs=0.1)


def test_the_interval_is_the_same_every_time() -> None:
    first = MeanBootstrap(SKEWED).interval()
    MeanBootstrap([1.0, 2.0, 4.0]).interval()

    assert MeanBootstrap(SKEWED).interval() == first


@given(samples_of_few, st.integers(-20, 20), numbers)
@FEW
def test_the_interval_goes_along_with_scale_and_origin(
    values: list[float], exponent: int, shift: float
) -> None:
    scale = 2.0**exponent
    low, high = MeanBootstrap(values).interval()

    moved = MeanBootstrap([scale * value + shift for value in values]).interval()

    size = max(map(abs, (*values, low, high))) * scale + abs(shift)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-9 * size)


@given(samples_of_few)
@FEW
def test_a_change_of_sign_mirrors_the_interval(values: list[float]) -> None:
    """Exactly: the resamples are drawn by place, and both levels mirror each other."""
    low, high = MeanBootstrap(values).interval()

    mirrored = MeanBootstrap([-value for value in values]).interval()

    assert mirrored == pytest.approx((-high, -low), abs=1e-9 * max(map(abs, (low, high))))


@given(samples_of_few, st.floats(0.5, 0.99), st.floats(0.5, 0.99))
@FEW
def test_more_confidence_is_never_a_narrower_interval(
    values: list[float], one: float, other: float
) -> None:
    bootstrap = MeanBootstrap(values)
    (wide_low, wide_high), (low, high) = map(bootstrap.interval, sorted((one, other), reverse=True))

    assert wide_low <= low + 1e-12
    assert wide_high >= high - 1e-12


# --- The p-value.


@given(samples_of_few, st.sampled_from([0.01, 0.05, 0.2]))
@example([0.2, 0.3, 0.1, 0.25], 0.05)
@FEW
def test_p_is_below_a_level_where_the_interval_leaves_out_zero(
    values: list[float], level: float
) -> None:
    bootstrap = MeanBootstrap(values)
    low, high = bootstrap.interval(1 - level)
    assume(abs(bootstrap.p_value - level) > 2 * SMALLEST_P)

    assert (bootstrap.p_value < level) == (low > 0 or high < 0)


def p_values_of(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([MeanBootstrap(row).p_value for row in samples.tolist()])


@pytest.mark.parametrize("size", [5, 30])
def test_p_values_are_uniform_where_there_is_no_difference(size: int) -> None:
    p_values = p_values_of(np.random.default_rng(5).normal(size=(200, size)))

    distance, _ = stats.kstest(p_values, "uniform")
    assert distance < 0.115  # exceeded once in a hundred, were they exactly uniform


def test_p_values_of_normal_samples_are_near_those_of_students_test() -> None:
    rng = np.random.default_rng(6)
    samples = rng.normal(size=(60, 30)) + rng.normal(0.0, 0.4, (60, 1))
    theirs = stats.ttest_1samp(samples, 0.0, axis=1).pvalue

    ours = p_values_of(samples)

    assert np.abs(ours - theirs).max() < 0.06
    small = (theirs > 1e-4) & (theirs < 0.1)
    assert small.sum() > 10
    assert np.median(np.abs(np.log(ours[small] / theirs[small]))) < np.log(1.5)


@pytest.mark.parametrize("p_value", [0.5, 0.1, 0.05, 0.01])
def test_without_skew_the_p_value_is_that_of_students_test(p_value: float) -> None:
    samples = stats.norm.ppf((np.arange(30) + 0.5) / 30)
    shift = stats.t(29).isf(p_value / 2) * stats.sem(samples)

    assert MeanBootstrap((samples + shift).tolist()).p_value == pytest.approx(p_value, rel=0.2)


def test_two_samples_of_one_sign_are_no_evidence_and_six_are() -> None:
    p_of_two, p_of_six = zero_mean_p_value([-0.1, -0.3]), zero_mean_p_value([-0.1, -0.3] * 3)

    assert p_of_two is not None
    assert p_of_two > 0.05
    assert p_of_six is not None
    assert p_of_six < 0.05


def test_what_is_beyond_doubt_has_the_smallest_p() -> None:
    assert MeanBootstrap([1.0, 1.0 + 1e-9, 1.0 - 1e-9] * 5).p_value == SMALLEST_P


# --- What has no bootstrap.


def test_equal_samples_have_an_interval_without_width() -> None:
    assert bootstrap_interval([0.1, 0.1, 0.1]) == Interval(0.1, 0.1, 0.1, 3)
    assert zero_mean_p_value([0.1, 0.1]) == SMALLEST_P
    assert zero_mean_p_value([0.0, 0.0]) == 1.0


def test_one_sample_has_no_interval() -> None:
    assert bootstrap_interval([0.3]) == Interval(0.3, None, None, 1)
    assert zero_mean_p_value([0.3]) is None


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_have_no_interval(lost: float) -> None:
    found = bootstrap_interval([1.0, lost, 2.0])

    assert (found.low, found.high, found.num_samples) == (None, None, 3)
    assert not math.isfinite(found.mean)
    assert zero_mean_p_value([1.0, lost, 2.0]) is None


def test_an_interval_has_its_mean_and_number_of_samples() -> None:
    values = [0.1] * 9 + [0.2]
    low, high = MeanBootstrap(values).interval(0.9)

    assert bootstrap_interval(values, 0.9) == Interval(math.fsum(values) / 10, low, high, 10)


# --- Several p-values.


def closed_bonferroni(p_values: Sequence[float]) -> list[float]:
    """Holm by its definition: the largest of Bonferroni's over all sets that hold a hypothesis."""
    places = range(len(p_values))
    sets = [chosen for size in places for chosen in combinations(places, size + 1)]
    return [
        max(
            min(1.0, len(chosen) * min(p_values[at] for at in chosen))
            for chosen in sets
            if place in chosen
        )
        for place in places
    ]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7]) == [0.7]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5))
@example([0.01, 0.01, 0.5])
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(closed_bonferroni(p_values), abs=1e-12)


# --- How many samples it takes.


@given(
    st.lists(numbers, min_size=2, max_size=8),
    st.sampled_from([0.05, 0.05 / 7]),
    st.integers(2, 100),
)
@FEW
def test_samples_that_settle_it_are_counted_one_by_one(
    values: list[float], level: float, most: int
) -> None:
    spread, mean = np.std(values, ddof=1), abs(np.mean(values))
    sizes = (
        size
        for size in range(2, most + 1)
        if stats.t.isf(level / 2, size - 1) * spread / math.sqrt(size) < mean * (1 - 1e-12)
    )

    assert samples_to_settle(values, level=level, most=most) == next(sizes, None)


def test_equal_samples_settle_it_at_once_unless_they_are_zero() -> None:
    assert samples_to_settle([0.5, 0.5], level=0.05, most=100) == 2
    assert samples_to_settle([0.0, 0.0], level=0.05, most=100) is None


def test_with_that_many_samples_every_second_experiment_finds_the_difference() -> None:
    """The mean then lies at the edge: that is what *were it as seen so far* promises."""
    rng = np.random.default_rng(8)
    wanted = samples_to_settle([-0.1, 1.1], level=0.05, most=1000)  # mean 0.5, deviation 0.849
    assert wanted is not None

    drawn = rng.normal(0.5, np.std([-0.1, 1.1], ddof=1), (20_000, wanted))

    found = stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05
    assert 0.45 < found.mean() < 0.6
