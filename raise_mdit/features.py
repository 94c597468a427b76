"""What a policy sees of a candidate: RAISE's state (arXiv 2504.07282, section 3) plus its kind.

RAISE's 39 numbers are stage 2, difficulty 4, semantic 32 and availability 1. Difficulty, semantic
state and kind do not change during a run and are the columns here; stage and availability change
with every step and are added by the environment. A synthesised candidate is never read by the
model: its numbers are composed of its parents', which have been.

Shapes: ``N`` candidates, ``M`` examples, ``H`` hidden size, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from raise_mdit.candidates import Pool, parents_of
from raise_mdit.core import KINDS

DIFFICULTY = ("prompt_tokens", "response_tokens", "conditional_log_prob", "response_log_prob")
"""RAISE's difficulty: len(x), len(y), log P(y given x), log P(y); the latter two per token."""

CLIP = 5.0
"""Standardised features are cut off here, so that an outlier cannot saturate the scorer."""

SMALLEST_DEVIATION = 1e-6
"""A column that varies less counts as constant: unit embeddings in float32 leave rounding of about
1e-7 in principal components beyond their rank, which scaling would blow up to features."""


class Measurements(NamedTuple):
    """What the untuned model makes of each example."""

    conditional_log_prob: NDArray[np.float64]
    """[M] log P(response given prompt), mean over the response's tokens, in nats."""
    response_log_prob: NDArray[np.float64]
    """[M] log P(response), mean over its tokens, in nats."""
    embeddings: NDArray[np.float32]
    """[M, H] unit length."""


class FeatureTable(NamedTuple):
    """The unchanging features of a pool, one row a candidate."""

    names: tuple[str, ...]
    """Column names: difficulty, semantic components, kinds."""
    values: NDArray[np.float32]
    """[N, F], standardised over the pool but for the kinds, which are 0 or 1."""
    strata: NDArray[np.int64]
    """[N] stratum (kind and cluster) of each candidate; windows are drawn evenly from them."""


def candidate_embeddings(
    pool: Pool, embeddings: NDArray[np.float32], rows: Mapping[str, int]
) -> NDArray[np.float32]:
    """[N, H] embeddings of candidates: the mean of their parents' by share, at unit length.

    Args:
        pool: The candidates.
        embeddings: [M, H] of the examples.
        rows: Row of each example by its id.
    """
    mixed = np.stack([_mean_of_parents(pool, i, embeddings, rows) for i in range(len(pool))])
    return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), np.float32)


def build_features(
    pool: Pool,
    measurements: Measurements,
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
        measurements: Of the examples that they are made from.
        rows: Row of each example in ``measurements`` by its id.
        semantic_size: Principal components kept; fewer where the pool has fewer dimensions.
        num_clusters: K-means clusters of embeddings within which windows are drawn.
        seed: Of K-means and the principal components.
    """
    log_probs = np.stack(
        [measurements.conditional_log_prob, measurements.response_log_prob], axis=1
    )
    difficulty = np.column_stack(
        [
            np.log1p(pool.num_tokens - pool.num_response_tokens),
            np.log1p(pool.num_response_tokens),
            np.stack([_mean_of_parents(pool, i, log_probs, rows) for i in range(len(pool))]),
        ]
    )
    embeddings = candidate_embeddings(pool, measurements.embeddings, rows)
    semantic = _principal_components(embeddings, semantic_size, seed)
    kinds = np.eye(len(KINDS), dtype=np.float32)[pool.kinds]
    names = (
        *DIFFICULTY,
        *(f"semantic_{i}" for i in range(semantic.shape[1])),
        *(f"is_{kind}" for kind in KINDS),
    )
    values = np.column_stack([standardised(difficulty), standardised(semantic), kinds])
    strata = _strata(pool, embeddings, num_clusters, seed)
    return FeatureTable(names, values.astype(np.float32), strata)


def standardised(columns: NDArray[np.floating]) -> NDArray[np.float64]:
    """Columns with mean 0 and standard deviation 1, cut off at :data:`CLIP`; a constant gives 0."""
    deviation = columns.std(axis=0)
    centred = columns - columns.mean(axis=0)
    varies = deviation > SMALLEST_DEVIATION
    scaled = np.divide(centred, deviation, out=np.zeros_like(centred), where=varies)
    return np.asarray(np.clip(scaled, -CLIP, CLIP), np.float64)


def nearest_first(
    candidates: NDArray[np.float32], targets: NDArray[np.float32]
) -> NDArray[np.int64]:
    """[N] rank of each candidate, 0 for the first pick of RDS+ (arXiv 2503.01807).

    The targets take turns; at its turn a target takes the nearest candidate that is left, by cosine
    similarity, ties by row.

    Args:
        candidates: [N, H] unit embeddings.
        targets: [Q, H] unit embeddings of the target data.
    """
    orders = np.argsort(-(targets @ candidates.T), axis=1, kind="stable")
    ranks = np.full(len(candidates), -1, np.int64)
    positions = np.zeros(len(targets), np.int64)
    for rank in range(len(candidates)):
        target = rank % len(targets)
        while ranks[orders[target, positions[target]]] >= 0:
            positions[target] += 1
        ranks[orders[target, positions[target]]] = rank
    return ranks


def cluster(points: NDArray[np.float32], num_clusters: int, seed: int) -> NDArray[np.int64]:
    """[N] K-means cluster of each point; fewer clusters where there are fewer distinct points."""
    num_clusters = min(num_clusters, len(np.unique(points, axis=0)))
    fitted = KMeans(num_clusters, n_init=4, random_state=seed).fit(points)
    # K-means takes points that differ by rounding for one, and then leaves labels unused.
    return np.asarray(np.unique(fitted.labels_, return_inverse=True)[1], np.int64)


def _mean_of_parents(
    pool: Pool, row: int, values: NDArray[np.floating], rows: Mapping[str, int]
) -> NDArray[np.floating]:
    parents = parents_of(pool.recipe(row))
    return np.asarray(sum(share * values[rows[example]] for example, share in parents))


def _principal_components(
    embeddings: NDArray[np.float32], size: int, seed: int
) -> NDArray[np.float64]:
    size = min(size, *embeddings.shape)
    components = PCA(size, svd_solver="full", random_state=seed).fit_transform(embeddings)
    return np.asarray(components, np.float64)


def _strata(
    pool: Pool, embeddings: NDArray[np.float32], num_clusters: int, seed: int
) -> NDArray[np.int64]:
    labels = pool.kinds * num_clusters + cluster(embeddings, num_clusters, seed)
    return np.asarray(np.unique(labels, return_inverse=True)[1], np.int64)
