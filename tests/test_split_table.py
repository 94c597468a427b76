"""Tables that are split where a terminal is too narrow for their columns."""

from __future__ import annotations

import pytest
from helpers.printing import printed

from raise_mdit.split_table import NARROWEST, Column, SplitTable

NAMES = ["random", "ppo"]
"""Under the heading `policy`: 6 columns."""


def column(heading: str, width: int) -> Column:
    """Of so many columns, without the two that part it from the one before."""
    return Column(heading, ["x" * width, "y"])


def heads(groups: list[list[Column]], *, width: int) -> list[list[str]]:
    """Headings of each table that a terminal of that width gets."""
    split = SplitTable("policy", NAMES, groups=groups)
    return [[str(column.header) for column in table.columns][1:] for table in split.tables(width)]


@pytest.mark.parametrize(("width", "count"), [(38, 1), (37, 2)])
def test_a_table_is_split_from_the_first_column_on_that_has_no_room(width: int, count: int) -> None:
    """6 of the names, 2 and 18 of the one, 2 and 10 of the other."""
    found = heads([[column("one", 18)], [column("other", 10)]], width=width)

    assert found == ([["one", "other"]] if count == 1 else [["one"], ["other"]])


def test_a_group_is_not_torn_apart() -> None:
    groups = [[column("a", 10)], [column("b", 10), column("c", 10)]]

    assert heads(groups, width=31) == [["a"], ["b", "c"]]


def test_a_later_group_fills_the_room_of_an_earlier_table() -> None:
    groups = [[column("a", 10)], [column("wide", 20)], [column("b", 10)]]

    assert heads(groups, width=31) == [["a", "b"], ["wide"]]


def test_a_group_that_is_too_wide_stands_alone_and_is_not_cut() -> None:
    groups = [[column("a", 10)], [column("wide", 200)]]
    lines = printed(SplitTable("policy", NAMES, groups=groups), width=40)

    assert any(line.startswith("random") and "x" * 200 in line for line in lines)
    assert not any("…" in line for line in lines)


def test_texts_are_shown_as_they_are() -> None:
    table = SplitTable("policy", ["[red]p[/red]"], groups=[[Column("[b]", [":smile:"])]])

    assert printed(table, width=NARROWEST)[0].split() == ["policy", "[b]"]
    assert printed(table, width=NARROWEST)[-1].split() == ["[red]p[/red]", ":smile:"]


def test_a_caption_stands_above_all_tables() -> None:
    groups = [[column("a", 50)], [column("b", 50)]]
    lines = printed(
        SplitTable("policy", NAMES, groups=groups, caption="of the test"), width=NARROWEST
    )

    assert lines[0] == "of the test"
    assert [line.split() for line in lines if line.startswith("policy")] == [
        ["policy", "a"],
        ["policy", "b"],
    ]
    assert lines.count("") == 1
