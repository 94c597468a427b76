"""Candidates as text: to be looked at by a person, or read by any trainer.

An interpolation has no text of its own. A person is shown what its mixed embeddings come nearest
to; a file of texts leaves it out.

Shapes: ``V`` tokens of the vocabulary, ``D`` embedding width, ``S`` positions of a response.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raise_mdit.candidate_encoding import CandidateEncoder
from raise_mdit.candidates import Custom, Mdit, Mosaic, Original
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import KINDS, EncodedRow, Example, Kind, Message
from raise_mdit.errors import UserError, nearest
from raise_mdit.pool import Pool
from raise_mdit.progress import Progress
from raise_mdit.runs import replacing
from raise_mdit.sources.mosaic_rendering import Choices
from raise_mdit.synthesis_checks import not_offered

TEXT_SUFFIXES = (".parquet", ".jsonl")
"""What a file of texts may end in."""

TEXT_BLOCK = 1024
"""Conversations in memory at once while they are written; rows of a Parquet row group."""

NUM_POSITIONS_SHOWN = 48
"""Positions of an interpolated response that a person is shown."""

_TEXT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("source", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("num_tokens", pa.int32()),
        ("num_response_tokens", pa.int32()),
    ]
)


class Heading(NamedTuple):
    """What can be said of any candidate."""

    kind: Kind
    id: str
    source: str
    num_tokens: int
    num_response_tokens: int
    made: str
    """How it was made, in words."""


@dataclass(frozen=True, slots=True)
class TextView:
    """A candidate that is a conversation."""

    heading: Heading
    messages: tuple[Message, ...]


class MixedPosition(NamedTuple):
    """A position of an interpolated response."""

    first: str | None
    """The first parent's token; None where its response has none."""
    second: str | None
    """The second parent's token; None where its response has none."""
    nearest: str
    """The token whose input embedding is nearest to the mixed one."""
    cosine: float
    """Of the angle between both embeddings."""


@dataclass(frozen=True, slots=True)
class MixedView:
    """A candidate that is an interpolation."""

    heading: Heading
    parents: tuple[Example, Example]
    positions: tuple[MixedPosition, ...]
    """The first :data:`NUM_POSITIONS_SHOWN` of the response."""
    num_positions: int
    """Of the whole response."""


@dataclass(frozen=True, slots=True, eq=False)
class Viewer:
    """Makes candidates readable."""

    pool: Pool
    encoder: CandidateEncoder
    examples: Mapping[str, Example]
    """The pool's examples by id."""
    embeddings: NDArray[np.float32]
    """[V, D] input embeddings of the model."""
    decode: Callable[[int], str]
    """Text of a token."""

    def view(self, row: int) -> TextView | MixedView:
        """The candidate at a row of the pool."""
        recipe = self.pool.recipe(row)
        if isinstance(recipe, Mdit):
            return self._mixed(row, recipe)
        return TextView(self._heading(row, _made(recipe)), self.encoder.messages(recipe))

    def _heading(self, row: int, made: str) -> Heading:
        return Heading(
            kind=KINDS[self.pool.kinds[row]],
            id=self.pool.ids[row],
            source=self.pool.sources[row],
            num_tokens=int(self.pool.num_tokens[row]),
            num_response_tokens=int(self.pool.num_response_tokens[row]),
            made=made,
        )

    def _mixed(self, row: int, recipe: Mdit) -> MixedView:
        encoded = self.encoder.row(self.pool.ids[row], recipe)
        made = f"lambda {recipe.weight:.3g}: that share of the first parent, the rest of the second"
        return MixedView(
            heading=self._heading(row, made),
            parents=(self.examples[recipe.first], self.examples[recipe.second]),
            positions=tuple(self._positions(encoded, recipe.weight)),
            num_positions=encoded.num_scored,
        )

    def _positions(self, row: EncodedRow, weight: float) -> Iterator[MixedPosition]:
        places = row.scored[:NUM_POSITIONS_SHOWN] + 1
        first = row.ids[places]
        second = first if row.partner_ids is None else row.partner_ids[places]
        mixed = row.mix * self.embeddings[first] + (1.0 - row.mix) * self.embeddings[second]
        found, cosines = nearest_tokens(mixed, self.embeddings)
        shares = row.target_weights[: len(places)]
        if row.partner_ids is None and weight == 0.0:
            shares = shares[:, ::-1]  # the row is the second parent's own
        for place, (one, two) in enumerate(zip(first, second, strict=True)):
            yield MixedPosition(
                first=self.decode(int(one)) if shares[place, 0] else None,
                second=self.decode(int(two)) if shares[place, 1] else None,
                nearest=self.decode(int(found[place])),
                cosine=float(cosines[place]),
            )


