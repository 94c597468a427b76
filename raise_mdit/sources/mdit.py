"""MDIT: interpolations of two instructions of different tasks (arXiv 2504.07288).

Pairs are drawn across tasks, lambda from Beta(alpha, alpha) for each pair. More are generated than
kept: embeddings are clustered by K-means, every cluster keeps a number in proportion to its size,
and within a cluster the densest are kept, density being the inverse mean distance to the nearest
neighbours. Only recipes are made here; hidden states are mixed when a row is trained on.

Shapes: ``M`` examples, ``H`` hidden size, ``G`` generated pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from raise_mdit.candidates import Mdit
from raise_mdit.core import Example
from raise_mdit.errors import DataError
from raise_mdit.features import cluster

DRAWS_PER_PAIR = 20
"""Attempts at a pair that fits the length limit before it is given up and counted."""


class Interpolation(NamedTuple):
    """Recipes kept, and what was left out."""

    recipes: tuple[Mdit, ...]
    num_generated: int
    """Pairs that the diversity selection chose from."""
    num_too_long: int
    """Pairs given up since no partner fitted the length limit."""


class Lengths(NamedTuple):
    """Lengths of each example's blocks, aligned apart when two are mixed."""

    prompts: NDArray[np.int64]
    """[M] tokens before the first response token."""
    responses: NDArray[np.int64]
    """[M] tokens from there on."""


def interpolate(
    examples: Sequence[Example],
    embeddings: NDArray[np.float32],
    tasks: NDArray[np.int64],
    lengths: Lengths,
    *,
    num_kept: int,
    oversample: float,
    alpha: float,
    num_clusters: int,
    num_neighbours: int,
    max_length: int,
    rng: np.random.Generator,
) -> Interpolation:
    """Recipes of interpolated candidates.

    Args:
        examples: What is mixed.
        embeddings: [M, H] unit embeddings.
        tasks: [M] task of each example; a pair is never of one task.
        lengths: Of the examples' blocks.
        num_kept: Recipes wanted.
        oversample: Pairs generated for each one kept.
        alpha: Of the Beta distribution that lambda is drawn from.
        num_clusters: K-means clusters of the diversity selection.
        num_neighbours: Over which density is measured.
        max_length: Longest row in tokens.
        rng: Random numbers.

    Raises:
        DataError: All examples are of one task, or no pair fits the length limit.
    """
    if len(np.unique(tasks)) < 2:
        raise DataError(
            "pools.mdit: every example is of one task, and pairs are made across tasks; set "
            "pools.mdit.across: cluster, or give data.pool a second source"
        )
    wanted = round(num_kept * oversample)
    pairs = _draw_pairs(tasks, lengths, wanted, max_length, rng)
    if len(pairs) == 0:
        raise DataError(
            f"pools.mdit: no pair of examples fits in model.max_length {max_length}; raise it"
        )
    weights = rng.beta(alpha, alpha, size=len(pairs))
    mixed = (
        weights[:, None] * embeddings[pairs[:, 0]]
        + (1 - weights[:, None]) * embeddings[pairs[:, 1]]
    ).astype(np.float32)
    kept = select_diverse(
        mixed, num_kept, num_clusters=num_clusters, num_neighbours=num_neighbours, rng=rng
    )
    recipes = tuple(
        Mdit(examples[pairs[i, 0]].id, examples[pairs[i, 1]].id, float(weights[i])) for i in kept
    )
    return Interpolation(recipes, len(pairs), wanted - len(pairs))


def select_diverse(
    points: NDArray[np.float32],
    num_kept: int,
    *,
    num_clusters: int,
    num_neighbours: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Rows kept, ascending: of each K-means cluster the densest, in proportion to its size."""
    num_kept = min(num_kept, len(points))
    labels = cluster(points, num_clusters, int(rng.integers(2**31)))
    sizes = np.bincount(labels)
    quotas = proportional_quotas(sizes, num_kept)
    kept = []
    for label, quota in enumerate(quotas):
        members = np.flatnonzero(labels == label)
        densities = density(points[members], num_neighbours)
        kept.append(members[np.argsort(-densities, kind="stable")[:quota]])
    return np.asarray(np.sort(np.concatenate(kept)), np.int64)


def density(points: NDArray[np.float32], num_neighbours: int) -> NDArray[np.float64]:
    """Inverse mean distance of each point to its nearest neighbours; a lone point has none: 0."""
    num_neighbours = min(num_neighbours, len(points) - 1)
    if num_neighbours == 0:
        return np.zeros(len(points))
    distances, _ = NearestNeighbors(n_neighbors=num_neighbours).fit(points).kneighbors()
    return np.asarray(1.0 / np.maximum(distances.mean(axis=1), 1e-12), np.float64)


def proportional_quotas(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Whole numbers that sum to ``total``, in proportion to ``sizes`` and never above them.

    Largest remainders first (Hamilton's method), ties to the lower index.
    """
    quotas, remainders = np.divmod(sizes * total, sizes.sum())  # whole numbers: ties are exact
    largest_first = np.argsort(-remainders, kind="stable")
    quotas[largest_first[: total - quotas.sum()]] += 1
    return np.asarray(quotas, np.int64)


def _draw_pairs(
    tasks: NDArray[np.int64],
    lengths: Lengths,
    wanted: int,
    max_length: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """[G, 2] pairs across tasks that fit; first parents go round the examples in random order."""
    firsts = np.concatenate([rng.permutation(len(tasks)) for _ in range(-(-wanted // len(tasks)))])
    pairs = []
    for first in firsts[:wanted]:
        others = np.flatnonzero(tasks != tasks[first])
        for second in rng.choice(others, size=min(DRAWS_PER_PAIR, len(others)), replace=False):
            if _mixed_length(lengths, first, second) <= max_length:
                pairs.append((first, second))
                break
    return np.array(pairs, np.int64).reshape(-1, 2)


def _mixed_length(lengths: Lengths, first: int, second: int) -> int:
    pair = [first, second]
    return int(lengths.prompts[pair].max() + lengths.responses[pair].max())
