"""Agreement of loss and task metric: correlations by hand, verdicts by cases of each kind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from raise_mdit.agreement import rank_correlation
from raise_mdit.metric_agreement import MetricAgreement, Reached, metric_agreement


def agreement(pairs: Sequence[tuple[float, float]], seed: int = 0) -> MetricAgreement:
    reached = [Reached(f"policy-{index}", *pair) for index, pair in enumerate(pairs)]
    return metric_agreement(reached, metric="answer_match", rng=np.random.default_rng(seed))


def test_the_correlation_is_that_of_ranks_by_hand() -> None:
    # By loss from the least: metrics of ranks 3, 4, 2, 1 where 4, 3, 2, 1 would agree. With rank
    # differences 1, 1, 0, 0: 1 - 6 * 2 / (4 * 15) = 0.8.
    found = agreement([(1.0, 0.6), (1.1, 0.9), (1.2, 0.5), (5.0, 0.1)])

    assert found.correlation is not None
    assert found.correlation.mean == pytest.approx(0.8)
    assert found.correlation.num_samples == 4


def test_the_interval_is_the_bootstrap_over_models_in_sorted_order() -> None:
    pairs = [(1.0, 0.6), (1.1, 0.9), (1.2, 0.5), (5.0, 0.1)]
    losses, metrics = np.array(pairs).T

    expected = rank_correlation(-losses, metrics, np.random.default_rng(3))

    assert agreement(pairs, seed=3).correlation == expected


def test_less_loss_with_better_answers_agrees() -> None:
    found = agreement([(1.0 + i / 10, 0.9 - i / 20) for i in range(8)])

    assert (found.verdict, found.warns) == ("agree", False)
    assert found.sentence == (
        "Loss and task metric: models with less loss have more answer_match (rank correlation "
        "1.00, 95 % interval 1.00 to 1.00, over 8 models)."
    )


def test_less_loss_with_worse_answers_is_a_warning() -> None:
    found = agreement([(1.0 + i / 10, 0.1 + i / 20) for i in range(8)])

    assert (found.verdict, found.warns) == ("disagree", True)
    assert found.sentence.startswith(
        "Loss and task metric disagree: models with less loss have less answer_match (rank "
        "correlation -1.00, 95 % interval -1.00 to -1.00, over 8 models). Rewards are falls of loss"
    )


def test_a_wrong_sign_that_is_not_sure_is_a_warning_too() -> None:
    # Metrics rank 2, 1, 4, 3 by rising loss: differences of 4, 3, 2, 1 from 2, 1, 4, 3 are
    # 2, 2, 2, 2, so 1 - 6 * 16 / 60 = -0.6.
    found = agreement([(1.0, 0.2), (2.0, 0.1), (3.0, 0.4), (4.0, 0.3)])

    assert found.correlation is not None
    assert found.correlation.mean == pytest.approx(-0.6)
    assert not found.correlation.is_below_zero
    assert found.warns
    assert "models with less loss tend to have less answer_match" in found.sentence
    assert "so few models do not settle" in found.sentence


def test_a_right_sign_that_is_not_sure_is_said_without_a_warning() -> None:
    found = agreement([(1.0, 0.3), (2.0, 0.4), (3.0, 0.1), (4.0, 0.2)])  # the case above, reversed

    assert found.correlation is not None
    assert found.correlation.mean == pytest.approx(0.6)
    assert (found.verdict, found.warns) == ("unclear", False)
    assert "it is not shown that models with less loss have more answer_match" in found.sentence


def test_a_model_that_all_seeds_share_counts_once() -> None:
    base = [Reached("base", 3.0, 0.1)] * 3
    others = [Reached("random", 2.0, 0.2), Reached("random", 1.0, 0.3), Reached("ppo", 1.5, 0.25)]

    found = metric_agreement(base + others, metric="mine", rng=np.random.default_rng(0))

    assert found.correlation is not None
    assert found.correlation.num_samples == 4


def test_the_order_in_which_models_are_given_is_nothing() -> None:
    pairs = [(1.0, 0.6), (1.1, 0.9), (1.2, 0.5), (5.0, 0.1)]
    reached = [Reached(f"policy-{index}", *pair) for index, pair in enumerate(pairs)]

    found, other = (
        metric_agreement(each, metric="mine", rng=np.random.default_rng(0))
        for each in (reached, reached[::-1])
    )

    assert found == other


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([(1.0, 0.5), (2.0, 0.4)], "answer_match is known of 2 different models"),
        ([(1.0, 0.5), (2.0, 0.4), (math.inf, 0.1)], "answer_match is known of 2 different models"),
        ([(1.0, 0.0), (2.0, 0.0), (3.0, 0.0)], "answer_match is 0 for all 3 models"),
        ([(1.5, 0.1), (1.5, 0.2), (1.5, 0.3)], "loss is 1.5 for all 3 models"),
    ],
)
def test_what_cannot_be_ranked_is_not_known(
    pairs: Sequence[tuple[float, float]], reason: str
) -> None:
    found = agreement(pairs)

    assert (found.correlation, found.verdict, found.warns) == (None, "unknown", False)
    assert reason in found.sentence
