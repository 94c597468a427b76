"""Rankings that spread over the candidates' embeddings.

Each compares all candidates with each one that is ranked greedily: ``num_ranked`` products of a
matrix and a vector, O(N H) each.

Shapes: ``N`` candidates, ``H`` hidden size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raise_mdit.rankings.difficulty import HINDERED
from raise_mdit.rankings.order import ranks_in

ROUNDING = 1e-5
"""Share of a distance that is no difference; errors in single precision are about 1e-6."""


def by_k_center(
    embeddings_NH: NDArray[np.float32], *, num_ranked: int, seed_row: int
) -> NDArray[np.int64]:
    """[N] ranks of the core-set: next is what is farthest from all before, ties by row.

    It is the greedy algorithm of arXiv 1708.00489 (algorithm 1), whose largest distance of a
    candidate to its nearest chosen one is at most twice the smallest possible (Gonzalez 1985,
    "Clustering to minimize the maximum intercluster distance"). Behind those ranked greedily come
    the rest by distance to these, farthest first.

    Args:
        embeddings_NH: Of the candidates.
        num_ranked: How many are ranked greedily, at least 1; all where there are fewer.
        seed_row: Ranked first. Active learning begins with what has labels already and Gonzalez
            with any point; :func:`most_central` gives one that does not depend on chance.
    """
    squares_N = _squared_lengths(embeddings_NH)
    nearest_N = np.full(len(embeddings_NH), np.inf, np.float32)
    row = seed_row
    chosen = []
    for _ in range(min(num_ranked, len(embeddings_NH))):
        chosen.append(row)
        from_row_N = squares_N + squares_N[row] - 2 * (embeddings_NH @ embeddings_NH[row])
        np.minimum(nearest_N, from_row_N, out=nearest_N)
        nearest_N[row] = -np.inf  # never again, though a duplicate be at distance 0
        row = _first_of_the_largest(nearest_N)
    others = np.argsort(-nearest_N, kind="stable")[: len(embeddings_NH) - len(chosen)]
    return ranks_in(np.concatenate([chosen, others]))


def most_central(embeddings_NH: NDArray[np.float32]) -> int:
    """Row of the candidate nearest to the mean, the first of several."""
    mean_H = embeddings_NH.mean(axis=0, dtype=np.float64).astype(np.float32)
    return _first_of_the_largest(2 * (embeddings_NH @ mean_H) - _squared_lengths(embeddings_NH))


def deita_quality(
    ifd_N: NDArray[np.float64], num_response_tokens_N: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[N] IFD times the logarithm of one more than the response's tokens.

    DEITA (arXiv 2312.15685, section 2) multiplies complexity and quality as two tuned models judge
    them. Here IFD stands for the one and length for the other, and what the prompt does not help
    has quality 0: its IFD is the highest, and it is misaligned.

    Args:
        ifd_N: Instruction-following difficulty.
        num_response_tokens_N: Lengths of the responses.
    """
    return np.where(ifd_N < HINDERED, ifd_N, 0.0) * np.log1p(num_response_tokens_N)


def by_quality_and_diversity(
    quality_N: NDArray[np.float64],
    embeddings_NH: NDArray[np.float32],
    *,
    threshold: float,
    num_ranked: int,
) -> NDArray[np.int64]:
    """[N] ranks by quality, ties by row, with what is too near to one already taken put off.

    It is the Repr Filter of DEITA (arXiv 2312.15685, algorithm 1), until ``num_ranked`` are taken.
    All others follow by quality: first those that were put off, for they were met before.

    Args:
        quality_N: Higher is better.
        embeddings_NH: At unit length.
        threshold: Largest cosine similarity with one already taken.
        num_ranked: How many are taken at most, at least 1.
    """
    order_N = np.argsort(-quality_N, kind="stable")
    sorted_NH = embeddings_NH[order_N]
    too_near_N = np.zeros(len(order_N), np.bool_)
    taken_N = np.zeros(len(order_N), np.bool_)
    num_taken = 0
    for place in range(len(order_N)):
        if too_near_N[place]:
            continue
        taken_N[place] = True
        num_taken += 1
        if num_taken == num_ranked:
            break
        later = slice(place + 1, None)
        too_near_N[later] |= sorted_NH[later] @ sorted_NH[place] > threshold
    return ranks_in(np.concatenate([order_N[taken_N], order_N[~taken_N]]))


def _first_of_the_largest(values_N: NDArray[np.float32]) -> int:
    """The first row whose value is the largest but for rounding.

    A mosaic of one example has the embedding of that example, and where a row stands decides its
    last digits in a product, differently on another number of threads.
    """
    largest = values_N.max()
    return int(np.argmax(values_N >= largest - ROUNDING * np.abs(largest)))


def _squared_lengths(embeddings_NH: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.einsum("nh,nh->n", embeddings_NH, embeddings_NH), np.float32)