class WrittenTexts(NamedTuple):
    """What a file of texts holds."""

    num_rows: int
    num_interpolated: int
    """Candidates left out, since text cannot hold them."""


def check_kind(name: str, config: ExperimentConfig) -> Kind:
    """The kind called so.

    Raises:
        UserError: There is none, or the pools of the experiment make none.
    """
    if name not in KINDS:
        raise UserError(
            f"--kind: there is no kind {name!r}, allowed: {', '.join(KINDS)}.{nearest(name, KINDS)}"
        )
    if message := not_offered(config, name):
        raise UserError(f"--kind: {message}")
    return name


def check_text_file(path: Path) -> None:
    """Nothing, if texts can be written to a file of this name.

    Raises:
        UserError: They cannot.
    """
    if path.suffix not in TEXT_SUFFIXES:
        raise UserError(
            f"--out: {str(path)!r} should end in one of {', '.join(TEXT_SUFFIXES)}."
            f"{nearest(path.suffix, TEXT_SUFFIXES)}"
        )
    if path.is_dir():
        raise UserError(f"--out: {str(path)!r} is a folder; give the name of a file in it")
    folder = next(each for each in path.absolute().parents if each.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(
            f"--out: {str(path)!r} cannot be written: {str(folder)!r} is no folder for it"
        )


def draw_rows(pool: Pool, count: int, *, kind: Kind | None, seed: int) -> list[int]:
    """Random rows of a kind, or of each kind in turn; all of them where there are not so many.

    Args:
        pool: The candidates.
        count: Rows of each kind.
        kind: None takes every kind that is there.
        seed: Of the draw; what it gives for a kind does not depend on the others.

    Raises:
        UserError: The pool has none of the kind.
    """
    sizes = np.bincount(pool.kinds, minlength=len(KINDS))
    present = [name for name, size in zip(KINDS, sizes, strict=True) if size]
    if kind is not None and kind not in present:
        raise UserError(f"--kind: this pool has no {kind} candidates, only {', '.join(present)}")
    rows: list[int] = []
    for name in present if kind is None else [kind]:
        code = KINDS.index(name)
        rng = np.random.default_rng([seed, code])
        of_kind = np.flatnonzero(pool.kinds == code)
        rows += map(int, rng.choice(of_kind, min(count, len(of_kind)), replace=False))
    return rows


def nearest_tokens(
    mixed: NDArray[np.float32], embeddings: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """[S] tokens whose embeddings are nearest by angle, and [S] the cosines of these angles.

    Args:
        mixed: [S, D] embeddings.
        embeddings: [V, D] embeddings of the vocabulary; zeros are near to nothing.
    """
    # Norms are taken out afterwards, as a second matrix of all embeddings may not fit.
    products = mixed @ embeddings.T / np.maximum(_norms(embeddings), np.finfo(np.float32).tiny)
    found = products.argmax(axis=1)
    best = products[np.arange(len(found)), found].astype(np.float64)
    return found, best / np.maximum(_norms(mixed), np.finfo(np.float32).tiny)


def write_texts(
    pool: Pool, encoder: CandidateEncoder, path: Path, progress: Progress
) -> WrittenTexts:
    """Write what is text as chat data, one conversation a row, in the order of the pool.

    Rows have the columns `id`, `kind`, `source`, `messages` (each a `role` and a `content`),
    `num_tokens` and `num_response_tokens`. The file appears when it is complete.

    Args:
        pool: The candidates.
        encoder: Of the same candidates.
        path: Ends in one of :data:`TEXT_SUFFIXES`.
        progress: Told of the rows.

    Raises:
        UserError: The name does not fit, or all candidates are interpolations.
    """
    check_text_file(path)
    rows = np.flatnonzero(pool.kinds != KINDS.index("mdit"))
    if not len(rows):
        raise UserError(
            f"--out: all {len(pool):,} candidates are interpolations, which text cannot hold"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    progress.start(f"writing {path.name}", len(rows))
    write = _write_parquet if path.suffix == ".parquet" else _write_json_lines
    with replacing(path) as stream:
        write(stream, _blocks(pool, encoder, rows, progress))
    return WrittenTexts(len(rows), len(pool) - len(rows))


def _made(recipe: Original | Mosaic | Custom) -> str:
    match recipe:
        case Original():
            return "an example as it is"
        case Mosaic(examples, strategy):
            said = [f"{strategy} of {_counted(len(examples))}", *_rules(recipe)]
            return "; ".join(said)
        case Custom(examples):
            return f"made from {_counted(len(examples))}"


def _rules(recipe: Mosaic) -> Iterator[str]:
    """What a mosaic asks for besides its instructions."""
    if "rules" not in recipe.choices:  # strategies without tags ask for nothing
        return
    choices = cast(Choices, recipe.choices)
    answers = choices["answers"]
    for rule in choices["rules"]:
        name = rule["name"].replace("_", " ")
        if rule["masks"]:
            masked = [n for n in range(1, len(recipe.examples) + 1) if n not in answers]
            yield f"no response to {_listed(masked)} ({name})"
        else:
            yield f"responses in the order {_listed(answers)} ({name})"
    if choices["marks"] is not None:
        yield "responses between marks"


def _counted(num_examples: int) -> str:
    return f"{num_examples} example{'s' if num_examples > 1 else ''}"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _norms(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(np.einsum("vd,vd->v", vectors, vectors)), np.float32)


_Row = dict[str, object]
"""A row of a file of texts, in the columns of `_TEXT_SCHEMA`."""


def _blocks(
    pool: Pool, encoder: CandidateEncoder, rows: NDArray[np.int64], progress: Progress
) -> Iterator[list[_Row]]:
    """Rows by :data:`TEXT_BLOCK`, each counted when it has been written."""
    for start in range(0, len(rows), TEXT_BLOCK):
        block = [_row(pool, encoder, int(row)) for row in rows[start : start + TEXT_BLOCK]]
        yield block
        progress.advance(len(block))


def _row(pool: Pool, encoder: CandidateEncoder, row: int) -> _Row:
    recipe = pool.recipe(row)
    assert not isinstance(recipe, Mdit), "interpolations are left out"
    return {
        "id": pool.ids[row],
        "kind": KINDS[pool.kinds[row]],
        "source": pool.sources[row],
        "messages": [turn._asdict() for turn in encoder.messages(recipe)],
        "num_tokens": int(pool.num_tokens[row]),
        "num_response_tokens": int(pool.num_response_tokens[row]),
    }


def _write_parquet(stream: BinaryIO, blocks: Iterable[list[_Row]]) -> None:
    with pq.ParquetWriter(stream, _TEXT_SCHEMA, compression="zstd") as writer:
        for block in blocks:
            writer.write_batch(pa.RecordBatch.from_pylist(block, schema=_TEXT_SCHEMA))


def _write_json_lines(stream: BinaryIO, blocks: Iterable[list[_Row]]) -> None:
    for block in blocks:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in block)
        stream.write("".join(lines).encode())
