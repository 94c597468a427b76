"""Rankings by nearness to target data, against definitions written out by hand.

Shapes: ``N`` candidates, ``Q`` target items, ``H`` hidden size, ``C`` checkpoints, ``D`` dimensions
of a gradient.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raise_mdit.features import unit_rows
from raise_mdit.rankings import nearest
from raise_mdit.rankings.nearest import by_less, nearest_first


def round_robin(candidates: list[list[int]], targets: list[list[int]]) -> list[int]:
    """Targets take turns, and each takes the nearest that is left, the earlier of two alike."""
    left = list(range(len(candidates)))
    order: list[int] = []
    while left:
        target = targets[len(order) % len(targets)]
        similarity = {i: sum(map(int.__mul__, candidates[i], target)) for i in left}
        chosen = max(left, key=lambda i: (similarity[i], -i))
        left.remove(chosen)
        order.append(chosen)
    return [order.index(i) for i in range(len(candidates))]


# Small whole numbers, so that sums are exact and ties are frequent.
points = st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=1, max_size=9)


@settings(deadline=None)
@given(points, points)
def test_targets_take_turns_at_the_nearest_candidate_left(
    candidates: list[list[int]], targets: list[list[int]]
) -> None:
    found = nearest_first(np.array(candidates, np.float32), np.array(targets, np.float32))

    assert found.tolist() == round_robin(candidates, targets)


@pytest.mark.parametrize("seed", range(3))
def test_candidates_that_are_alike_rank_by_row_wherever_they_stand(seed: int) -> None:
    """As a mosaic of one example and that example are, whose products differ in the last digits."""
    rng = np.random.default_rng(seed)
    different = unit_rows(rng.normal(size=(40, 64)).astype(np.float32))
    candidates = np.tile(different, (3, 1))[:-1]

    ranks = nearest_first(candidates, unit_rows(rng.normal(size=(5, 64)).astype(np.float32)))

    assert all((np.diff(ranks[row::40]) > 0).all() for row in range(40))


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_candidates_are_found_beyond_the_first_chunk(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    candidates, targets = rng.integers(-2, 3, (30, 3)), rng.integers(-2, 3, (8, 3))

    found = nearest_first(candidates.astype(np.float32), targets.astype(np.float32))

    assert found.tolist() == round_robin(candidates.tolist(), targets.tolist())


def cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(first @ second) / (math.hypot(*first) * math.hypot(*second))


def influences(
    candidates: NDArray[np.float64],
    targets: NDArray[np.float64],
    learning_rates: list[float],
    tasks: list[int],
) -> list[float]:
    """max over subtasks of sum over checkpoints of the rate times the cosine with the mean."""
    return [
        max(
            sum(
                rate
                * cosine(
                    candidates[checkpoint, row],
                    targets[checkpoint, [task == each for each in tasks]].mean(axis=0),
                )
                for checkpoint, rate in enumerate(learning_rates)
            )
            for task in set(tasks)
        )
        for row in range(candidates.shape[1])
    ]


@pytest.mark.parametrize("seed", range(10))
def test_less_ranks_by_influence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    candidates, targets = rng.normal(size=(3, 20, 6)), rng.normal(size=(3, 7, 6))
    rates, tasks = [3.0, 2.0, 0.5], [4, 1, 1, 9, 4, 4, 9]

    ranks = by_less(
        candidates.astype(np.float32),
        targets.astype(np.float32),
        learning_rates_C=np.array(rates),
        tasks_Q=np.array(tasks),
    )

    expected = influences(candidates, targets, rates, tasks)
    assert np.argsort(ranks).tolist() == sorted(range(20), key=lambda row: -expected[row])


def less_of_plane(candidates: list[list[float]], targets: list[list[float]]) -> list[int]:
    """Order by LESS at one checkpoint, each target a subtask."""
    ranks = by_less(
        np.array([candidates], np.float32),
        np.array([targets], np.float32),
        learning_rates_C=np.ones(1),
        tasks_Q=np.arange(len(targets)),
    )
    return [int(row) for row in np.argsort(ranks)]


def test_a_long_gradient_is_no_better_than_a_short_one() -> None:
    assert less_of_plane([[30.0, 40.0], [0.1, 0.0]], [[7.0, 0.0]]) == [1, 0]


def test_the_subtask_that_a_candidate_helps_most_counts() -> None:
    # The first is nearer to the mean of both subtasks.
    assert less_of_plane([[0.6, 0.8], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]) == [1, 0]


def test_a_gradient_of_zeros_comes_between_help_and_harm() -> None:
    assert less_of_plane([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], [[1.0, 0.0]]) == [2, 1, 0]
