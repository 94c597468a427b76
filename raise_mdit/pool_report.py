"""What a pool costs to train on: samples, steps, tokens and padding, by kind and apart.

A mosaic saves samples, and so steps, far more than tokens; how much time that is depends on how
rows are padded. So each is told by itself (arXiv 2405.13326 counts samples).

Shapes: ``N`` candidates, ``P`` parents of all candidates together, ``E`` distinct examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raise_mdit.core import KINDS, Kind
from raise_mdit.pool import Pool

Group = Kind | Literal["all"]
"""What a line of the report is about."""


@dataclass(frozen=True, slots=True)
class KindReport:
    """One epoch over the candidates of a kind, or over all."""

    kind: Group
    num_candidates: int
    num_examples: int
    """Distinct examples that they are made from."""
    num_parents: int
    """Examples that they are made from, each as often as it is used."""
    num_tokens: int
    """Tokens without padding."""
    num_response_tokens: int
    """Tokens that carry loss."""
    num_steps: int
    """Optimizer steps; the last may have fewer rows."""
    num_batch_padded_tokens: int
    """Tokens and padding where each random batch is padded to its longest row."""
    num_fully_padded_tokens: int
    """Tokens and padding where every row is padded to the length limit."""

    @property
    def mean_parents(self) -> float:
        """Examples that a candidate is made from, on average."""
        return self.num_parents / self.num_candidates

    @property
    def supervised_share(self) -> float:
        """Share of the tokens that carry loss."""
        return self.num_response_tokens / self.num_tokens


@dataclass(frozen=True, slots=True)
class MosaicSavings:
    """What mosaics save against their own examples, each trained on once a pass as it is.

    Savings are shares of what the examples take; below 0, mosaics take more.
    """

    num_mosaics: int
    num_examples: int
    num_passes: float
    """How often an example is used, on average."""
    samples: float
    """Rows, and so steps at one batch size, and tokens where every row is padded to the limit."""
    tokens: float
    """Tokens without padding."""
    batch_padded_tokens: float
    """Tokens and padding where each random batch is padded to its longest row."""

    @property
    def sentence(self) -> str:
        """All of it in words."""
        return (
            f"Mosaic-IT: {self.num_mosaics:,} mosaics in {self.num_passes:.3g} passes over "
            f"{self.num_examples:,} examples, against these as they are, once a pass: "
            f"{_fewer(self.samples)} samples, and so steps, and so tokens where every row is "
            f"padded to the limit; {_fewer(self.tokens)} tokens without padding; "
            f"{_fewer(self.batch_padded_tokens)} tokens where batches are padded to their longest "
            "row."
        )


def pool_report(
    pool: Pool, *, batch_size: int, max_length: int, seed: int
) -> tuple[KindReport, ...]:
    """A line for each kind that is there, in the order of the kinds, and one for all.

    Where candidates are renewed, those of the first generation are counted beside those that are
    always on offer: what a policy has before it at one time.

    Args:
        pool: At least one candidate.
        batch_size: Rows of a step.
        max_length: Longest row in tokens.
        seed: Of the order in which rows are put into batches.
    """
    rows = _on_offer_first(pool)
    kinds = pool.kinds[rows]
    groups: list[tuple[Group, NDArray[np.int64]]] = [
        (kind, rows[kinds == code]) for code, kind in enumerate(KINDS) if np.any(kinds == code)
    ]
    groups.append(("all", rows))
    return tuple(
        _report(pool, kind, group, batch_size=batch_size, max_length=max_length, seed=seed)
        for kind, group in groups
    )


def mosaic_savings(
    pool: Pool, example_tokens: NDArray[np.int64], *, batch_size: int, seed: int
) -> MosaicSavings | None:
    """What the mosaics of :func:`pool_report` save; None where there are none.

    Args:
        pool: The candidates.
        example_tokens: [E] tokens of each of ``pool.parents.example_ids`` as it is.
        batch_size: Rows of a step.
        seed: Of the order in which rows are put into batches.
    """
    rows = _on_offer_first(pool)
    mosaics = rows[pool.kinds[rows] == KINDS.index("mosaic")]
    if not len(mosaics):
        return None
    uses = _uses(pool, mosaics)
    plain = example_tokens[uses > 0]
    composed = pool.num_tokens[mosaics]
    num_passes = int(uses.sum()) / len(plain)
    return MosaicSavings(
        num_mosaics=len(mosaics),
        num_examples=len(plain),
        num_passes=num_passes,
        samples=1 - len(mosaics) / num_passes / len(plain),
        tokens=1 - int(composed.sum()) / num_passes / int(plain.sum()),
        batch_padded_tokens=1
        - _batch_padded(composed, batch_size, seed)
        / num_passes
        / _batch_padded(plain, batch_size, seed),
    )


def renewal_note(pool: Pool) -> str | None:
    """How many generations there are and which are counted; None where nothing is renewed."""
    num_generations = int(pool.generations.max())
    if num_generations == 0:
        return None
    return (
        f"Renewal: {num_generations:,} generations, {len(pool):,} candidates in all; the table "
        f"counts what is on offer at first, {len(_on_offer_first(pool)):,} of them."
    )


def _report(
    pool: Pool,
    kind: Kind | Literal["all"],
    rows: NDArray[np.int64],
    *,
    batch_size: int,
    max_length: int,
    seed: int,
) -> KindReport:
    lengths, uses = pool.num_tokens[rows], _uses(pool, rows)
    return KindReport(
        kind=kind,
        num_candidates=len(rows),
        num_examples=int(np.count_nonzero(uses)),
        num_parents=int(uses.sum()),
        num_tokens=int(lengths.sum()),
        num_response_tokens=int(pool.num_response_tokens[rows].sum()),
        num_steps=-(-len(rows) // batch_size),
        num_batch_padded_tokens=_batch_padded(lengths, batch_size, seed),
        num_fully_padded_tokens=len(rows) * max_length,
    )


def _on_offer_first(pool: Pool) -> NDArray[np.int64]:
    """Rows that are always on offer, and those of the first generation."""
    return np.flatnonzero(pool.generations <= 1)


def _uses(pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """[E] how often each example is a parent of these rows."""
    parents = pool.parents
    chosen = np.zeros(len(pool), np.bool_)
    chosen[rows] = True
    used = parents.examples[np.repeat(chosen, np.diff(parents.starts))]
    return np.bincount(used, minlength=len(parents.example_ids))


def _batch_padded(lengths: NDArray[np.int64], batch_size: int, seed: int) -> int:
    """Tokens and padding where rows are put into batches at random."""
    shuffled = np.random.default_rng(seed).permutation(lengths)
    starts = np.arange(0, len(shuffled), batch_size)
    sizes = np.diff(starts, append=len(shuffled))
    return int(np.maximum.reduceat(shuffled, starts) @ sizes)


def _fewer(saved: float) -> str:
    return f"{abs(saved):.1%} {'more' if saved < 0 else 'fewer'}"
