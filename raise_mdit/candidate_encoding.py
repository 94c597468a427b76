"""From recipes to what a learner takes and what a person reads.

A pool of a million candidates is never encoded as a whole: a row is rendered and tokenised when it
is asked for, and the last ones are kept.

Shapes: ``N`` candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import overload

from raise_mdit.candidates import Custom, Mdit, Mosaic, Original, Recipe
from raise_mdit.conversations import conversation_of
from raise_mdit.core import EncodedRow, Example, Message
from raise_mdit.encoding import ChatEncoder, TextRow, mixed_row, plain_row
from raise_mdit.pool import Pool
from raise_mdit.sources.mosaic_wording import Wording

KEPT_ROWS = 8192
"""Encoded rows kept in memory: 64 MiB at 500 tokens a row."""


class CandidateEncoder:
    """Renders and encodes candidates made of certain examples."""

    def __init__(
        self,
        examples: Mapping[str, Example],
        texts: Mapping[str, TextRow],
        *,
        encoder: ChatEncoder,
        wording: Wording,
        pad: int,
    ) -> None:
        """Take the examples as they are.

        Args:
            examples: By id.
            texts: Token ids of each example, within the length limit, by its id.
            encoder: Of everything that is not an example as it is.
            wording: With which mosaics are composed.
            pad: Id of the pad token, which stands where an interpolation has one parent only.
        """
        self._examples = examples
        self._texts = texts
        self._encoder = encoder
        self._wording = wording
        self._pad = pad

    def row(self, key: str, recipe: Recipe) -> EncodedRow:
        """A candidate as a learner takes it.

        Args:
            key: Id of the candidate.
            recipe: Of the candidate.
        """
        match recipe:
            case Original(example):
                return plain_row(key, self._texts[example])
            case Mdit(first, second, weight):
                texts = (self._texts[first], self._texts[second])
                return mixed_row(key, *texts, weight=weight, pad=self._pad)
            case Mosaic() | Custom():
                (text,) = self._encoder.encode([self.messages(recipe)])
                return plain_row(key, text)

    def messages(self, recipe: Original | Mosaic | Custom) -> tuple[Message, ...]:
        """A candidate as a conversation; interpolations have none."""
        return conversation_of(recipe, self._examples, self._wording)


class CandidateRows(Sequence[EncodedRow]):
    """[N] the candidates of a pool as a learner takes them, each encoded when it is asked for."""

    def __init__(self, pool: Pool, encoder: CandidateEncoder) -> None:
        self._pool = pool
        self._encoder = encoder
        self._kept = lru_cache(maxsize=KEPT_ROWS)(self._encode)

    def __len__(self) -> int:
        return len(self._pool)

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedRow]: ...
    def __getitem__(self, index: int | slice) -> EncodedRow | list[EncodedRow]:
        if isinstance(index, slice):
            return [self._kept(row) for row in range(len(self))[index]]
        return self._kept(range(len(self))[index])

    def _encode(self, row: int) -> EncodedRow:
        encoded = self._encoder.row(self._pool.ids[row], self._pool.recipe(row))
        counted = int(self._pool.num_tokens[row])
        assert encoded.num_tokens == counted, f"row {row}: {encoded.num_tokens} is not {counted}"
        return encoded
