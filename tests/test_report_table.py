"""The tables of a report."""

from __future__ import annotations

import math

from helpers.arm_results import arm, arms
from helpers.runs_on_disk import finished_arms

from raise_mdit.comparison import PolicySummary, summarise
from raise_mdit.report_table import Cell, Table, main_table
from raise_mdit.report_words import MINUS, UNKNOWN


def table_of(summaries: tuple[PolicySummary, ...]) -> Table:
    return main_table(summaries, {each.policy: "#000000" for each in summaries})


def column(table: Table, heading: str) -> dict[str, Cell]:
    place = table.headings.index(heading)
    return {row.policy: row.cells[place] for row in table.rows}


def test_every_reference_of_the_run_has_a_column_of_differences() -> None:
    table = table_of(summarise(finished_arms()))
    assert [heading for heading in table.headings if heading.startswith("Against")] == [
        "Against random",
        "Against dsir (best static)",
        "Against base (untrained)",
        "Against full (all data)",
    ]
    for heading, reference in (("Against random", "random"), ("Against full (all data)", "full")):
        cells = column(table, heading)
        assert [policy for policy, cell in cells.items() if cell.mean == "reference"] == [reference]


def test_a_difference_says_interval_verdict_and_what_would_settle_it() -> None:
    summaries = summarise(
        [*arms("random", 1.5, 1.6, 1.7), *arms("ppo", 1.0, 1.1, 1.21), *arms("ucb", 1.4, 1.7, 1.6)]
    )
    cells = column(table_of(summaries), "Against random")
    assert cells["ppo"].mean == f"{MINUS}0.4967"
    assert cells["ppo"].verdict == "better"
    assert cells["ppo"].p_value.startswith("p")
    assert cells["ppo"].more_seeds == ""
    effect = summaries[2].effect("random")
    assert effect is not None
    assert cells["ucb"].verdict == "inconclusive"
    if effect.more_seeds is None:
        assert cells["ucb"].more_seeds == ""
    else:
        assert cells["ucb"].more_seeds.startswith(f"{effect.more_seeds:,} more seed")


def test_rows_sort_by_the_numbers_and_unknown_ones_stand_apart() -> None:
    summaries = summarise([*arms("random", 1.5, 1.6), arm("ppo", 0, math.nan)])
    cells = column(table_of(summaries), "Test loss (nats)")
    assert float(cells["random"].sort) == 1.55
    assert cells["ppo"].sort == ""
    assert cells["ppo"].mean == "not finite"


def test_equal_budgets_have_columns_where_they_are_known() -> None:
    table = table_of(summarise(finished_arms()))
    tokens = column(table, "Validation loss at equal tokens")
    compute = column(table, "Validation loss at equal compute")
    # All trained on as many tokens; what ppo's choosing cost was more than others spent in all.
    assert tokens["ppo"].sort != compute["ppo"].sort
    assert compute["ppo"].mean == "2.6000"
    old = table_of(summarise(arms("random", 1.5, 1.6)))
    assert not any("equal" in heading for heading in old.headings)


def test_a_comparison_that_cannot_be_made_is_a_dash() -> None:
    summaries = summarise([arm("random", 0, 1.5), arm("ppo", 0, 1.2), arm("late", 1, 1.0)])
    assert column(table_of(summaries), "Against random")["late"].mean == UNKNOWN
