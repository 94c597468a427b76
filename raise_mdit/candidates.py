"""Candidates as recipes, and the pool that holds them as columns.

A candidate stores how it is made, never tensors, and its id is a hash of that recipe. Recipes name
examples by their own content ids, so equal candidates are equal across runs and machines.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raise_mdit.core import KINDS, Example, Kind, Message
from raise_mdit.runs import write_bytes

ID_LENGTH = 32
"""Hexadecimal digits of an id: 128 bits, so a billion candidates collide with odds below 1e-20."""

Strategy = Literal["primary", "format", "permute", "maskout"]


@dataclass(frozen=True, slots=True)
class Original:
    """An example as it is."""

    example: str
    """Example id."""


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Several examples composed into one conversation (arXiv 2405.13326)."""

    examples: tuple[str, ...]
    """Example ids in the order in which their instructions stand."""
    strategy: Strategy
    choices: dict[str, Any]
    """Every choice that rendering needs (tags, marks, sentences, order, mask), as plain JSON."""


@dataclass(frozen=True, slots=True)
class Mdit:
    """Two examples interpolated in embedding space (arXiv 2504.07288)."""

    first: str
    second: str
    weight: float
    """lambda, the share of ``first``, between 0 and 1."""


Recipe = Original | Mosaic | Mdit

_RECIPES: dict[Kind, type[Original] | type[Mosaic] | type[Mdit]] = {
    "original": Original,
    "mosaic": Mosaic,
    "mdit": Mdit,
}

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("recipe", pa.string()),
        ("source", pa.string()),
        ("num_tokens", pa.int32()),
        ("num_response_tokens", pa.int32()),
    ]
)


def canonical_json(value: object) -> str:
    """One text for equal values: sorted keys, no spaces, Unicode kept."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(value: object) -> str:
    """Hash of a value's canonical JSON, :data:`ID_LENGTH` hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:ID_LENGTH]


def make_example(source: str, messages: Sequence[Message], *, task: str | None = None) -> Example:
    """An example whose id is the hash of its messages."""
    turns = tuple(messages)
    return Example(content_hash([list(turn) for turn in turns]), source, turns, task)


def kind_of(recipe: Recipe) -> Kind:
    """Which kind of candidate a recipe makes."""
    return next(kind for kind, recipe_type in _RECIPES.items() if isinstance(recipe, recipe_type))


def parents_of(recipe: Recipe) -> tuple[tuple[str, float], ...]:
    """The examples a candidate is made from, each with its share; shares sum to one."""
    match recipe:
        case Original(example):
            return ((example, 1.0),)
        case Mosaic(examples):
            return tuple((example, 1.0 / len(examples)) for example in examples)
        case Mdit(first, second, weight):
            return ((first, weight), (second, 1.0 - weight))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe with what selection needs to know without rendering it."""

    recipe: Recipe
    source: str
    """Name of the source, or of the sources joined by ``+``."""
    num_tokens: int
    num_response_tokens: int

    @property
    def id(self) -> str:
        """Hash of kind and recipe."""
        return content_hash([kind_of(self.recipe), asdict(self.recipe)])


class Pool:
    """Candidates as columns; row numbers are how the rest of the program names them."""

    def __init__(self, table: pa.Table) -> None:
        assert table.schema.equals(_SCHEMA), f"not a pool: {table.schema}"
        self.table = table

    @classmethod
    def of(cls, candidates: Sequence[Candidate]) -> Pool:
        """A pool of the given candidates, in their order; of equal candidates the first stays."""
        rows: dict[str, dict[str, object]] = {}
        for candidate in candidates:
            rows.setdefault(candidate.id, _row(candidate))
        in_order = [{"id": key, **row} for key, row in rows.items()]
        return cls(pa.Table.from_pylist(in_order, schema=_SCHEMA))

    @classmethod
    def read(cls, path: Path) -> Pool:
        """The pool that :meth:`write` wrote."""
        return cls(pq.read_table(path, schema=_SCHEMA, memory_map=True))

    def write(self, path: Path) -> None:
        """Write as Parquet, at once."""
        content = io.BytesIO()
        pq.write_table(self.table, content, compression="zstd")
        write_bytes(path, content.getvalue())

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def ids(self) -> list[str]:
        """Candidate ids by row."""
        return [str(value) for value in self.table.column("id").to_pylist()]

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """[N] position of each candidate's kind in :data:`raise_mdit.core.KINDS`."""
        position = {kind: index for index, kind in enumerate(KINDS)}
        return np.array([position[k] for k in self.table.column("kind").to_pylist()], np.int64)

    @cached_property
    def sources(self) -> list[str]:
        """Source names by row."""
        return [str(value) for value in self.table.column("source").to_pylist()]

    @cached_property
    def num_tokens(self) -> NDArray[np.int64]:
        """[N] tokens of each candidate."""
        return np.asarray(self.table.column("num_tokens").to_numpy(), np.int64)

    @cached_property
    def num_response_tokens(self) -> NDArray[np.int64]:
        """[N] tokens of each candidate that carry loss."""
        return np.asarray(self.table.column("num_response_tokens").to_numpy(), np.int64)

    def recipe(self, row: int) -> Recipe:
        """The recipe at a row."""
        kind = self.table.column("kind")[row].as_py()
        fields = json.loads(self.table.column("recipe")[row].as_py())
        if kind == "mosaic":
            fields["examples"] = tuple(fields["examples"])
        return _RECIPES[kind](**fields)


def _row(candidate: Candidate) -> dict[str, object]:
    return {
        "kind": kind_of(candidate.recipe),
        "recipe": canonical_json(asdict(candidate.recipe)),
        "source": candidate.source,
        "num_tokens": candidate.num_tokens,
        "num_response_tokens": candidate.num_response_tokens,
    }
