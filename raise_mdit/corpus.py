"""Read, split and encode: from the experiment's data section to examples that fit the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from raise_mdit.config import DataConfig
from raise_mdit.core import EncodedRow, Example
from raise_mdit.encoding import ChatEncoder, SpecialTokens, TextRow, plain_row
from raise_mdit.errors import DataError
from raise_mdit.sources.reading import read_rows
from raise_mdit.sources.records import NUM_BAD_ROWS_SHOWN, BadRow
from raise_mdit.splits import SPLITS, SplitName, SplitReport, allot
from raise_mdit.token_cache import encode_examples

LONGEST_OPENING = 60
"""Characters of a prompt that a message or a list repeats, so that a person finds the row."""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example with its token ids, within the length limit."""

    example: Example
    text: TextRow

    @property
    def row(self) -> EncodedRow:
        """The example as a learner takes it."""
        return plain_row(self.example.id, self.text)


class SpecialRow(NamedTuple):
    """An example that was left out, as its text holds what the tokenizer reads as a token."""

    split: SplitName
    source: str
    id: str
    """Of the example."""
    token: str
    """The first special token that it holds."""
    opening: str
    """How its prompt begins."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What may be trained on, and what is measured on."""

    splits: dict[SplitName, tuple[EncodedExample, ...]]
    report: SplitReport
    bad_rows: tuple[BadRow, ...]
    """Rows that could not be read, where the experiment skips them."""
    special_rows: tuple[SpecialRow, ...]
    """Examples of all splits that hold a special token of the tokenizer."""
    num_duplicates: int
    """Rows left out since their source has the same text twice."""
    num_dropped: int
    """Examples left out for their length."""
    num_truncated: int
    """Examples cut to the length limit."""

    def encoded(self, split: SplitName) -> list[EncodedRow]:
        """A split as a learner takes it."""
        return [encoded.row for encoded in self.splits[split]]

    @property
    def notes(self) -> list[str]:
        """What was taken and left out, in sentences."""
        counts = ", ".join(f"{split} {len(self.splits[split]):,}" for split in SPLITS)
        removed = [
            f"{self.report.num_removed(split, reason)} {reason} from {split}"
            for split in SPLITS
            for reason in ("exact", "ngram")
            if self.report.num_removed(split, reason)
        ]
        return [
            f"Splits: {counts} examples.",
            f"Overlap removed: {', '.join(removed) or 'none found'}.",
            *_noise_notes(self.report.num_noisy),
            *_special_notes(self.special_rows),
            *_bad_row_notes(self.bad_rows),
            f"Duplicates within a source: {self.num_duplicates}, across the sources of a split: "
            f"{sum(self.report.num_repeats.values())}. Rows that could not be read: "
            f"{len(self.bad_rows)}. Too long: {self.num_dropped} dropped, {self.num_truncated} "
            "truncated.",
        ]


def read_corpus(data: DataConfig, encoder: ChatEncoder, *, max_length: int, cache: Path) -> Corpus:
    """Everything that the data section asks for.

    An example whose text holds a special token, such as `<|im_end|>`, is left out of its split:
    tokenised, it would end a turn or begin another.

    Args:
        data: What to read, and what for.
        encoder: Of conversations.
        max_length: Longest example in tokens.
        cache: Folder of what was tokenised before.

    Raises:
        DataError: Data is missing, broken, too long or too little.
    """
    examples: dict[str, Sequence[Example]] = {}
    bad_rows: list[BadRow] = []
    num_duplicates = 0
    for source in data.sources:
        rows = read_rows(source, data)
        examples[source.name] = rows.examples
        bad_rows += rows.bad_rows
        num_duplicates += rows.num_duplicates
    splits = allot(examples, data)
    special_rows: list[SpecialRow] = []
    fitted = {}
    for split in SPLITS:
        clean, special = _without_special(getattr(splits, split), split, encoder.special_tokens)
        special_rows += special
        fitted[split] = _fit(_encoded(clean, encoder, cache), split, data, max_length)
    return Corpus(
        splits={split: fit.kept for split, fit in fitted.items()},
        report=splits.report,
        bad_rows=tuple(bad_rows),
        special_rows=tuple(special_rows),
        num_duplicates=num_duplicates,
        num_dropped=sum(fit.num_dropped for fit in fitted.values()),
        num_truncated=sum(fit.num_truncated for fit in fitted.values()),
    )


