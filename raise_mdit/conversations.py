"""Candidates as conversations, for all that is text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from raise_mdit.candidates import Custom, Mdit, Mosaic, Original, Recipe, parents_of
from raise_mdit.core import Example, Message
from raise_mdit.sources.mosaic_rendering import render
from raise_mdit.sources.mosaic_wording import Wording


def conversation_of(
    recipe: Original | Mosaic | Custom, examples: Mapping[str, Example], wording: Wording
) -> tuple[Message, ...]:
    """What a recipe says; interpolations exist in embedding space only.

    Args:
        recipe: Of the candidate.
        examples: At least its parents, by id.
        wording: With which mosaics were composed.

    Raises:
        ConfigError: A mosaic was composed with another wording.
    """
    match recipe:
        case Original(example):
            return examples[example].messages
        case Mosaic():
            return render(recipe, examples, wording)
        case Custom(_, messages):
            return messages


class Part(NamedTuple):
    """A conversation that a candidate is made of."""

    messages: tuple[Message, ...]
    share: float
    """Of the candidate: above 0, at most 1."""


def parts_of(recipe: Recipe, examples: Mapping[str, Example], wording: Wording) -> tuple[Part, ...]:
    """Both parents of an interpolation, with their shares; of any other candidate itself.

    Args:
        recipe: As in :func:`conversation_of`, as the other arguments.
        examples: As there.
        wording: As there.

    Raises:
        ConfigError: As there.
    """
    if not isinstance(recipe, Mdit):
        return (Part(conversation_of(recipe, examples, wording), 1.0),)
    return tuple(Part(examples[parent].messages, share) for parent, share in parents_of(recipe))
