"""MDIT: interpolations of two instructions (arXiv 2504.07288).

The paper pairs across tasks and draws lambda from Beta(alpha, alpha) for each pair; three other
pairings are offered beside it. More are generated than kept: embeddings are clustered by K-means,
every cluster keeps a number in proportion to its size, and within a cluster the densest are kept,
density being the inverse mean distance to the nearest neighbours. Only recipes are made here;
hidden states are mixed when a row is trained on.

Two examples may meet more than once, each time with a lambda of its own, so recipes differ. Lambda
itself repeats only where it rounds to 1, in 0.03 % of draws at an alpha of 0.2, 1.2 % at 0.1, and
as good as never from 0.5 on; a pool keeps one of equal candidates.

Shapes: ``M`` examples, ``H`` hidden size, ``F`` first parents, ``G`` generated pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from raise_mdit.candidates import Mdit
from raise_mdit.clustering import cluster
from raise_mdit.core import Example
from raise_mdit.errors import DataError

DRAWS_PER_PAIR = 20
"""Attempts at a pair that fits the length limit before it is given up and counted."""

Pairing = Literal["across", "within", "nearest", "confidence"]
"""Who is mixed: two tasks (`across`, the paper's), two examples of one task (`within`, a control),
an example and one of its nearest by embedding (`nearest`), or one of the more and one of the less
confident half (`confidence`, SFTMix, arXiv 2410.05248, which takes confidence from several
checkpoints of a training run, here from one model)."""


class Interpolation(NamedTuple):
    """Recipes kept, and what was left out; generated and given up are the pairs wanted."""

    recipes: tuple[Mdit, ...]
    num_generated: int
    """Pairs that the diversity selection chose from."""
    num_too_long: int
    """Pairs given up since no partner that was drawn fitted the length limit."""
    num_alone: int
    """Pairs given up since the first parent is the only example of its task (pairing within)."""


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
    pairing: Pairing,
    confidence: NDArray[np.float64] | None,
    num_clusters: int,
    num_neighbours: int,
    max_length: int,
    rng: np.random.Generator,
    neighbours: NDArray[np.int64] | None = None,
) -> Interpolation:
    """Recipes of interpolated candidates.

    First parents go round the examples in random order. The second parent is drawn evenly from the
    partners that the pairing allows, again and again until the pair fits the length limit.

    Args:
        examples: What is mixed.
        embeddings: [M, H] unit embeddings.
        tasks: [M] task of each example, for pairing across and within.
        lengths: Of the examples' blocks.
        num_kept: Recipes wanted.
        oversample: Pairs generated for each one kept.
        alpha: Of the Beta distribution that lambda is drawn from.
        pairing: Who is mixed.
        confidence: [M] how sure a model is of each example, higher for surer, finite, such as the
            mean log-probability of a response token; read by pairing by confidence alone.
        num_clusters: K-means clusters of the diversity selection.
        num_neighbours: Over which density is measured, and among which `nearest` draws.
        max_length: Longest row in tokens.
        rng: Random numbers.
        neighbours: [M, K] by :func:`nearest_neighbours`, for pairing with the nearest alone; None
            has them found, which who interpolates the same examples again need not do.

    Raises:
        DataError: The pairing is impossible for these examples, or no pair fits the length limit.
    """
    if pairing == "nearest" and neighbours is None:
        neighbours = nearest_neighbours(embeddings, num_neighbours)
    partners = _partners(pairing, tasks, confidence, neighbours)
    drawn = _draw_pairs(partners, lengths, round(num_kept * oversample), max_length, rng)
    firsts, seconds = drawn.pairs.T
    weights = rng.beta(alpha, alpha, size=len(firsts))
    kept = select_diverse(
        _mixed(embeddings, firsts, seconds, weights),
        num_kept,
        num_clusters=num_clusters,
        num_neighbours=num_neighbours,
        rng=rng,
    )
    recipes = tuple(
        Mdit(examples[firsts[i]].id, examples[seconds[i]].id, float(weights[i])) for i in kept
    )
    return Interpolation(recipes, len(firsts), drawn.num_too_long, drawn.num_alone)


def select_diverse(
    points: NDArray[np.float32],
    num_kept: int,
    *,
    num_clusters: int,
    num_neighbours: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Rows kept, ascending: of each K-means cluster the densest, in proportion to its size."""
    if num_kept >= len(points):
        return np.arange(len(points))
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
    # In double precision inside. A product of blocks by numpy and argpartition took as long.
    distances, _ = NearestNeighbors(n_neighbors=num_neighbours).fit(points).kneighbors()
    return np.asarray(1.0 / np.maximum(distances.mean(axis=1), 1e-12), np.float64)


def nearest_neighbours(embeddings: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """[M, K] the examples nearest to each, itself left out, found exactly; K is at most M - 1.

    That took 81 s of one core for 52,002 x 576, and grows with the square of the examples.

    Args:
        embeddings: [M, H] of the examples.
        count: Of neighbours wanted.

    Raises:
        DataError: There is one example only.
    """
    if len(embeddings) < 2:
        raise DataError(
            "pools.mdit.pairing: nearest needs two examples at least, got "
            f"{len(embeddings)}; ask for more rows in data.pool"
        )
    found = NearestNeighbors(n_neighbors=min(count, len(embeddings) - 1)).fit(embeddings)
    return np.asarray(found.kneighbors(return_distance=False), np.int64)


def proportional_quotas(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Whole numbers that sum to ``total``, in proportion to ``sizes`` and never above them.

    Largest remainders first (Hamilton's method), ties to the lower index.
    """
    quotas, remainders = np.divmod(sizes * total, sizes.sum())  # whole numbers: ties are exact
    largest_first = np.argsort(-remainders, kind="stable")
    quotas[largest_first[: total - quotas.sum()]] += 1
    return np.asarray(quotas, np.int64)


class _Partners(NamedTuple):
    """Who may be mixed with whom."""

    exist: NDArray[np.bool_]
    """[M] whether an example has any partner."""
    draw: Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.int64]]
    """[F] a partner, drawn evenly, of each of [F] examples that have one."""


class _Drawn(NamedTuple):
    pairs: NDArray[np.int64]
    """[G, 2] examples."""
    num_too_long: int
    num_alone: int


def _draw_pairs(
    partners: _Partners,
    lengths: Lengths,
    wanted: int,
    max_length: int,
    rng: np.random.Generator,
) -> _Drawn:
    """Pairs that fit; all first parents without a fitting partner draw anew at once."""
    num_examples = len(partners.exist)
    rounds = -(-wanted // num_examples)
    firsts = np.concatenate([rng.permutation(num_examples) for _ in range(rounds)])[:wanted]
    firsts = firsts[partners.exist[firsts]]
    seconds = np.full_like(firsts, -1)
    pending = np.arange(len(firsts))
    for _ in range(DRAWS_PER_PAIR):
        drawn = partners.draw(firsts[pending], rng)
        fits = _mixed_lengths(lengths, firsts[pending], drawn) <= max_length
        seconds[pending[fits]] = drawn[fits]
        pending = pending[~fits]
    num_alone = wanted - len(firsts)
    if len(pending) == len(firsts):
        raise DataError(_nothing_drawn(len(pending), num_alone, max_length))
    found = seconds >= 0
    pairs = np.stack([firsts[found], seconds[found]], axis=1)
    return _Drawn(pairs, len(pending), num_alone)


def _nothing_drawn(num_too_long: int, num_alone: int, max_length: int) -> str:
    if num_too_long == 0:
        return (
            f"pools.mdit.tasks: each of the {num_alone} examples drawn is the only one of its "
            "task, and pairing within mixes two of one; use fewer tasks or a larger "
            "pools.mdit.ratio"
        )
    return f"pools.mdit: no pair of examples fits in model.max_length {max_length}; raise it"


def _mixed_lengths(
    lengths: Lengths, firsts: NDArray[np.int64], seconds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[F] tokens of each mix: the longer prompt and the longer response."""
    prompts, responses = (np.maximum(each[firsts], each[seconds]) for each in lengths)
    return np.asarray(prompts + responses, np.int64)


def _mixed(
    embeddings: NDArray[np.float32],
    firsts: NDArray[np.int64],
    seconds: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> NDArray[np.float32]:
    """[G, H] lambda a + (1 - lambda) b, in place: a million rows are gigabytes."""
    shares = weights.astype(np.float32)[:, None]
    mixed = embeddings[firsts]
    mixed *= shares
    others = embeddings[seconds]
    others *= 1 - shares
    mixed += others
    return mixed


def _partners(
    pairing: Pairing,
    tasks: NDArray[np.int64],
    confidence: NDArray[np.float64] | None,
    neighbours: NDArray[np.int64] | None,
) -> _Partners:
    match pairing:
        case "across":
            return _across(tasks)
        case "within":
            return _within(tasks)
        case "nearest":
            assert neighbours is not None, "neighbours are found before partners"
            return _among(neighbours)
        case "confidence":
            return _by_confidence(confidence)


def _across(tasks: NDArray[np.int64]) -> _Partners:
    if len(np.unique(tasks)) < 2:
        raise DataError(
            "pools.mdit.tasks: every example is of one task, and pairs are made across tasks; "
            "write `tasks: cluster`, give data.pool a second source, or choose another "
            "pools.mdit.pairing"
        )
    return _outside(_Groups.of(tasks))


def _within(tasks: NDArray[np.int64]) -> _Partners:
    groups = _Groups.of(tasks)

    def draw(firsts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        places = groups.starts[firsts] + rng.integers(groups.sizes[firsts] - 1)
        places += places >= groups.places[firsts]  # step over the first parent itself
        return np.asarray(groups.order[places], np.int64)

    exist = groups.sizes > 1
    if not exist.any():
        raise DataError(
            "pools.mdit.tasks: no task has two examples, and pairing within mixes two of one; "
            "use fewer tasks, or choose another pools.mdit.pairing"
        )
    return _Partners(exist, draw)


def _among(neighbours: NDArray[np.int64]) -> _Partners:
    def draw(firsts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        which = rng.integers(neighbours.shape[1], size=len(firsts))
        return np.asarray(neighbours[firsts, which], np.int64)

    return _Partners(np.ones(len(neighbours), np.bool_), draw)


def _by_confidence(confidence: NDArray[np.float64] | None) -> _Partners:
    if confidence is None:
        raise DataError(
            "pools.mdit.pairing: confidence needs to know how sure a model is of each example; "
            "set features.tier: model, or choose another pairing"
        )
    assert np.isfinite(confidence).all(), "confidence is finite"
    if len(confidence) < 2:
        raise DataError(
            "pools.mdit.pairing: confidence needs two examples at least, got "
            f"{len(confidence)}; ask for more rows in data.pool"
        )
    halves = np.zeros(len(confidence), np.int64)
    # By rank, ties by row: halves are equal but for one example, whatever the numbers.
    halves[np.argsort(confidence, kind="stable")[len(confidence) // 2 :]] = 1
    return _outside(_Groups.of(halves))


class _Groups(NamedTuple):
    """Examples group by group, so that a partner is one whole number to draw."""

    order: NDArray[np.int64]
    """[M] examples, those of a group together."""
    places: NDArray[np.int64]
    """[M] where an example stands in ``order``."""
    starts: NDArray[np.int64]
    """[M] where its group begins there."""
    sizes: NDArray[np.int64]
    """[M] examples in its group."""

    @classmethod
    def of(cls, labels: NDArray[np.int64]) -> _Groups:
        _, groups, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        order = np.argsort(groups, kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        starts = np.cumsum(sizes) - sizes
        return cls(order, places, starts[groups], sizes[groups])


def _outside(groups: _Groups) -> _Partners:
    """Partners of any other group."""

    def draw(firsts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        sizes = groups.sizes[firsts]
        places = rng.integers(len(groups.order) - sizes)
        places += np.where(places >= groups.starts[firsts], sizes, 0)  # step over its own group
        return groups.order[places]

    return _Partners(groups.sizes < len(groups.order), draw)
