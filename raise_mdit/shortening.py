"""Texts that have to fit."""

from __future__ import annotations


def shortened(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis.

    Args:
        text: Of any length.
        length: Characters at most, the ellipsis included.
    """
    return text if len(text) <= length else f"{text[: length - 1]}…"
