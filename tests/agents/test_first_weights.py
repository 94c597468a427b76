"""What a scorer begins as, against the rankings and regressions that it should follow."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raise_mdit.agents.first_weights import weights_of_ranking, weights_of_regression

RNG = np.random.default_rng(0)
FEATURES = (RNG.normal(size=(50, 4)) * [1, 10, 0.1, 0]).astype(np.float32)
LEARNED = np.array([0.2, -0.01, 3.0, 5.0, -0.7])
"""Of the features and, last, of availability."""


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_one_use_costs_a_ranking_four_deviations(strength: float) -> None:
    weights = weights_of_ranking(4, 1, strength=strength)

    assert weights.tolist()[:3] == [0, strength, 0]
    assert weights[-1] * math.log1p(1) == pytest.approx(-4 * strength)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_regression_is_followed_in_any_unit(unit: float) -> None:
    weights = weights_of_regression(LEARNED * unit, FEATURES, strength=3.0)

    assert (FEATURES @ weights[:4]).std() == pytest.approx(3.0, rel=1e-5)
    assert weights / weights[0] == pytest.approx(LEARNED / LEARNED[0])
    assert weights[0] > 0


@pytest.mark.parametrize("signal", [0.0, 0.01, 9.0])
def test_a_signal_that_is_no_column_of_the_pool_is_scaled_like_the_rest(signal: float) -> None:
    """It has a deviation of 1 in its window, whatever the pool is."""
    with_signal = np.insert(LEARNED, 4, signal)

    weights = weights_of_regression(with_signal, FEATURES, strength=3.0)

    assert weights / weights[0] == pytest.approx(with_signal / LEARNED[0])
    signals = np.random.default_rng(1).normal(size=(1000, 1))
    scores = FEATURES @ weights[:4] + signals * weights[4]  # [1000, 50]
    assert scores.std() == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("learned", [np.zeros(5), np.array([0.0, 0.0, 0.0, 1.0, 0.0])])
def test_a_regression_that_tells_no_two_candidates_apart_is_uniform(
    learned: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> None:
    assert weights_of_regression(learned, FEATURES, strength=3.0).tolist() == [0] * 5
