"""The pool: candidates as columns, from the moment they are made to the file they are kept in.

A million candidates are a few arrays: no Python object is kept for a row, and what a recipe says is
read when it is asked for.

Shapes: ``N`` candidates, ``P`` parents of all candidates together.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raise_mdit.candidates import (
    Candidate,
    Custom,
    Mdit,
    Mosaic,
    Original,
    Recipe,
    canonical_json,
    kind_of,
)
from raise_mdit.core import KINDS, Message
from raise_mdit.errors import RunError
from raise_mdit.runs import write_bytes

BLOCK = 2**15
"""Candidates that stand as Python objects at once while a pool is made."""

_NAMES = pa.dictionary(pa.int32(), pa.string())

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", _NAMES),
        ("source", _NAMES),
        ("num_tokens", pa.int32()),
        ("num_response_tokens", pa.int32()),
        ("generation", pa.int32()),
        ("examples", pa.list_(pa.string())),
        ("weight", pa.float64()),
        ("strategy", _NAMES),
        ("choices", pa.string()),
        ("messages", pa.string()),
    ]
)
"""Of the file. In memory `examples` are positions in the list of distinct ids."""

_CODED = _SCHEMA.set(
    _SCHEMA.get_field_index("examples"), pa.field("examples", pa.list_(pa.int32()))
)


class Parents(NamedTuple):
    """What every candidate is made from, in the layout of a sparse matrix by rows."""

    example_ids: Sequence[str]
    """Distinct example ids."""
    starts: NDArray[np.int64]
    """[N + 1] where the parents of each candidate begin; the last is P."""
    examples: NDArray[np.int32]
    """[P] positions in ``example_ids``."""
    shares: NDArray[np.float64]
    """[P] share of each parent; those of a candidate sum to one."""


class Strings(Sequence[str]):
    """A column of texts that makes a Python string only of what is asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._values = _one_array(column)

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [str(value) for value in self._values[index].to_pylist()]
        return str(self._values[int(index)].as_py())


class Pool:
    """Candidates as columns; row numbers are how the rest of the program names them."""

    def __init__(self, table: pa.Table, example_ids: Sequence[str]) -> None:
        """Take columns as they are; see :meth:`of` and :meth:`read`."""
        assert table.schema.equals(_CODED), f"not a pool: {table.schema}"
        self._table = table
        self._example_ids = list(example_ids)

    @classmethod
    def of(cls, candidates: Iterable[Candidate]) -> Pool:
        """A pool of the given candidates, in their order; of equal candidates the first stays."""
        columns = _Columns()
        for candidate in candidates:
            columns.add(candidate)
        return cls(_without_repeats(columns.table()), columns.example_ids)

    @classmethod
    def read(cls, path: Path) -> Pool:
        """The pool that :meth:`write` wrote.

        Raises:
            RunError: It is not there, or not a pool of this version.
        """
        try:
            table = pq.read_table(path, memory_map=True)
        except FileNotFoundError as error:
            raise RunError(f"{path}: no such file; is {path.parent} a run directory?") from error
        except pa.ArrowInvalid as error:
            raise RunError(f"{path}: not a Parquet file, or cut short") from error
        if table.schema.names != _SCHEMA.names:
            raise RunError(
                f"{path}: its columns are {', '.join(table.schema.names)}; a pool has "
                f"{', '.join(_SCHEMA.names)}. It may be of an older version: run again"
            )
        examples = _one_array(table.column("examples"))
        coded = examples.flatten().dictionary_encode()
        column = pa.ListArray.from_arrays(_offsets(examples), coded.indices)
        table = table.set_column(_SCHEMA.get_field_index("examples"), "examples", column)
        return cls(table.cast(_CODED), coded.dictionary.to_pylist())

    def write(self, path: Path) -> None:
        """Write as Parquet, at once; example ids are spelt out."""
        codes = _one_array(self._table.column("examples"))
        ids = pa.array(self._example_ids, pa.string()).take(codes.flatten())
        column = pa.ListArray.from_arrays(_offsets(codes), ids)
        table = self._table.set_column(_SCHEMA.get_field_index("examples"), "examples", column)
        content = io.BytesIO()
        pq.write_table(table.cast(_SCHEMA), content, compression="zstd")
        write_bytes(path, content.getvalue())

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def num_bytes(self) -> int:
        """Memory of the columns."""
        return int(self._table.nbytes)

    @cached_property
    def ids(self) -> Strings:
        """Candidate ids by row."""
        return Strings(self._table.column("id"))

    @cached_property
    def sources(self) -> Strings:
        """Source names by row."""
        return Strings(self._table.column("source"))

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """[N] position of each candidate's kind in :data:`raise_mdit.core.KINDS`."""
        kinds = self._table.column("kind").cast(pa.string())
        return _numbers(pc.index_in(kinds, pa.array(KINDS)))

    @cached_property
    def num_tokens(self) -> NDArray[np.int64]:
        """[N] tokens of each candidate."""
        return _numbers(self._table.column("num_tokens"))

    @cached_property
    def num_response_tokens(self) -> NDArray[np.int64]:
        """[N] tokens of each candidate that carry loss."""
        return _numbers(self._table.column("num_response_tokens"))

    @cached_property
    def generations(self) -> NDArray[np.int64]:
        """[N] when each candidate is on offer: 0 always, others in their turn."""
        return _numbers(self._table.column("generation"))

    @cached_property
    def parents(self) -> Parents:
        """What every candidate is made from."""
        examples = _one_array(self._table.column("examples"))
        starts = np.asarray(_offsets(examples).to_numpy(), np.int64)
        counts = np.diff(starts)
        shares = np.repeat(1.0 / np.maximum(counts, 1), counts)
        weights = self._table.column("weight").to_numpy()
        mixed = np.flatnonzero(self.kinds == KINDS.index("mdit"))
        shares[starts[mixed]] = weights[mixed]
        shares[starts[mixed] + 1] = 1.0 - weights[mixed]
        codes = np.asarray(examples.flatten().to_numpy(), np.int32)
        return Parents(self._example_ids, starts, codes, shares)

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """[len(ids)] row of each id.

        Raises:
            KeyError: One is not in the pool.
        """
        rows = pc.index_in(pa.array(ids, pa.string()), _one_array(self._table.column("id")))
        if rows.null_count:
            raise KeyError(ids[rows.to_pylist().index(None)])
        return _numbers(rows)

    def recipe(self, row: int) -> Recipe:
        """The recipe at a row."""
        parents = self.parents
        codes = parents.examples[parents.starts[row] : parents.starts[row + 1]]
        examples = tuple(self._example_ids[code] for code in codes)
        match KINDS[self.kinds[row]]:
            case "original":
                return Original(*examples)
            case "mosaic":
                choices = json.loads(self._value("choices", row))
                return Mosaic(examples, self._value("strategy", row), choices)
            case "mdit":
                first, second = examples
                return Mdit(first, second, self._value("weight", row))
        turns = json.loads(self._value("messages", row))
        return Custom(examples, tuple(Message(*turn) for turn in turns))

    def _value(self, column: str, row: int) -> Any:  # a cell is of its column's type
        return self._columns[column][int(row)].as_py()

    @cached_property
    def _columns(self) -> dict[str, pa.Array]:
        """What is read cell by cell, each in one piece."""
        names = ("choices", "strategy", "weight", "messages")
        return {name: _one_array(self._table.column(name)) for name in names}


