"""Read, split and encode: from the experiment's data section to examples that fit the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raise_mdit.config import DataConfig, PlaygroundSource, SourceConfig
from raise_mdit.core import EncodedRow, Example
from raise_mdit.encoding import ChatEncoder, TextRow, plain_row
from raise_mdit.errors import DataError
from raise_mdit.sources import playground
from raise_mdit.sources.records import BadRow, read_source
from raise_mdit.splits import SPLITS, SplitName, SplitReport, allot
from raise_mdit.token_cache import encode_examples


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example with its token ids, within the length limit."""

    example: Example
    text: TextRow

    @property
    def row(self) -> EncodedRow:
        """The example as a learner takes it."""
        return plain_row(self.example.id, self.text)


@dataclass(frozen=True, slots=True)
class Corpus:
    """What may be trained on, and what is measured on."""

    splits: dict[SplitName, tuple[EncodedExample, ...]]
    report: SplitReport
    bad_rows: tuple[BadRow, ...]
    """Rows that could not be read, where the experiment skips them."""
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
            f"Duplicates within a source: {self.num_duplicates}, across the sources of a split: "
            f"{sum(self.report.num_repeats.values())}. Rows that could not be read: "
            f"{len(self.bad_rows)}. Too long: {self.num_dropped} dropped, {self.num_truncated} "
            "truncated.",
        ]


def read_corpus(data: DataConfig, encoder: ChatEncoder, *, max_length: int, cache: Path) -> Corpus:
    """Everything that the data section asks for.

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
        rows, bad, duplicates = _read(source, data)
        examples[source.name] = rows
        bad_rows += bad
        num_duplicates += duplicates
    splits = allot(examples, data)
    fitted = {
        split: _fit(_encoded(getattr(splits, split), encoder, cache), split, data, max_length)
        for split in SPLITS
    }
    return Corpus(
        splits={split: fit.kept for split, fit in fitted.items()},
        report=splits.report,
        bad_rows=tuple(bad_rows),
        num_duplicates=num_duplicates,
        num_dropped=sum(fit.num_dropped for fit in fitted.values()),
        num_truncated=sum(fit.num_truncated for fit in fitted.values()),
    )


@dataclass(frozen=True, slots=True)
class _Fitted:
    kept: tuple[EncodedExample, ...]
    num_dropped: int
    num_truncated: int


def _read(
    source: SourceConfig, data: DataConfig
) -> tuple[Sequence[Example], Sequence[BadRow], int]:
    if isinstance(source, PlaygroundSource):
        rows = playground.generate(source.seed, source.rows_per_family, source=source.name)
        return rows, (), 0
    read = read_source(source, root=data.root, on_bad_row=data.on_bad_row)
    return read.examples, read.bad_rows, read.num_duplicates


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
    opening = longest.example.prompt[:60].replace("\n", " ")
    return (
        f"data.{split}: {len(long)} of {total} examples are longer than model.max_length "
        f"{max_length}; the longest has {len(longest.text.ids)} tokens (source "
        f"{longest.example.source!r}: {opening!r}...). Raise model.max_length, or set "
        "data.on_long_row to drop or truncate"
    )
