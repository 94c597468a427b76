"""Features against definitions written out by hand.

Shapes: ``M`` examples, ``H`` hidden size, ``N`` candidates.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from raise_mdit import features as features_module
from raise_mdit.candidates import Candidate, Mdit, Mosaic, Original, Recipe
from raise_mdit.core import KINDS, Cost
from raise_mdit.features import (
    CLIP,
    ExampleFeatures,
    FeatureTable,
    build_features,
    candidate_embeddings,
    standardised,
    unit_rows,
)
from raise_mdit.pool import Pool

M, H = 12, 6
ROWS = {f"e{i}": i for i in range(M)}
ORIGINALS: list[Recipe] = [Original(f"e{i}") for i in range(M)]
MADE: list[Recipe] = [
    Mosaic(("e0", "e1", "e5"), "format", {}),
    Mosaic(("e7",), "primary", {}),
    Mdit("e2", "e9", 0.25),
    Mdit("e3", "e4", 0.5),
]
POOL_SHAPE = {"semantic_size": 3, "num_clusters": 2, "seed": 0}


def pool(recipes: list[Recipe]) -> Pool:
    return Pool.of([Candidate(r, "mine", 10 + 7 * i, 3 + 2 * i) for i, r in enumerate(recipes)])


def unit(points: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


def known(embeddings: NDArray[np.float32] | None = None) -> ExampleFeatures:
    """Two columns and embeddings of the examples."""
    rng = np.random.default_rng(0)
    columns = -rng.exponential([2.0, 4.0], (M, 2))
    random = unit(rng.normal(size=(M, H)))
    return ExampleFeatures(
        ("depth", "width"), columns, random if embeddings is None else embeddings, Cost()
    )


def blobs() -> NDArray[np.float32]:
    """Examples that alternate between two far corners of the sphere."""
    corners = np.eye(H)[np.arange(M) % 2]
    return unit(corners + 0.01 * np.random.default_rng(1).normal(size=(M, H)))


def features(recipes: list[Recipe], examples: ExampleFeatures, **changes: int) -> FeatureTable:
    return build_features(pool(recipes), examples, ROWS, **{**POOL_SHAPE, **changes})


def by_hand(column: list[float]) -> list[float]:
    """Mean 0 and standard deviation 1, the long way."""
    mean = math.fsum(column) / len(column)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in column) / len(column))
    return [(x - mean) / deviation for x in column]


# --- Standardising.


def test_columns_are_standardised_each_by_itself() -> None:
    columns = np.array([[1.0, -40.0], [2.0, 0.0], [6.0, 10.0]])

    found = standardised(columns)

    expected = [by_hand(columns[:, 0].tolist()), by_hand(columns[:, 1].tolist())]
    np.testing.assert_allclose(found.T, expected, rtol=1e-12)


def test_an_outlier_is_cut_off_on_either_side() -> None:
    column = np.zeros(100)
    column[7] = 1e6

    assert standardised(np.stack([column, -column], axis=1))[7].tolist() == [CLIP, -CLIP]


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_a_constant_column_gives_zero(value: float) -> None:
    columns = np.stack([np.full(7, value), np.arange(7.0)], axis=1)

    assert np.all(standardised(columns)[:, 0] == 0.0)


@settings(deadline=None)
@given(
    arrays.arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.integers(1, 3)),
        elements=st.integers(-1000, 1000).map(float),
    )
)
def test_standardised_columns_keep_their_order_within_the_limits(
    columns: NDArray[np.float64],
) -> None:
    found = standardised(columns)

    assert np.all(np.abs(found) <= CLIP)
    for column, scaled in zip(columns.T, found.T, strict=True):
        assert np.all(np.diff(scaled[np.argsort(column)]) >= 0)
        if np.abs(scaled).max() < CLIP and np.ptp(column) > 0:
            assert scaled.mean() == pytest.approx(0.0, abs=1e-9)
            assert scaled.std() == pytest.approx(1.0)


# --- Candidates of several parents.


def test_embeddings_of_candidates_are_means_of_their_parents_at_unit_length() -> None:
    e = known().embeddings.astype(np.float64)
    expected = [
        *e,
        (e[0] + e[1] + e[5]) / 3,
        e[7],
        0.25 * e[2] + 0.75 * e[9],
        (e[3] + e[4]) / 2,
    ]

    found = candidate_embeddings(pool(ORIGINALS + MADE), e.astype(np.float32), ROWS)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, unit(np.array(expected)), atol=1e-6)


def test_a_point_at_the_origin_has_no_direction() -> None:
    found = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))

    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]])


def test_an_example_that_is_twice_in_a_mosaic_counts_twice() -> None:
    e = known().embeddings.astype(np.float64)
    twice: list[Recipe] = [Mosaic(("e0", "e0", "e1"), "format", {})]

    found = candidate_embeddings(pool(twice), e.astype(np.float32), ROWS)

    np.testing.assert_allclose(found, unit(2 * e[:1] + e[1:2]), atol=1e-6)


def test_lengths_are_the_candidates_own_and_columns_are_means_of_its_parents() -> None:
    examples = known()
    lengths = [(7 + 5 * i, 3 + 2 * i) for i in range(M + len(MADE))]
    columns = [
        [math.log(1 + prompt) for prompt, _ in lengths],
        [math.log(1 + response) for _, response in lengths],
        *(
            [
                *values,
                (values[0] + values[1] + values[5]) / 3,
                values[7],
                0.25 * values[2] + 0.75 * values[9],
                (values[3] + values[4]) / 2,
            ]
            for values in examples.columns.T.tolist()
        ),
    ]

    found = features(ORIGINALS + MADE, examples).values[:, :4]

    np.testing.assert_allclose(found.T, [by_hand(column) for column in columns], atol=1e-5)


def test_semantic_features_are_the_leading_principal_components() -> None:
    examples = known()
    centred = examples.embeddings - examples.embeddings.mean(axis=0)
    left, _, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)

    found = features(ORIGINALS, examples).values[:, 4:7]

    # A component's sign is free; scaled to deviation 1 it is sqrt(N) times a singular vector.
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, :3]) * math.sqrt(M), atol=1e-4)


def test_columns_are_named_and_kinds_are_marked() -> None:
    found = features(ORIGINALS + MADE, known())

    assert found.names == (
        *("prompt_tokens", "response_tokens", "depth", "width"),
        *("semantic_0", "semantic_1", "semantic_2"),
        *("is_original", "is_mosaic", "is_mdit", "is_custom"),
    )
    assert found.values.shape == (M + len(MADE), len(found.names))
    assert found.values.dtype == np.float32
    marks = [[1, 0, 0, 0]] * M + [[0, 1, 0, 0]] * 2 + [[0, 0, 1, 0]] * 2
    np.testing.assert_array_equal(found.values[:, -len(KINDS) :], marks)


def test_features_are_the_same_each_time() -> None:
    first, second = (features(ORIGINALS + MADE, known()) for _ in range(2))

    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.strata, second.strata)


def test_there_are_no_more_components_than_dimensions_or_candidates() -> None:
    assert features(ORIGINALS, known(), semantic_size=32).names.count("semantic_5") == 1
    assert features(ORIGINALS, known(), semantic_size=32).values.shape[1] == 4 + H + len(KINDS)
    assert features(ORIGINALS[:3], known(), semantic_size=32).values.shape[1] == 4 + 3 + len(KINDS)


def test_equal_embeddings_give_semantic_features_of_zero() -> None:
    same = np.tile(unit(np.random.default_rng(2).normal(size=(1, H))), (M, 1))

    found = features(ORIGINALS, known(same), num_clusters=1).values[:, 4:7]

    assert np.all(found == 0.0)


def test_components_beyond_the_rank_are_zero_rather_than_scaled_rounding() -> None:
    # Mixtures of three examples lie in a plane of dimension 3, up to rounding to float32.
    rng = np.random.default_rng(3)
    mixtures: list[Recipe] = [
        Mdit(f"e{i}", f"e{(i + 1) % 3}", float(rng.uniform())) for i in range(3) for _ in range(20)
    ]
    wide = unit(rng.normal(size=(M, 256)))

    found = features(mixtures, known(wide), semantic_size=8).values[:, 4:12]

    np.testing.assert_allclose(found[:, :3].std(axis=0), 1.0, rtol=1e-4)
    assert np.all(found[:, 3:] == 0.0)


# --- Strata and clusters.


def test_strata_part_the_pool_by_kind_and_cluster() -> None:
    # Example i is at corner i % 2; each made candidate has its parents at one corner.
    made: list[Recipe] = [
        Mosaic(("e0", "e2"), "format", {}),
        Mosaic(("e1", "e3"), "format", {}),
        Mdit("e4", "e8", 0.3),
        Mdit("e5", "e7", 0.3),
    ]
    expected = [("original", i % 2) for i in range(M)]
    expected += [("mosaic", 0), ("mosaic", 1), ("mdit", 0), ("mdit", 1)]

    found = features(ORIGINALS + made, known(blobs())).strata

    together = [[one == other for other in expected] for one in expected]
    np.testing.assert_array_equal(found[:, None] == found[None, :], together)
    assert sorted(set(found.tolist())) == list(range(6))


def test_strata_without_members_have_no_number() -> None:
    found = features(MADE, known(blobs()), num_clusters=1).strata

    assert found.tolist() == [0, 0, 1, 1]


def test_a_large_pool_is_described_in_blocks_as_a_small_one_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = features(ORIGINALS + MADE, known(blobs()), num_clusters=2)

    monkeypatch.setattr(features_module, "FITTED_ROWS", len(ORIGINALS + MADE) - 1)
    blocks = features(ORIGINALS + MADE, known(blobs()), num_clusters=2)

    assert blocks.names == whole.names
    assert blocks.values.shape == whole.values.shape
    assert np.isfinite(blocks.values).all()
    np.testing.assert_array_equal(blocks.values[:, :4], whole.values[:, :4])
    # All but one row fit the components: the first, which parts the blobs, is nearly the same.
    first, other = whole.values[:, 4], blocks.values[:, 4]
    assert abs(np.corrcoef(first, other)[0, 1]) > 0.99
    np.testing.assert_array_equal(
        blocks.strata[:M][:, None] == blocks.strata[:M][None, :],
        whole.strata[:M][:, None] == whole.strata[:M][None, :],
    )
