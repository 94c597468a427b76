"""Rewards on fewer items: quotas by hand, and the error by enumeration of every subset."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raise_mdit.core import Cost, EncodedRow, Evaluation
from raise_mdit.rewards import Targets, mean_by_step, stratified_items, subset_error

SEED = 5


def strata_of(sizes: dict[str, int]) -> list[str]:
    """Labels in an order in which strata alternate."""
    labels = [name for name, size in sizes.items() for _ in range(size)]
    return [labels[i] for i in np.random.default_rng(0).permutation(len(labels))]


@pytest.mark.parametrize(
    ("sizes", "num_items", "quotas"),
    [
        pytest.param({"a": 4, "b": 2}, 3, {"a": 2, "b": 1}, id="exact"),
        pytest.param({"a": 4, "b": 2}, 6, {"a": 4, "b": 2}, id="all"),
        pytest.param({"a": 7, "b": 3}, 4, {"a": 3, "b": 1}, id="2.8 and 1.2"),
        pytest.param({"a": 6, "b": 3, "c": 1}, 2, {"a": 1, "b": 1, "c": 0}, id="1.2, 0.6, 0.2"),
        pytest.param({"c": 5, "a": 5, "b": 5}, 4, {"a": 2, "b": 1, "c": 1}, id="ties by name"),
        # Shares of 4/3, 1/3 and 1/3: floating point tells the remainders apart, fractions do not.
        pytest.param({"a": 4, "b": 1, "c": 1}, 2, {"a": 2, "b": 0, "c": 0}, id="thirds"),
    ],
)
def test_quotas_are_shares_rounded_by_largest_remainders(
    sizes: dict[str, int], num_items: int, quotas: dict[str, int]
) -> None:
    strata = strata_of(sizes)

    items = stratified_items(strata, num_items, np.random.default_rng(SEED))

    drawn = [strata[i] for i in items]
    assert {name: drawn.count(name) for name in quotas} == quotas


@given(strata=st.lists(st.sampled_from("abcd"), min_size=1, max_size=30), data=st.data())
def test_items_are_distinct_ascending_and_as_many_as_asked(
    strata: list[str], data: st.DataObject
) -> None:
    num_items = data.draw(st.integers(1, len(strata)))

    first, again = (
        stratified_items(strata, num_items, np.random.default_rng(SEED)) for _ in range(2)
    )

    assert len(first) == num_items
    assert (np.diff(first) > 0).all()
    assert first.tolist() == again.tolist()


def test_every_item_of_a_stratum_can_be_drawn() -> None:
    rng, strata = np.random.default_rng(SEED), ["a", "b", "a", "a", "b"]

    drawn = {int(i) for _ in range(100) for i in stratified_items(strata, 2, rng)}

    assert drawn == set(range(5))


def test_the_mean_of_a_step_is_over_the_episodes_that_reached_it() -> None:
    means = mean_by_step([[1.0, 2.0, 6.0], [3.0], [5.0, 4.0]])

    assert means.dtype == np.float32
    assert means.tolist() == [3.0, 3.0, 6.0]


def error_by_enumeration(gains: list[list[float]], quotas: list[int]) -> float:
    """Standard deviation of the subset's mean over all subsets with these quotas."""
    choices = [combinations(stratum, quota) for stratum, quota in zip(gains, quotas, strict=True)]
    means = [np.mean([gain for part in parts for gain in part]) for parts in product(*choices)]
    return float(np.std(means))


@pytest.mark.parametrize(
    ("sizes", "quotas"),
    [((4, 2), (2, 1)), ((6,), (2,)), ((4, 4), (1, 1)), ((3, 6, 3), (1, 2, 1)), ((2, 2), (2, 2))],
)
def test_the_error_is_that_of_all_subsets_where_quotas_are_exact(
    sizes: tuple[int, ...], quotas: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(SEED)
    gains = [[float(gain) for gain in rng.normal(index, 1, n)] for index, n in enumerate(sizes)]
    strata = [f"task-{index}" for index, size in enumerate(sizes) for _ in range(size)]

    found = subset_error(np.concatenate(gains), strata, sum(quotas))

    assert found == pytest.approx(error_by_enumeration(gains, list(quotas)), abs=1e-12)


def test_a_stratum_of_one_item_and_equal_gains_have_no_error() -> None:
    assert subset_error(np.array([1.0, 2.0, 2.0]), ["a", "b", "b"], 2) == 0.0


def test_strata_that_explain_the_gains_take_the_error_away() -> None:
    rng = np.random.default_rng(SEED)
    strata = ["easy", "hard"] * 50
    gains = np.tile([0.0, 10.0], 50) + rng.normal(0, 0.1, 100)

    assert subset_error(gains, strata, 20) < 0.1 * subset_error(gains, ["all"] * 100, 20)


# Targets.


def item(num_scored: int) -> EncodedRow:
    ids = np.arange(num_scored + 1)
    weights = np.tile(np.array([1.0, 0.0], np.float32), (num_scored, 1))
    return EncodedRow("item", ids, ids[:-1], np.stack([ids[1:]] * 2, axis=1), weights)


def losses(*item_losses: float) -> Evaluation:
    """The loss over all tokens is left out: nothing of targets may depend on it."""
    return Evaluation(np.nan, np.array(item_losses), np.zeros(len(item_losses), bool), Cost())


ITEMS = [item(1), item(3), item(2), item(8)]
TARGETS = Targets.of(ITEMS, np.array([0, 0, 1, 1]))


def test_the_loss_of_a_target_is_the_mean_over_its_scored_tokens() -> None:
    assert TARGETS.losses(losses(2, 4, 1, 6)).tolist() == [(2 + 3 * 4) / 4, (2 * 1 + 8 * 6) / 10]


def test_the_ratio_is_the_mean_over_targets_of_what_is_left_of_their_losses() -> None:
    before, after = losses(2, 4, 1, 6), losses(1, 2, 2, 12)

    assert TARGETS.ratio(after, before) == (0.5 + 2.0) / 2
    assert TARGETS.ratio(before, before) == 1.0


@pytest.mark.parametrize("numbers", [[0, 0, 1], [0, 0, 2, 2], [1, 1, 1, 1]])
def test_targets_are_numbered_without_gaps(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="targets are one number from 0 for each of 4 items"):
        Targets.of(ITEMS, np.array(numbers))