class _Columns:
    """The columns of a pool while candidates are added to it."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._rows: list[dict[str, object]] = []
        self._blocks: list[pa.RecordBatch] = []

    @property
    def example_ids(self) -> list[str]:
        return list(self._codes)

    def add(self, candidate: Candidate) -> None:
        self._rows.append(self._row(candidate))
        if len(self._rows) == BLOCK:
            self._flush()

    def table(self) -> pa.Table:
        self._flush()
        table = pa.Table.from_batches(self._blocks, schema=_CODED)
        return table.unify_dictionaries().combine_chunks()

    def _row(self, candidate: Candidate) -> dict[str, object]:
        row: dict[str, object] = {
            "id": candidate.id,
            "kind": kind_of(candidate.recipe),
            "source": candidate.source,
            "num_tokens": candidate.num_tokens,
            "num_response_tokens": candidate.num_response_tokens,
            "generation": candidate.generation,
        }
        match candidate.recipe:
            case Original(example):
                return {**row, "examples": self._coded(example)}
            case Mosaic(examples, strategy, choices):
                text = canonical_json(choices)
                coded = self._coded(*examples)
                return {**row, "examples": coded, "strategy": strategy, "choices": text}
            case Mdit(first, second, weight):
                return {**row, "examples": self._coded(first, second), "weight": weight}
            case Custom(examples, messages):
                text = canonical_json([list(turn) for turn in messages])
                return {**row, "examples": self._coded(*examples), "messages": text}

    def _coded(self, *examples: str) -> list[int]:
        codes = self._codes
        return [codes.setdefault(example, len(codes)) for example in examples]

    def _flush(self) -> None:
        if self._rows:
            self._blocks.append(pa.RecordBatch.from_pylist(self._rows, schema=_CODED))
            self._rows = []


def _without_repeats(table: pa.Table) -> pa.Table:
    """The first row of each id, in the order they stand in."""
    ids = np.asarray(_one_array(table.column("id")).cast(pa.binary()).to_numpy(False), "S")
    first = np.unique(ids, return_index=True)[1]
    return table if len(first) == len(ids) else table.take(np.sort(first))


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece that begins at its buffers' start."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _offsets(lists: pa.ListArray) -> pa.Array:
    """[N + 1] where each list begins, counted from the first."""
    return pc.subtract(lists.offsets, lists.offsets[0])


def _numbers(column: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    return np.asarray(column.to_numpy(), np.int64)
