"""Candidates as conversations, for all that is text."""

from __future__ import annotations

from collections.abc import Mapping

from raise_mdit.candidates import Custom, Mosaic, Original
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
