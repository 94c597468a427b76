"""How long a mosaic will be, before it is written: close enough that most plans are right.

A mosaic is the examples' texts, the chat template once (or once for each pair of turns), and tags,
marks and sentences. The last are measured where they are first used, between two letters.
"""

from __future__ import annotations

from collections.abc import Callable

from raise_mdit.candidates import Strategy
from raise_mdit.sources.mosaic_choices import Look
from raise_mdit.sources.mosaic_rendering import BLANK_LINE, Pieces, mark_texts, tag_text
from raise_mdit.sources.mosaic_wording import Wording

PROBE = "a"
"""A text that is one token for most tokenizers."""

TYPICAL_NUMBER = 5
"""The number for which tags are measured."""

LISTED_TOKENS = 2
"""Tokens of a number in an explicit list, separator included."""


class LengthEstimate:
    """Tokens of everything in a mosaic but its examples' texts."""

    def __init__(
        self, count_rendered: Callable[[Pieces], tuple[int, int]], wording: Wording
    ) -> None:
        self._count_rendered = count_rendered
        self._wording = wording
        pair: Pieces = [("user", [PROBE]), ("assistant", [PROBE])]
        self._pair = count_rendered(pair)[0]
        self._another_pair = max(0, count_rendered(pair * 2)[0] - self._pair - 2)
        self._known: dict[tuple[object, ...], int] = {}

    @property
    def template(self) -> int:
        """Tokens of the chat template round one user turn and one assistant turn."""
        return max(0, self._pair - 2)

    def beside(self, strategy: Strategy, look: Look) -> tuple[int, int]:
        """Tokens beside the texts: in the mosaic once, and for each of its instructions."""
        if strategy == "turns":
            return self.template - self._another_pair, self._another_pair
        if strategy == "primary":
            return self.template, 2 * self._tokens(BLANK_LINE)
        each = 2 * self._tag(look)
        if look.marks is not None:
            begin, end = mark_texts(look.marks, self._wording)
            each += self._tokens(begin + " ") + self._tokens(" " + end)
        for rule in look.rules:
            each += LISTED_TOKENS * (rule["name"] == "listed")
        return self.template + self._sentences(look), each

    def _tag(self, look: Look) -> int:
        shape, point = self._wording.tags[look.tag], self._wording.punctuation[look.punctuation]
        return self._tokens(BLANK_LINE, tag_text(shape, point, look.new_line, TYPICAL_NUMBER))

    def _sentences(self, look: Look) -> int:
        """Tokens of the sentences, a placeholder for what stands there."""
        num_tokens = 0
        if look.sentence is not None:
            sentences = self._wording.plain if look.marks is None else self._wording.marked
            num_tokens += self._tokens(sentences[look.sentence["index"]], BLANK_LINE)
        for rule in look.rules:
            sentences = self._wording.rule_sentences(rule["name"], masks=rule["masks"])
            num_tokens += self._tokens(sentences[rule["index"]], BLANK_LINE)
        return num_tokens

    def _tokens(self, *pieces: str) -> int:
        known = self._known.get(pieces)
        if known is None:
            turns: Pieces = [("user", [PROBE, *pieces, PROBE]), ("assistant", [PROBE])]
            known = max(0, self._count_rendered(turns)[0] - self._pair - 1)
            self._known[pieces] = known
        return known
