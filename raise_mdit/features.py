"""What a policy sees of a candidate: RAISE's state (arXiv 2504.07282, section 3) plus its kind.

RAISE's 39 numbers are stage 2, difficulty 4, semantic 32 and availability 1. Difficulty, semantic
state and kind do not change during a run and are the columns here; stage and availability change
with every step and are added by the environment. What is known of an example is either read by a
model (:mod:`raise_mdit.learners.probe`) or told by its tokens alone
(:mod:`raise_mdit.learners.static_features`). A synthesised candidate is never looked at itself: its
numbers are composed of its parents', but for its lengths.

Shapes: ``N`` candidates, ``M`` examples, ``H`` hidden size, ``C`` columns, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.decomposition import PCA

from raise_mdit.clustering import cluster
from raise_mdit.core import KINDS, Cost
from raise_mdit.feature_groups import KIND_COLUMNS, SEMANTIC_PREFIX
from raise_mdit.pool import Pool

LENGTHS = ("prompt_tokens", "response_tokens")
"""RAISE's len(x) and len(y), as logarithms of one more."""


CLIP = 5.0
"""Standardised features are cut off here, so that an outlier cannot saturate the scorer."""

SMALLEST_DEVIATION = 1e-6
"""A column that varies less counts as constant: unit embeddings in float32 leave rounding of about
1e-7 in principal components beyond their rank, which scaling would blow up to features."""


FITTED_ROWS = 20_000
"""Candidates whose embeddings stand in memory at once. In a larger pool that many, drawn by the
seed, fit the principal components, and strata are clusters of components: a million embeddings of
576 numbers would take 2.3 GB."""

CLUSTERED_COMPONENTS = 32
"""RAISE's semantic size: of a pool so large, strata are clusters of as many where policies see no
component at all."""


class ExampleFeatures(NamedTuple):
    """What is known of each example, before anything is trained."""

    names: tuple[str, ...]
    """C column names."""
    columns: NDArray[np.float64]
    """[M, C] numbers that are averaged over a candidate's parents."""
    embeddings: NDArray[np.float32]
    """[M, H] unit length."""
    cost: Cost
    """Of all of it."""


class Basis(NamedTuple):
    """The principal axes that semantic columns are measured along, before standardisation."""

    components: NDArray[np.float32]
    """[S, H] orthonormal."""
    mean: NDArray[np.float32]
    """[H] of the candidates that they were fitted to."""


class FeatureTable(NamedTuple):
    """The unchanging features of a pool, one row a candidate."""

    names: tuple[str, ...]
    """Column names: lengths, columns of the examples, semantic components, kinds."""
    values: NDArray[np.float32]
    """[N, F], standardised over the pool but for the kinds, which are 0 or 1."""
    strata: NDArray[np.int64]
    """[N] stratum (kind and cluster) of each candidate; windows are drawn evenly from them."""
    basis: Basis | None = None
    """Of the semantic columns; None without any, and where a table was read from its file."""


def candidate_embeddings(
    pool: Pool, embeddings: NDArray[np.float32], rows: Mapping[str, int]
) -> NDArray[np.float32]:
    """[N, H] embeddings of candidates: the mean of their parents' by share, at unit length.

    Args:
        pool: The candidates.
        embeddings: [M, H] of the examples.
        rows: Row of each example by its id.
    """
    return _mixed(_shares(pool, rows, len(embeddings)), embeddings)


def candidate_means(
    pool: Pool, columns: NDArray[np.float64], rows: Mapping[str, int]
) -> NDArray[np.float64]:
    """[N] or [N, C] means over the parents of each candidate, by share.

    Args:
        pool: The candidates.
        columns: [M] or [M, C] of the examples.
        rows: Row of each example by its id.
    """
    return np.asarray(_shares(pool, rows, len(columns)) @ columns, np.float64)


