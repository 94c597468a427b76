"""Clusters against planted groups and plain K-means.

Shapes: ``N`` points, ``H`` dimensions.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from raise_mdit import clustering
from raise_mdit.clustering import cluster

LOW = 50
"""Threshold above which the tests' points are learned from in batches."""


@pytest.fixture(params=["full passes", "batches"])
def either_method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "batches":
        monkeypatch.setattr(clustering, "MOST_BY_FULL_PASSES", 0)
    return str(request.param)


def planted(num_groups: int, num_points: int, seed: int) -> tuple[NDArray[np.float32], list[int]]:
    """Points within about 0.2 of centres that are about 5 apart, and the group of each."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(num_groups, 8)
    groups = np.concatenate([np.arange(num_groups), rng.integers(num_groups, size=num_points)])
    points = centres[groups] + 0.05 * rng.normal(size=(len(groups), 8))
    return points.astype(np.float32), groups.tolist()


def partition(labels: list[int]) -> set[frozenset[int]]:
    return {
        frozenset(i for i, other in enumerate(labels) if other == label) for label in set(labels)
    }


@pytest.mark.parametrize("seed", range(4))
def test_few_points_are_clustered_by_plain_k_means(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(200, 5)).astype(np.float32)

    found = cluster(points, 6, seed)

    expected = KMeans(6, n_init=4, random_state=seed).fit(points).labels_
    np.testing.assert_array_equal(found, expected)


def test_as_many_points_as_the_limit_are_still_few(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without groups to find, the two methods end apart.
    points = np.random.default_rng(0).normal(size=(LOW + 1, 5)).astype(np.float32)
    full = [KMeans(6, n_init=4, random_state=0).fit(some).labels_ for some in (points[1:], points)]
    monkeypatch.setattr(clustering, "MOST_BY_FULL_PASSES", LOW)

    np.testing.assert_array_equal(cluster(points[1:], 6, 0), full[0])
    assert partition(cluster(points, 6, 0).tolist()) != partition(full[1].tolist())


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize("num_groups", [2, 5, 8])
@pytest.mark.parametrize("seed", range(3))
def test_groups_far_apart_are_found(num_groups: int, seed: int) -> None:
    points, groups = planted(num_groups, 300, seed)

    found = cluster(points, num_groups, seed)

    assert partition(found.tolist()) == partition(groups)


@pytest.mark.usefixtures("either_method")
def test_a_seed_gives_the_same_clusters_each_time() -> None:
    points = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)

    first, second, other = (cluster(points, 6, seed) for seed in (1, 1, 2))

    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.usefixtures("either_method")
def test_there_are_no_more_clusters_than_distinct_points() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 40, axis=0)

    found = cluster(points, 8, seed=0)

    assert partition(found.tolist()) == partition([i // 40 for i in range(120)])
    assert set(found.tolist()) == {0, 1, 2}


@pytest.mark.usefixtures("either_method")
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_points_that_differ_by_rounding_leave_no_number_unused() -> None:
    near = np.eye(3, dtype=np.float32) + np.float32(1.0)
    points = np.concatenate([near, np.nextafter(near, np.float32(3)), np.nextafter(near, -near)])

    found = cluster(points, 8, seed=0)

    assert sorted(set(found.tolist())) == list(range(found.max() + 1))


@pytest.mark.usefixtures("either_method")
def test_labels_are_whole_numbers_of_64_bits() -> None:
    assert cluster(np.eye(4, dtype=np.float32), 2, seed=0).dtype == np.int64


@settings(deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.integers(1, 3)),
        elements=st.sampled_from([-1.0, -0.0, 0.0, 0.5]),
    ),
    st.integers(1, 14),
)
def test_distinct_points_are_counted_as_far_as_asked(
    points: NDArray[np.float32], most: int
) -> None:
    distinct = {tuple(map(float, point)) for point in points}  # -0.0 == 0.0

    assert clustering._count_distinct(points, most) == min(most, len(distinct))
