"""Agreement of two learners: ranks against scipy, the interval by simulation, gains by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from raise_mdit import agreement
from raise_mdit.agreement import Agreement, rank_agreement, rank_correlation
from raise_mdit.config import LearnerConfig, TopLayersConfig
from raise_mdit.core import Cost, EncodedRow, Evaluation, UpdateStats
from raise_mdit.learners.causal_lm import build_learner
from raise_mdit.statistics import Interval

Make = Callable[..., Any]


class Stepping:
    """A learner whose loss falls by what each row is worth, times the progress left."""

    def __init__(self, worth: dict[str, float]) -> None:
        self._worth = worth
        self.loss = 10.0

    def update(self, batch: Sequence[EncodedRow], *, progress: float) -> UpdateStats:
        self.loss -= (1 - progress) * sum(self._worth[row.key] for row in batch)
        return UpdateStats(self.loss, Cost(tokens=1))

    def evaluate(self, items: Sequence[EncodedRow]) -> Evaluation:
        every = np.full(len(items), self.loss)
        return Evaluation(self.loss, every, every > 0, Cost(tokens=100))

    def snapshot(self) -> object:
        return self.loss

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, float)
        self.loss = snapshot


def test_gains_are_measured_from_the_same_start_by_hand(random_rows: Make) -> None:
    rows = random_rows(3)
    keys = [row.key for row in rows]
    first = Stepping(dict(zip(keys, (1.0, 2.0, 4.0), strict=True)))
    second = Stepping(dict(zip(keys, (4.0, 2.0, 1.0), strict=True)))
    probes = [[[row]] for row in rows] + [[[rows[0]], [rows[1], rows[2]]]]  # two steps at last

    found = rank_agreement(first, second, probes, rows, rng=np.random.default_rng(0))

    assert found.first_gains_P.tolist() == [1.0, 2.0, 4.0, 1.0 + 0.5 * 6.0]
    assert found.second_gains_P.tolist() == [4.0, 2.0, 1.0, 4.0 + 0.5 * 3.0]
    assert found.first_cost == found.second_cost == Cost(tokens=5 * 100 + 5)
    expected = spearmanr(found.first_gains_P, found.second_gains_P).statistic
    assert found.correlation.mean == pytest.approx(expected)
    assert found.correlation.num_samples == 4
    assert (first.loss, second.loss) == (10.0, 10.0)


def test_a_learner_agrees_with_itself_and_both_return_to_their_start(
    random_llama: Make, random_rows: Make
) -> None:
    config = LearnerConfig(trainable=TopLayersConfig(kind="top_layers", layers=1))
    first, second = (
        build_learner(random_llama(), config, precision="float32", seed=0) for _ in range(2)
    )
    rows = random_rows(12)
    before = [learner.evaluate(rows).loss for learner in (first, second)]
    probes = [[rows[i : i + 2], rows[i + 2 : i + 3]] for i in range(0, 12, 3)]

    found = rank_agreement(first, second, probes, rows, rng=np.random.default_rng(0))

    assert found.correlation.mean == 1.0
    assert found.first_gains_P.tolist() == found.second_gains_P.tolist()
    assert [learner.evaluate(rows).loss for learner in (first, second)] == before


@pytest.mark.parametrize("levels", [3, 10**6], ids=["ties", "no-ties"])
@pytest.mark.parametrize("seed", range(5))
def test_the_correlation_is_scipys(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, levels, 20).astype(np.float64)
    second = first / levels + rng.integers(0, levels, 20) / levels

    found = rank_correlation(first, second, rng)

    assert found.mean == pytest.approx(spearmanr(first, second).statistic)
    assert found.low is not None
    assert found.high is not None
    assert -1 - 1e-9 <= found.low <= found.mean <= found.high <= 1 + 1e-9


def test_a_constant_side_correlates_with_nothing() -> None:
    found = rank_correlation(np.ones(5), np.arange(5.0), np.random.default_rng(0))

    assert found == Interval(0.0, 0.0, 0.0, 5)


def test_the_interval_holds_the_true_correlation_as_often_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agreement, "RESAMPLES", 400)
    rng, repetitions, slope = np.random.default_rng(0), 300, 0.6
    true = 6 / math.pi * math.asin(slope / 2)  # of a bivariate normal (Pearson 1907)
    held = 0

    for _ in range(repetitions):
        first, noise = rng.normal(size=(2, 30))
        found = rank_correlation(first, slope * first + math.sqrt(1 - slope**2) * noise, rng)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= true <= found.high

    assert 0.91 <= held / repetitions <= 0.98


@pytest.mark.parametrize(
    ("low", "expected"),
    [
        (
            0.25,
            "Proxy learner: it ranks candidates as the learner does (rank correlation 0.50, 95 % "
            "interval 0.25 to 0.75, over 16 short fine-tunings).",
        ),
        (
            -0.25,
            "Proxy learner: it is not shown to rank candidates as the learner does (rank "
            "correlation 0.50, 95 % interval -0.25 to 0.75, over 16 short fine-tunings); what a "
            "policy learns from it may not carry over.",
        ),
    ],
)
def test_a_sentence_says_whether_the_proxy_will_do(low: float, expected: str) -> None:
    nothing = np.zeros(16)
    found = Agreement(Interval(0.5, low, 0.75, 16), nothing, nothing, Cost(), Cost())

    assert found.sentence == expected
