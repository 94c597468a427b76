"""Candidates as recipes.

A candidate stores how it is made, never tensors, and its id is a hash of that recipe. Recipes name
examples by their own content ids, so equal candidates are equal across runs and machines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raise_mdit.config import MosaicStrategy
from raise_mdit.core import Example, Kind, Message

ID_LENGTH = 32
"""Hexadecimal digits of an id: 128 bits, so a billion candidates collide with odds below 1e-20."""

Strategy = MosaicStrategy


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


@dataclass(frozen=True, slots=True)
class Custom:
    """A conversation that a source of the user's made."""

    examples: tuple[str, ...]
    """Ids of the examples it was made from; what is known of those is what is known of it."""
    messages: tuple[Message, ...]


Recipe = Original | Mosaic | Mdit | Custom

_KINDS: dict[type, Kind] = {
    Original: "original",
    Mosaic: "mosaic",
    Mdit: "mdit",
    Custom: "custom",
}


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: object) -> str:
    """One text for equal values: sorted keys, no spaces, Unicode kept."""
    return _CANONICAL.encode(value)


def content_hash(value: object) -> str:
    """Hash of a value's canonical JSON, :data:`ID_LENGTH` hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:ID_LENGTH]


def make_example(
    source: str,
    messages: Sequence[Message],
    *,
    task: str | None = None,
    choices: tuple[str, ...] | None = None,
) -> Example:
    """An example whose id is the hash of its messages."""
    turns = tuple(messages)
    return Example(content_hash([list(turn) for turn in turns]), source, turns, task, choices)


def kind_of(recipe: Recipe) -> Kind:
    """Which kind of candidate a recipe makes."""
    return _KINDS[type(recipe)]


def parents_of(recipe: Recipe) -> tuple[tuple[str, float], ...]:
    """The examples a candidate is made from, each with its share; shares sum to one."""
    match recipe:
        case Original(example):
            return ((example, 1.0),)
        case Mosaic(examples) | Custom(examples):
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
    generation: int = 0
    """When it is on offer: 0 always, others in their turn (`pools.renew`)."""

    @property
    def id(self) -> str:
        """Hash of kind and recipe."""
        return candidate_id(self.recipe)


def candidate_id(recipe: Recipe) -> str:
    """Hash of a recipe and its kind."""
    fields = {name: getattr(recipe, name) for name in recipe.__slots__}
    return content_hash([kind_of(recipe), fields])
