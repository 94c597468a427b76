"""Tables for a terminal that are split by columns where it is too narrow for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

NARROWEST = 80
"""Columns of a terminal for which tables are split; on a narrower one lines run on."""

WIDER_THAN_ANY_TABLE = 1000

Justify = Literal["left", "right"]


class Column(NamedTuple):
    """A column below its heading."""

    heading: str
    cells: Sequence[str]
    justify: Justify = "right"


class SplitTable:
    """Rows with names, and columns of which some belong together.

    Printed, it is one table where the terminal has room. Else it is several below each other, each
    of which begins with the names; a group of columns is never torn apart and no cell is wrapped.
    """

    def __init__(
        self,
        heading: str,
        names: Sequence[str],
        *,
        groups: Sequence[Sequence[Column]],
        caption: str = "",
    ) -> None:
        """Take the texts.

        Args:
            heading: Of the names.
            names: Of the rows.
            groups: Columns that stay beside each other.
            caption: Stands above the first table.
        """
        self._names = Column(heading, names, "left")
        self._groups = groups
        self._caption = caption

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """The tables for a terminal of that width."""
        if self._caption:
            yield Text(self._caption, style="italic")
        for number, table in enumerate(self.tables(max(options.max_width, NARROWEST))):
            if number:
                yield Text()
            yield table

    def tables(self, width: int) -> list[Table]:
        """As few as have room, each group in the first that has; one that has none stands alone.

        Args:
            width: Columns of the terminal.
        """
        pieces: list[list[Column]] = []
        for group in self._groups:
            for piece in pieces:
                if _width(self._table([*piece, *group])) <= width:
                    piece.extend(group)
                    break
            else:
                pieces.append(list(group))
        return [self._table(piece) for piece in pieces]

    def _table(self, columns: Sequence[Column]) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
        every = (self._names, *columns)
        for column in every:
            table.add_column(Text(column.heading), justify=column.justify, no_wrap=True)
        for cells in zip(*(column.cells for column in every), strict=True):
            table.add_row(*map(Text, cells))
        return uncut(table)


def uncut(table: Table) -> Table:
    """The table as wide as its texts: on a narrow terminal rich would cut figures, "1,2…"."""
    table.width = _width(table)
    return table


def _width(table: Table) -> int:
    return Console(width=WIDER_THAN_ANY_TABLE).measure(table).maximum
