"""A pool in a terminal: what its kinds take, and candidates to be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from raise_mdit.core import Example
from raise_mdit.pool_inspection import Heading, MixedPosition, MixedView, TextView
from raise_mdit.pool_report import KindReport
from raise_mdit.split_table import uncut

PARENT_LENGTH = 400
"""Characters of a parent's prompt or response that are shown of an interpolation."""
TOKENS_WIDTH = 88
"""Columns in which tokens stand beside each other, and go on below."""

_SAFE = {code: "\ufffd" for code in (*range(32), 127, *range(128, 160))}
"""Control characters, which could move the cursor; texts come from anywhere."""
_SAFE_TEXT = {code: mark for code, mark in _SAFE.items() if chr(code) not in "\n\t"}
_SAFE_TOKEN = {**_SAFE, ord(" "): "·", ord("\n"): "⏎", ord("\t"): "⇥"}


def pool_table(reports: Sequence[KindReport], *, batch_size: int, max_length: int) -> Table:
    """One line a kind of candidates: what one epoch over them takes.

    Args:
        reports: The lines.
        batch_size: Rows of the steps.
        max_length: Length limit to which rows are padded.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("kind", no_wrap=True)
    for name in (
        "candidates",
        "examples",
        "mean k",
        "tokens",
        "response",
        "supervised",
        f"steps of {batch_size:,}",
        "padded in batches",
        f"padded to {max_length:,}",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        table.add_row(
            report.kind,
            f"{report.num_candidates:,}",
            f"{report.num_examples:,}",
            f"{report.mean_parents:.2f}",
            f"{report.num_tokens:,}",
            f"{report.num_response_tokens:,}",
            f"{report.supervised_share:.1%}",
            f"{report.num_steps:,}",
            f"{report.num_batch_padded_tokens:,}",
            f"{report.num_fully_padded_tokens:,}",
        )
    return uncut(table)


def candidate_text(view: TextView | MixedView) -> Group:
    """A candidate to be read: what it is, and its conversation or its two parents."""
    if isinstance(view, TextView):
        return Group(*_heading(view.heading), *_conversation(view))
    return Group(*_heading(view.heading), *_interpolation(view))


def _heading(heading: Heading) -> Iterator[Text]:
    yield Text(f"── {heading.kind} {heading.id}", style="bold")
    yield Text(
        f"{heading.made}\nsource {heading.source}; {heading.num_tokens:,} tokens, "
        f"{heading.num_response_tokens:,} of them with loss",
        style="dim",
    )


def _conversation(view: TextView) -> Iterator[Text]:
    for message in view.messages:
        yield _turn(message.role, message.content)
    yield Text()


def _interpolation(view: MixedView) -> Iterator[Text | Table]:
    for name, parent in zip(("first", "second"), view.parents, strict=True):
        yield from _parent(name, parent)
    yield Text("response, token by token", style="bold cyan")
    yield from map(_tokens, _lines(view.positions))
    if any(None in position for position in view.positions):
        yield Text("where a parent has no token, the pad embedding is mixed in", style="dim")
    hidden = view.num_positions - len(view.positions)
    if hidden:
        yield Text(f"and {hidden:,} more positions", style="dim")
    yield Text()


def _parent(name: str, parent: Example) -> Iterator[Text]:
    yield _turn(f"{name} parent, prompt", _shortened(parent.prompt))
    yield _turn(f"{name} parent, response", _shortened(parent.response))


def _turn(label: str, content: str) -> Text:
    return Text.assemble((f"{label}\n", "bold cyan"), content.translate(_SAFE_TEXT))


def _shortened(text: str) -> str:
    hidden = len(text) - PARENT_LENGTH
    return text if hidden <= 0 else f"{text[:PARENT_LENGTH]}… ({hidden:,} characters more)"


class _Position(NamedTuple):
    """A position of an interpolated response, from above to below."""

    first: str
    second: str
    nearest: str
    cosine: str

    @property
    def width(self) -> int:
        return 2 + max(map(cell_len, self))


def _lines(positions: Sequence[MixedPosition]) -> Iterator[list[_Position]]:
    """Columns that have room beside each other."""
    line: list[_Position] = []
    room = TOKENS_WIDTH
    for column in map(_column, positions):
        if line and column.width > room:
            yield line
            line, room = [], TOKENS_WIDTH
        line.append(column)
        room -= column.width
    if line:
        yield line


def _column(position: MixedPosition) -> _Position:
    return _Position(
        _token(position.first),
        _token(position.second),
        _token(position.nearest),
        f"{position.cosine:.2f}",
    )


def _token(text: str | None) -> str:
    return "" if text is None else text.translate(_SAFE_TOKEN)


def _tokens(columns: Sequence[_Position]) -> Table:
    """Tokens of both parents, and below them what their mixture is nearest to."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(1 + len(columns)):
        table.add_column(no_wrap=True)
    for name, cells in zip(_Position._fields, zip(*columns, strict=True), strict=True):
        style = "bold" if name == "nearest" else "dim"
        table.add_row(name, *(Text(cell) for cell in cells), style=style)
    return uncut(table)
