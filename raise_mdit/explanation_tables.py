"""An explanation in a terminal: the picks with their attributions, and how picks moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from raise_mdit.explanation import Explanation, thirds
from raise_mdit.shortening import shortened
from raise_mdit.split_table import Column, SplitTable, uncut

MAX_GROUPS = 8
"""Lines of one way of grouping; the rest are one line."""

THIRDS = ("first third", "second third", "last third")

_NO_STEP = "\N{EN DASH}"
_TEXT_LENGTH = 60
_WORDS = ("what scores owe to", "picks by", "")
"""Columns that hold no figures."""


def picks_table(explanation: Explanation, *, top: int) -> SplitTable:
    """One line a pick, those that stood highest above their windows first.

    Args:
        explanation: Of an arm.
        top: Lines at most.
    """
    picks = list(explanation.strongest(top))
    owed = [
        Column(group, [f"{pick.attributions[place]:+z.3f}" for pick in picks])
        for place, group in enumerate(explanation.groups)
    ]
    return SplitTable(
        "step slot",
        [f"{pick.step:>4} {pick.slot:>4}" for pick in picks],
        groups=(
            (
                Column("score", [f"{pick.score:.3f}" for pick in picks]),
                Column("above mean", [f"{pick.lift:+z.3f}" for pick in picks]),
                Column("log p", [f"{pick.log_probability:.2f}" for pick in picks]),
            ),
            owed,
            (
                Column("of kind", [pick.kind for pick in picks], "left"),
                Column("source", [pick.source for pick in picks], "left"),
            ),
            (Column("text", [shortened(pick.text, _TEXT_LENGTH) for pick in picks], "left"),),
        ),
    )


def attributions_table(explanation: Explanation) -> Table:
    """Mean absolute attribution by group, in each third of training."""
    table = _table("what scores owe to", *THIRDS)
    parts = [explanation.attributions[list(part)] for part in _thirds(explanation)]
    for place, group in enumerate(explanation.groups):
        means = (f"{part[:, place].mean():.3f}" if len(part) else _NO_STEP for part in parts)
        table.add_row(Text(group), *means)
    return uncut(table)


def shares_table(explanation: Explanation) -> Table:
    """Share of picks by source, kind and cluster, in each third of training."""
    table = _table("picks by", "", *THIRDS)
    for way, steps in explanation.counts.items():
        parts = [_total(steps[step] for step in part) for part in _thirds(explanation)]
        whole = _total(parts)
        largest = sorted(whole, key=lambda group: (-whole[group], group))
        named, others = largest[:MAX_GROUPS], largest[MAX_GROUPS:]
        for group in named:
            table.add_row(way, Text(group), *(_share(part, [group]) for part in parts))
        if others:
            rest = f"{len(others)} more"
            table.add_row(way, rest, *(_share(part, others) for part in parts), style="dim")
    return uncut(table)


def _thirds(explanation: Explanation) -> list[range]:
    return thirds(len(explanation.attributions))


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    whole: Counter[str] = Counter()
    for each in counts:
        whole.update(each)
    return whole


def _share(counts: Counter[str], groups: Sequence[str]) -> str:
    whole = counts.total()
    return f"{sum(counts[group] for group in groups) / whole:.1%}" if whole else _NO_STEP


def _table(*columns: str) -> Table:
    """A table whose figures stand to the right and whose words stand to the left."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for column in columns:
        words = column in _WORDS
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table
