"""GREATS against cases by hand, the greedy rule's definition, and laws of the policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raise_mdit.agents.greats import GradientProducts, greats_policy, greedy_picks
from raise_mdit.agents.static import StaticPolicy
from raise_mdit.core import Observation

DUPLICATES = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
"""Gradients of four candidates, of which the second repeats the first."""
ALONG = np.array([1.0, 0.9])


def products_of(gradients: NDArray[np.float64], along: NDArray[np.float64]) -> GradientProducts:
    return GradientProducts(
        (gradients @ along).astype(np.float32), (gradients @ gradients.T).astype(np.float32)
    )


def window(
    rows: Sequence[int], *, mask: Sequence[int] | None = None, selected: Sequence[int] | None = None
) -> Observation:
    return {
        "window": np.array(rows, np.int64),
        "mask": np.array(mask or [1] * len(rows), np.int8),
        "selected": np.array(selected or [0] * len(rows), np.float32),
        "context": np.array([1.0, 0.5, 0.0], np.float32),
    }


def pool(
    gradients: NDArray[np.float64], along: NDArray[np.float64]
) -> tuple[Callable[[NDArray[np.int64]], GradientProducts], list[list[int]]]:
    """Measures rows of a pool of gradients, and notes which it was asked for."""
    asked: list[list[int]] = []

    def measure(rows: NDArray[np.int64]) -> GradientProducts:
        asked.append(rows.tolist())
        return products_of(gradients[rows], along)

    return measure, asked


def policy_of_duplicates(num_picks: int, eta: float = 0.25) -> StaticPolicy:
    measure, _ = pool(DUPLICATES, ALONG)
    return greats_policy(measure, num_picks=num_picks, step_size=lambda _: eta)


def picks_of(policy: StaticPolicy, observation: Observation) -> list[int]:
    picks: list[int] = policy.predict(observation)[0].tolist()
    return picks


def picked(
    measured: GradientProducts, num_picks: int, eta: float, uses: Sequence[int] | None = None
) -> list[int]:
    num_uses = np.array(uses or [0] * len(measured.products_W), np.float32)
    picks: list[int] = greedy_picks(
        measured, num_picks=num_picks, step_size=eta, num_uses=num_uses
    ).tolist()
    return picks


def test_a_case_by_hand() -> None:
    measured = GradientProducts(
        np.array([4, 3, 2], np.float32),
        np.array([[1, 6, 0], [6, 9, 0], [0, 0, 1]], np.float32),
    )

    # eta 0.5: 2, 1.5, 1; after the first 1.5 - 0.25 * 6 = 0 and 1
    assert picked(measured, 3, 0.5) == [0, 2, 1]
    # eta 0.1: 0.4, 0.3, 0.2; after the first 0.3 - 0.01 * 6 = 0.24 and 0.2
    assert picked(measured, 3, 0.1) == [0, 1, 2]


def test_the_second_copy_is_passed_over_for_what_is_new() -> None:
    # eta 0.25: 0.5, 0.5, 0.225, 0.25; after the first 0.25, 0.225, 0.125 for the others;
    # eta 0.4: 0.8, 0.8, 0.36, 0.4; after the first 0.16, 0.36, 0.08
    measured = products_of(DUPLICATES, ALONG)

    assert picked(measured, 2, 0.25) == [0, 1]
    assert picked(measured, 2, 0.4) == [0, 2]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_without_pairs_it_takes_the_largest_products(seed: int, num_picks: int) -> None:
    products = np.random.default_rng(seed).permutation(12).astype(np.float32)
    measured = GradientProducts(products, np.zeros((12, 12), np.float32))

    assert picked(measured, num_picks, 0.1) == np.argsort(-products)[:num_picks].tolist()


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([0.01, 0.1, 1.0]))
def test_each_pick_is_the_best_by_the_definition(seed: int, num_picks: int, eta: float) -> None:
    rng = np.random.default_rng(seed)
    gradients, along = rng.normal(size=(8, 4)), rng.normal(size=4)

    picks = picked(products_of(gradients, along), num_picks, eta)

    assert len(set(picks)) == num_picks
    for index, pick in enumerate(picks):
        moved = eta * gradients[picks[:index]].sum(axis=0)
        gains = {
            i: eta * gradients[i] @ (along - moved) for i in range(8) if i not in picks[:index]
        }
        assert gains[pick] == pytest.approx(max(gains.values()), rel=1e-4, abs=1e-6)


def test_a_used_candidate_waits_for_every_unused_one() -> None:
    measured = products_of(DUPLICATES, ALONG)

    assert picked(measured, 4, 0.25, uses=[2, 1, 0, 0]) == [3, 2, 1, 0]


def test_it_asks_for_pool_rows_and_picks_slots() -> None:
    measure, asked = pool(DUPLICATES, ALONG)
    policy = greats_policy(measure, num_picks=2, step_size=lambda _: 0.4)

    picks = picks_of(policy, window([3, 2, 0, 0], mask=[1, 1, 1, 0]))

    assert asked == [[3, 2, 0]]
    assert picks == [2, 1]


def test_a_masked_slot_is_neither_asked_for_nor_picked() -> None:
    measure, asked = pool(DUPLICATES, ALONG)
    policy = greats_policy(measure, num_picks=2, step_size=lambda _: 0.25)

    picks = picks_of(policy, window([0, 2, 1, 3], mask=[0, 1, 0, 1]))

    assert asked == [[2, 3]]
    assert picks == [3, 1]


def test_the_policy_keeps_the_order_taken_among_used_and_unused() -> None:
    observation = window([0, 1, 2, 3], selected=[0, 3, 0, 1])

    assert picks_of(policy_of_duplicates(4), observation) == [0, 2, 3, 1]


def test_the_step_size_is_that_of_the_observation() -> None:
    measure, _ = pool(DUPLICATES, ALONG)
    policy = greats_policy(
        measure, num_picks=2, step_size=lambda observation: 0.8 * observation["context"][1]
    )
    early, late = window([0, 1, 2, 3]), window([0, 1, 2, 3])
    late["context"][1] = 0.01

    assert picks_of(policy, early) == [0, 2]
    assert picks_of(policy, late) == [0, 1]


def test_a_batch_of_windows_is_picked_from_one_by_one() -> None:
    windows = [window([0, 1, 2, 3]), window([3, 2, 1, 0])]
    batch = {key: np.stack([one[key] for one in windows]) for key in windows[0]}
    policy = policy_of_duplicates(2, eta=0.4)

    action, _ = policy.predict(batch)

    assert action.tolist() == [picks_of(policy, one) for one in windows] == [[0, 2], [2, 1]]