def unit_rows(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, H] points at unit length; a point at the origin stays there."""
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    scaled = np.divide(points, lengths, out=np.zeros_like(points), where=lengths > 0)
    return np.asarray(scaled, np.float32)


def build_features(
    pool: Pool,
    examples: ExampleFeatures,
    rows: Mapping[str, int],
    *,
    semantic_size: int,
    num_clusters: int,
    seed: int,
) -> FeatureTable:
    """Features of every candidate of a pool.

    RAISE pools the embedding's dimensions to 32 by position; principal components keep more of the
    variance in as many numbers, and that is what is done here.

    Args:
        pool: The candidates.
        examples: What is known of the examples that they are made from.
        rows: Row of each example in ``examples`` by its id.
        semantic_size: Principal components kept; fewer where the pool has fewer dimensions, none
            with 0.
        num_clusters: K-means clusters of embeddings within which windows are drawn.
        seed: Of K-means and the principal components.
    """
    lengths = np.log1p(
        np.stack([pool.num_tokens - pool.num_response_tokens, pool.num_response_tokens], axis=1)
    )
    shares = _shares(pool, rows, len(examples.columns))
    columns = shares @ examples.columns
    semantic, points, basis = _semantics(shares, examples.embeddings, semantic_size, seed)
    kinds = np.eye(len(KINDS), dtype=np.float32)[pool.kinds]
    names = (*LENGTHS, *examples.names, *_semantic_names(semantic), *KIND_COLUMNS)
    values = np.column_stack([*map(standardised, (lengths, columns, semantic)), kinds])
    labels = pool.kinds * num_clusters + cluster(points, num_clusters, seed)
    strata = np.asarray(np.unique(labels, return_inverse=True)[1], np.int64)
    return FeatureTable(names, values.astype(np.float32), strata, basis)


def in_basis(
    table: FeatureTable,
    basis: Basis | None,
    pool: Pool,
    embeddings: NDArray[np.float32],
    rows: Mapping[str, int],
) -> FeatureTable:
    """The same features with semantic columns along other axes, standardised over this pool.

    Args:
        table: Of the pool, as :func:`build_features` gives it.
        basis: The axes, made from embeddings of the same model; None leaves semantic columns out.
        pool: The candidates.
        embeddings: [M, H] of the examples that they are made from.
        rows: Row of each example in ``embeddings`` by its id.
    """
    semantic = np.zeros((len(pool), 0))
    if basis is not None:
        shares = _shares(pool, rows, len(embeddings))
        blocks = (
            (block - basis.mean) @ basis.components.T for block in _blocks(shares, embeddings)
        )
        semantic = standardised(np.concatenate(list(blocks)).astype(np.float64))
    kept = [not name.startswith(SEMANTIC_PREFIX) for name in table.names]
    known = [name for name, keep in zip(table.names, kept, strict=True) if keep]
    before, kinds = known[: -len(KINDS)], known[-len(KINDS) :]
    values = table.values[:, kept]
    parts = (values[:, : len(before)], semantic, values[:, len(before) :])
    return FeatureTable(
        (*before, *_semantic_names(semantic), *kinds),
        np.column_stack(parts).astype(np.float32),
        table.strata,
        basis,
    )


def standardised(columns: NDArray[np.floating]) -> NDArray[np.float64]:
    """Columns with mean 0 and standard deviation 1, cut off at :data:`CLIP`; a constant gives 0."""
    deviation = columns.std(axis=0)
    centred = columns - columns.mean(axis=0)
    varies = deviation > SMALLEST_DEVIATION
    scaled = np.divide(centred, deviation, out=np.zeros_like(centred), where=varies)
    return np.asarray(np.clip(scaled, -CLIP, CLIP), np.float64)


def _shares(pool: Pool, rows: Mapping[str, int], num_examples: int) -> csr_array:
    """[N, M] share of each example in each candidate; a row sums to one."""
    parents = pool.parents
    columns = np.array([rows[example] for example in parents.example_ids], np.int64)
    entries = (parents.shares, columns[parents.examples], parents.starts)
    return csr_array(entries, shape=(len(pool), num_examples))


def _mixed(shares: csr_array, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    return unit_rows(shares.astype(np.float32) @ embeddings)


def _semantic_names(semantic: NDArray[np.float64]) -> tuple[str, ...]:
    return tuple(f"{SEMANTIC_PREFIX}{i}" for i in range(semantic.shape[1]))


class _Semantics(NamedTuple):
    columns: NDArray[np.float64]
    """[N, S] principal components."""
    points: NDArray[np.float32]
    """[N, ...] what strata are clusters of."""
    basis: Basis | None


def _semantics(
    shares: csr_array, embeddings: NDArray[np.float32], size: int, seed: int
) -> _Semantics:
    """Where candidates lie along the principal axes of their embeddings."""
    num_candidates = shares.shape[0]
    is_large = num_candidates > FITTED_ROWS
    fitted = size or (CLUSTERED_COMPONENTS if is_large else 0)
    fitted = min(fitted, num_candidates, embeddings.shape[1])
    pca = PCA(fitted, svd_solver="full", random_state=seed)
    if not is_large:
        mixed = _mixed(shares, embeddings)
        if size == 0:
            return _Semantics(np.zeros((num_candidates, 0)), mixed, None)
        columns = np.asarray(pca.fit_transform(mixed), np.float64)
        return _Semantics(columns, mixed, _basis(pca))
    sample = np.random.default_rng(seed).choice(num_candidates, FITTED_ROWS, replace=False)
    pca.fit(_mixed(shares[np.sort(sample)], embeddings))
    components = np.concatenate([pca.transform(block) for block in _blocks(shares, embeddings)])
    points = np.asarray(components, np.float32)
    if size == 0:
        return _Semantics(np.zeros((num_candidates, 0)), points, None)
    return _Semantics(np.asarray(components, np.float64), points, _basis(pca))


def _basis(pca: PCA) -> Basis:
    return Basis(np.asarray(pca.components_, np.float32), np.asarray(pca.mean_, np.float32))


def _blocks(shares: csr_array, embeddings: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Embeddings of candidates, as many at once as fit."""
    for start in range(0, shares.shape[0], FITTED_ROWS):
        yield _mixed(shares[start : start + FITTED_ROWS], embeddings)
