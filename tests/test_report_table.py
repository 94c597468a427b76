"""The tables of a report."""

from __future__ import annotations

import math

from helpers.arm_results import arm, arms
from helpers.runs_on_disk import finished_arms

from raise_mdit.comparison import PolicySummary, summarise
from raise_mdit.effects import what_it_takes
from raise_mdit.report_sentences import limits_sentence
from raise_mdit.report_table import Cell, Table, main_table, references_table
from raise_mdit.report_words import MINUS, UNKNOWN


def table_of(summaries: tuple[PolicySummary, ...]) -> Table:
    return main_table(summaries, {each.policy: "#000000" for each in summaries})


def against(summaries: tuple[PolicySummary, ...]) -> Table:
    table = references_table(summaries, {each.policy: "#000000" for each in summaries})
    assert table is not None
    return table


def column(table: Table, heading: str) -> dict[str, Cell]:
    place = table.headings.index(heading)
    return {row.policy: row.cells[place] for row in table.rows}


def test_every_reference_of_the_run_has_a_column_of_differences() -> None:
    main, table = table_of(summarise(finished_arms())), against(summarise(finished_arms()))
    assert [heading for heading in main.headings if heading.startswith("Against")] == [
        "Against random"
    ]
    assert [heading for heading in table.headings if heading.startswith("Against")] == [
        "Against dsir (best static)",
        "Against base (untrained)",
        "Against full (all data)",
    ]
    for where, heading, reference in (
        (main, "Against random", "random"),
        (table, "Against full (all data)", "full"),
    ):
        cells = column(where, heading)
        assert [policy for policy, cell in cells.items() if cell.mean == "reference"] == [reference]


def test_a_difference_says_interval_verdict_and_what_would_settle_it() -> None:
    summaries = summarise(
        [*arms("random", 1.5, 1.6, 1.7), *arms("ppo", 1.0, 1.1, 1.21), *arms("ucb", 1.4, 1.7, 1.6)]
    )
    cells = column(table_of(summaries), "Against random")
    assert cells["ppo"].mean == f"{MINUS}0.4967"
    assert cells["ppo"].verdict == "better"
    assert cells["ppo"].p_value.startswith("p")
    assert cells["ppo"].to_settle == ""
    effect = summaries[2].effect("random")
    assert effect is not None
    assert cells["ucb"].verdict == "inconclusive"
    assert cells["ucb"].to_settle == what_it_takes(effect) != ""


def test_rows_sort_by_the_numbers_and_unknown_ones_stand_apart() -> None:
    summaries = summarise([*arms("random", 1.5, 1.6), arm("ppo", 0, math.nan)])
    cells = column(table_of(summaries), "Test loss (nats)")
    assert float(cells["random"].sort) == 1.55
    assert cells["ppo"].sort == ""
    assert cells["ppo"].mean == "not finite"


def test_equal_budgets_have_columns_where_they_are_known() -> None:
    table = against(summarise(finished_arms()))
    tokens = column(table, "Validation loss at equal tokens")
    compute = column(table, "Validation loss at equal compute")
    # All trained on as many tokens; what ppo's choosing cost was more than others spent in all.
    assert tokens["ppo"].sort != compute["ppo"].sort
    assert compute["ppo"].mean == "2.6000"
    old = against(summarise([*arms("random", 1.5, 1.6), *arms("base", 2.0, 2.0)]))
    assert old.headings == ("Against base (untrained)",)


def test_there_is_no_second_table_where_random_is_the_only_reference() -> None:
    summaries = summarise([*arms("random", 1.5, 1.6), *arms("ppo", 1.0, 1.1)])
    assert references_table(summaries, {"random": "#000000", "ppo": "#000000"}) is None


def test_a_comparison_that_cannot_be_made_is_a_dash() -> None:
    summaries = summarise([arm("random", 0, 1.5), arm("ppo", 0, 1.2), arm("late", 1, 1.0)])
    assert column(table_of(summaries), "Against random")["late"].mean == UNKNOWN


def test_a_policy_that_stopped_early_is_shown_where_it_ended() -> None:
    whole = {"steps": 2, "step_tokens": (0, 10, 20), "step_flops": (0.0, 1e12, 2e12)}
    short = {"steps": 1, "step_tokens": (0, 5), "step_flops": (0.0, 0.5e12)}
    losses, lost = (4.0, 3.0, 2.5), (4.0, math.inf)
    summaries = summarise(
        [
            arm("random", 0, 1.0, reward_validation_losses=losses, **whole),
            arm(
                "ppo",
                0,
                math.inf,
                reward_validation_losses=lost,
                status="non_finite_loss",
                **short,
            ),
        ]
    )
    table = against(summaries)
    cells = [column(table, f"Validation loss at equal {what}") for what in ("tokens", "compute")]
    assert [each["random"].mean for each in cells] == ["2.5000", "2.5000"]
    assert [each["ppo"].mean for each in cells] == ["ended at 5 tokens", "ended at 0.5 TFLOP"]
    assert limits_sentence(summaries).endswith(": ppo s0.")
    assert limits_sentence(summarise(arms("random", 1.0))) == ""
