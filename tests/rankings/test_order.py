"""Ranks from keys, and the laws that hold for every ranking.

Shapes: ``N`` candidates, ``Q`` target items, ``H`` hidden size, ``C`` checkpoints, ``D`` dimensions
of a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from raise_mdit.rankings.difficulty import by_ifd, by_length, by_perplexity, by_stage
from raise_mdit.rankings.diversity import by_k_center, by_quality_and_diversity
from raise_mdit.rankings.dsir import by_importance
from raise_mdit.rankings.nearest import by_less, nearest_first
from raise_mdit.rankings.order import highest_first, in_turn, lowest_first, ranks_in

Ranking = Callable[[np.random.Generator, int], NDArray[np.int64]]


def vectors(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Small whole numbers: ties and duplicates are frequent."""
    return rng.integers(-1, 2, shape).astype(np.float32)


def texts(rng: np.random.Generator, count: int) -> list[str]:
    return [" ".join(rng.choice(["a", "b", "c!"], rng.integers(4))) for _ in range(count)]


DETERMINED: dict[str, Ranking] = {
    "length": lambda rng, n: by_length(rng.integers(9, size=n), first="longest"),
    "in turn": lambda rng, n: in_turn(
        [by_length(rng.integers(9, size=n), first=end) for end in ("longest", "shortest")]
    ),
    "low perplexity": lambda rng, n: by_perplexity(rng.normal(size=n).round(1), "low"),
    "middle perplexity": lambda rng, n: by_perplexity(rng.normal(size=n).round(1), "middle"),
    "high perplexity": lambda rng, n: by_perplexity(rng.normal(size=n).round(1), "high"),
    "ifd": lambda rng, n: by_ifd(*rng.normal(size=(2, n)).round(1)),
    "k-center": lambda rng, n: by_k_center(vectors(rng, n, 3), num_ranked=n // 2 + 1, seed_row=0),
    "quality and diversity": lambda rng, n: by_quality_and_diversity(
        rng.normal(size=n).round(1), vectors(rng, n, 3), threshold=0.9, num_ranked=n // 2 + 1
    ),
    "nearest": lambda rng, n: nearest_first(vectors(rng, n, 3), vectors(rng, 4, 3)),
    "less": lambda rng, n: by_less(
        vectors(rng, 2, n, 3),
        vectors(rng, 2, 4, 3),
        learning_rates_C=np.array([2.0, 1.0]),
        tasks_Q=np.array([0, 1, 0, 1]),
    ),
}
DRAWN: dict[str, Ranking] = {
    "stage": lambda rng, n: by_stage(
        rng.normal(size=n).round(1), num_steps=n // 2 + 1, batch_size=1, rng=rng
    ),
    "importance": lambda rng, n: by_importance(
        texts(rng, n), texts(rng, 4), num_buckets=8, rng=rng
    ),
}
ALL = DETERMINED | DRAWN


def tied(count: int) -> dict[str, NDArray[np.int64]]:
    """Each ranking of candidates that are all alike."""
    same = np.ones(count)
    points = np.ones((count, 3), np.float32)
    return {
        "length": by_length(np.ones(count, np.int64), first="longest"),
        "in turn": in_turn([by_length(np.ones(count, np.int64), first="shortest")] * 2),
        "low perplexity": by_perplexity(same, "low"),
        "middle perplexity": by_perplexity(same, "middle"),
        "high perplexity": by_perplexity(same, "high"),
        "ifd": by_ifd(same, same),
        "k-center": by_k_center(points, num_ranked=count // 2, seed_row=0),
        "quality and diversity": by_quality_and_diversity(
            same, points, threshold=0.9, num_ranked=count
        ),
        "nearest": nearest_first(points, points[:2]),
        "less": by_less(
            points[None],
            points[None, :2],
            learning_rates_C=np.ones(1),
            tasks_Q=np.zeros(2, np.int64),
        ),
    }


def test_the_highest_key_comes_first_and_ties_go_by_row() -> None:
    assert highest_first(np.array([1, 3, 2, 3])).tolist() == [3, 0, 2, 1]


def test_the_lowest_key_comes_first_and_ties_go_by_row() -> None:
    assert lowest_first(np.array([2.5, 1.0, 2.5, -4.0])).tolist() == [2, 1, 3, 0]


def test_many_ties_go_by_row() -> None:
    keys = np.random.default_rng(0).integers(3, size=500)

    order = np.argsort(lowest_first(keys)).tolist()

    assert order == sorted(range(500), key=lambda row: (keys[row], row))


def test_ranks_are_places_in_the_order() -> None:
    assert ranks_in(np.array([2, 0, 3, 1])).tolist() == [1, 3, 0, 2]


def test_rankings_take_turns_and_pass_over_what_is_taken() -> None:
    """Orders 0 1 2 3 4, 1 0 4 2 3 and 4 3 2 1 0: 0, 1, 4, then 2, and 3 twice passed over."""
    ranks = [
        ranks_in(np.array(order)) for order in ([0, 1, 2, 3, 4], [1, 0, 4, 2, 3], [4, 3, 2, 1, 0])
    ]

    assert np.argsort(in_turn(ranks)).tolist() == [0, 1, 4, 2, 3]


def test_of_two_rankings_each_gets_half_of_what_is_picked() -> None:
    rng = np.random.default_rng(0)
    first, second = (ranks_in(rng.permutation(1000)) for _ in range(2))

    taken = np.flatnonzero(in_turn([first, second]) < 20)

    assert (first[taken] < 12).sum() >= 10
    assert (second[taken] < 12).sum() >= 10


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_every_ranking_is_a_permutation(name: str, count: int) -> None:
    ranks = ALL[name](np.random.default_rng(count), count)

    assert ranks.dtype == np.int64
    assert sorted(ranks.tolist()) == list(range(count))


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_ranking(name: str) -> None:
    first, second = (ALL[name](np.random.default_rng(3), 40).tolist() for _ in range(2))

    assert first == second


@pytest.mark.parametrize("name", DETERMINED)
def test_candidates_that_are_alike_are_ranked_by_row(name: str) -> None:
    assert tied(6)[name].tolist() == list(range(6))
