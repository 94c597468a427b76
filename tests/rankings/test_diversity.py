"""Rankings that spread, against plain loops and the best of all subsets.

Shapes: ``N`` candidates, ``H`` hidden size.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from raise_mdit.features import unit_rows
from raise_mdit.rankings.diversity import (
    by_k_center,
    by_quality_and_diversity,
    deita_quality,
    most_central,
)


def whole_points(seed: int, count: int) -> NDArray[np.float32]:
    """Small whole numbers, so that distances are exact and ties are frequent."""
    return np.random.default_rng(seed).integers(-3, 4, (count, 2)).astype(np.float32)


def greedy_centers(points: list[list[float]], seed_row: int, num_ranked: int) -> list[int]:
    """Rows in order: each the farthest from those before, then the rest by distance to these."""
    order = [seed_row]

    def distance(row: int, chosen: list[int]) -> float:
        return min(math.dist(points[row], points[center]) for center in chosen)

    while len(order) < num_ranked:
        left = [row for row in range(len(points)) if row not in order]
        chosen = list(order)
        order.append(max(left, key=lambda row: (distance(row, chosen), -row)))
    left = [row for row in range(len(points)) if row not in order]
    return order + sorted(left, key=lambda row: (-distance(row, order[:num_ranked]), row))


def radius(points: NDArray[np.float32], centers: list[int]) -> float:
    """Largest distance of a point to its nearest center."""
    return max(min(math.dist(point, points[center]) for center in centers) for point in points)


def test_k_center_by_hand() -> None:
    points = np.array([[0], [1], [10], [4], [12]], np.float32)

    # From 0 the farthest is 12; then 4 is 4 away from 0, 10 is 2 away from 12, and 1 is 1 away.
    assert by_k_center(points, num_ranked=5, seed_row=0).tolist() == [0, 4, 3, 2, 1]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("num_ranked", [1, 4, 12])
def test_k_center_is_greedy_and_then_by_distance(seed: int, num_ranked: int) -> None:
    points = whole_points(seed, 12)

    ranks = by_k_center(points, num_ranked=num_ranked, seed_row=5)

    assert np.argsort(ranks).tolist() == greedy_centers(points.tolist(), 5, num_ranked)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_centers", [2, 3, 4])
def test_k_center_is_within_twice_the_best_radius(seed: int, num_centers: int) -> None:
    points = np.random.default_rng(seed).normal(size=(9, 2)).astype(np.float32)

    ranks = by_k_center(points, num_ranked=num_centers, seed_row=most_central(points))

    subsets = itertools.combinations(range(9), num_centers)
    best = min(radius(points, list(subset)) for subset in subsets)
    assert radius(points, np.flatnonzero(ranks < num_centers).tolist()) <= 2 * best


@pytest.mark.parametrize("seed", range(30))
def test_of_candidates_that_are_alike_the_first_is_a_center(seed: int) -> None:
    """As a mosaic of one example and that example are, whose products differ in the last digits."""
    rng = np.random.default_rng(seed)
    different = unit_rows(rng.normal(size=(200, 16)).astype(np.float32))
    embeddings = np.tile(different, (3, 1))[:-1]

    center = most_central(embeddings)
    ranks = by_k_center(embeddings, num_ranked=100, seed_row=center)

    assert center < 200
    assert (np.argsort(ranks)[:100] < 200).all()


def test_more_centers_than_candidates_rank_all_greedily() -> None:
    points = whole_points(0, 6)

    more = by_k_center(points, num_ranked=100, seed_row=2)

    assert more.tolist() == by_k_center(points, num_ranked=6, seed_row=2).tolist()


def test_the_most_central_candidate_is_nearest_to_the_mean() -> None:
    # The mean is (2, 1).
    points = np.array([[0, 0], [6, 2], [1, 1], [1, 1]], np.float32)

    assert most_central(points) == 2


def filtered(
    quality: list[float], embeddings: list[list[float]], threshold: float, num_ranked: int
) -> list[int]:
    """Rows in order: by quality without near ones, then all others by quality."""
    by_quality = sorted(range(len(quality)), key=lambda row: (-quality[row], row))
    taken: list[int] = []
    for row in by_quality:
        similar = (sum(map(float.__mul__, embeddings[row], embeddings[each])) for each in taken)
        if len(taken) < num_ranked and all(each <= threshold for each in similar):
            taken.append(row)
    return taken + [row for row in by_quality if row not in taken]


def test_quality_and_diversity_by_hand() -> None:
    east, north, between = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]
    embeddings = np.array([east, between, north, east, between, north], np.float32)
    quality = np.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])

    ranks = by_quality_and_diversity(quality, embeddings, threshold=0.7, num_ranked=2)

    # 1 is 0.6 from 0 and is taken; then two are taken, and the others follow by quality.
    assert ranks.tolist() == [0, 1, 2, 3, 4, 5]

    ranks = by_quality_and_diversity(quality, embeddings, threshold=0.5, num_ranked=2)

    # 1 is too near to 0, so 2 is the second, and 1 follows with the rest.
    assert np.argsort(ranks).tolist() == [0, 2, 1, 3, 4, 5]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_ranked", [1, 4, 20])
def test_what_is_too_near_is_put_off(seed: int, threshold: float, num_ranked: int) -> None:
    rng = np.random.default_rng(seed)
    # Unit vectors whose products are multiples of a half, and so exact.
    signs = rng.choice([-0.5, 0.5], (15, 4))
    quality = rng.integers(5, size=15).astype(np.float64)

    ranks = by_quality_and_diversity(
        quality, signs.astype(np.float32), threshold=threshold, num_ranked=num_ranked
    )

    expected = filtered(quality.tolist(), signs.tolist(), threshold, num_ranked)
    assert np.argsort(ranks).tolist() == expected


def test_deita_quality_by_hand() -> None:
    quality = deita_quality(np.array([0.5, 0.9, 1.0, 3.0]), np.array([7, 1, 7, 100]))

    assert quality == pytest.approx([0.5 * math.log(8), 0.9 * math.log(2), 0.0, 0.0])