@dataclass(frozen=True, slots=True)
class _Fitted:
    kept: tuple[EncodedExample, ...]
    num_dropped: int
    num_truncated: int


def _without_special(
    examples: Sequence[Example], split: SplitName, special: SpecialTokens
) -> tuple[list[Example], list[SpecialRow]]:
    """Examples that are text throughout, and those that are not."""
    kept: list[Example] = []
    left_out: list[SpecialRow] = []
    for example in examples:
        found = (special.found_in(turn.content) for turn in example.messages)
        token = next(filter(None, found), None)
        if token is None:
            kept.append(example)
        else:
            opening = _opening(example)
            left_out.append(SpecialRow(split, example.source, example.id, token, opening))
    if left_out and not kept:
        raise DataError(
            f"data.{split}: every example holds text that the tokenizer reads as a special token, "
            f"such as {left_out[0].token!r}; take such texts out of the rows, or give other rows"
        )
    return kept, left_out


def _opening(example: Example) -> str:
    return example.prompt[:LONGEST_OPENING].replace("\n", " ")


def _special_notes(rows: Sequence[SpecialRow]) -> list[str]:
    notes = []
    for split in SPLITS:
        tokens = [row.token for row in rows if row.split == split]
        if not tokens:
            continue
        subject = "1 example" if len(tokens) == 1 else f"{len(tokens):,} examples"
        holds, are = ("holds", "is") if len(tokens) == 1 else ("hold", "are")
        listed = ", ".join(map(repr, sorted(set(tokens))))
        notes.append(
            f"{subject} of the {split.replace('_', '-')} {holds} text that the tokenizer reads as "
            f"special tokens ({listed}) and {are} left out."
        )
    return notes


def _noise_notes(num_noisy: int) -> list[str]:
    if num_noisy == 0:
        return []
    subject = "1 example" if num_noisy == 1 else f"{num_noisy:,} examples"
    return [f"Label noise: the response of another stands in {subject} of the pool."]


def _bad_row_notes(rows: Sequence[BadRow]) -> list[str]:
    if not rows:
        return []
    listed = "; ".join(f"{row.where}: {row.reason}" for row in rows[:NUM_BAD_ROWS_SHOWN])
    num_hidden = len(rows) - NUM_BAD_ROWS_SHOWN
    if num_hidden > 0:
        listed += f"; and {num_hidden:,} more, all in the preparation.json of a run"
    return [f"Not read: {listed}."]


def _encoded(
    examples: Sequence[Example], encoder: ChatEncoder, cache: Path
) -> list[EncodedExample]:
    texts = encode_examples(encoder, examples, cache=cache)
    return [EncodedExample(*pair) for pair in zip(examples, texts, strict=True)]


def _fit(
    encoded: Sequence[EncodedExample], split: SplitName, data: DataConfig, max_length: int
) -> _Fitted:
    long = [each for each in encoded if len(each.text.ids) > max_length]
    if long and data.on_long_row == "stop":
        raise DataError(_too_long(split, long, len(encoded), max_length))
    if data.on_long_row == "drop":
        kept = [each for each in encoded if len(each.text.ids) <= max_length]
    else:
        cut = [EncodedExample(e.example, e.text.truncated(max_length)) for e in encoded]
        kept = [each for each in cut if each.text.num_response_tokens > 0]
    if encoded and not kept:
        raise DataError(f"data.{split}: no example fits in model.max_length {max_length}; raise it")
    num_dropped = len(encoded) - len(kept)
    num_truncated = len(long) - num_dropped if data.on_long_row == "truncate" else 0
    return _Fitted(tuple(kept), num_dropped, num_truncated)


def _too_long(split: SplitName, long: Sequence[EncodedExample], total: int, max_length: int) -> str:
    longest = max(long, key=lambda each: len(each.text.ids))
    return (
        f"data.{split}: {len(long)} of {total} examples are longer than model.max_length "
        f"{max_length}; the longest has {len(longest.text.ids)} tokens (source "
        f"{longest.example.source!r}: {_opening(longest.example)!r}...). Raise model.max_length, "
        "or set data.on_long_row to drop or truncate"
    )
