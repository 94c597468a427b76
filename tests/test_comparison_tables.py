"""The tables with which a run ends: figures, words, and room for both."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from helpers import arm_results
from helpers.printing import printed
from rich.cells import cell_len

from raise_mdit.bootstrap import bootstrap_interval, widening
from raise_mdit.comparison import summarise
from raise_mdit.comparison_tables import references_table, results_table
from raise_mdit.core import Cost
from raise_mdit.report_words import metric_words
from raise_mdit.results import ArmResult
from raise_mdit.statistics import Interval

INTERVAL = re.compile(r"\d (?:±[.\d]+|\+[.\d]+ -[.\d]+)")


def arms(policy: str, *losses: float, **fields: Any) -> list[ArmResult]:
    """Arms whose figures have several digits."""
    figures: dict[str, Any] = {
        "steps": 1200,
        "tokens": 34567,
        "costs": {"final_training": Cost(34567, 40000, 2.5e12, 90.0)},
    }
    return arm_results.arms(policy, *losses, **{**figures, **fields})


def told(interval: Interval) -> str:
    """A mean with an interval that is not symmetric, to three digits."""
    assert interval.low is not None
    assert interval.high is not None
    above, below = interval.high - interval.mean, interval.mean - interval.low
    return f"{interval.mean:.3f} +{above:.3f} -{below:.3f}"


def shown(results: Sequence[ArmResult], *, width: int = 200) -> dict[str, str]:
    """Each line of the table on a terminal of so many columns, by its first word."""
    lines = printed(results_table(summarise(results)), width=width)
    return {line.split()[0]: line for line in lines if line.strip(" ─")}


def test_the_difference_is_named_by_the_policy_it_is_to() -> None:
    random, plain = arms("random", 2.0, 2.1), arms("plain", 2.0, 2.2, kind="random")

    assert "minus random" in shown([*arms("base", 3.0, 3.0), *random, *plain])["policy"]
    assert "minus plain" in shown([*arms("base", 3.0, 3.0), *plain, *random])["policy"]


def test_the_table_has_a_line_for_each_policy_in_their_order() -> None:
    results = [*arms("base", 3.0, 3.0), *arms("random", 2.0, 2.1), *arms("ppo", 1.0, 1.1)]

    assert list(shown(results)) == ["policy", "base", "random", "ppo"]


def test_a_line_holds_loss_and_difference_with_intervals_and_the_verdict() -> None:
    random, ppo = (2.0, 2.1, 2.25), (1.0, 1.2, 1.11)
    difference = bootstrap_interval([a - b for a, b in zip(ppo, random, strict=True)])

    line = shown([*arms("random", *random), *arms("ppo", *ppo)])["ppo"]

    assert told(bootstrap_interval(ppo)) in line
    assert f"{told(difference)}  better " in line


def test_an_interval_that_reaches_as_far_both_ways_is_told_by_one_number() -> None:
    line = shown(arms("random", 1.0, 4.0))["random"]

    reach = 1.5 * widening(2, 0.95)  # half of the resamples have another mean: 1 or 4
    assert f"2.500 ±{reach:.3f} " in line


def test_a_line_holds_steps_tokens_and_what_everything_cost() -> None:
    fields = shown(arms("random", 2.0, 2.0))["random"].split()

    assert fields[-4:] == ["1,200", "34,567", "2.5", "1.5"]


def test_the_reference_is_not_compared_with_itself() -> None:
    line = shown(arms("random", 2.0, 2.1))["random"]

    assert len(INTERVAL.findall(line)) == 1
    assert "reference" in line


def test_one_seed_has_no_interval() -> None:
    line = shown([*arms("random", 2.0), *arms("ppo", 1.5)])["ppo"]

    assert not INTERVAL.search(line)
    assert "-0.500" in line
    assert "one seed" in line


def test_without_random_there_is_neither_a_difference_nor_a_word() -> None:
    table = shown(arms("ppo", 1.5, 1.6))

    assert len(INTERVAL.findall(table["ppo"])) == 1
    assert "verdict" not in table["policy"]
    assert "minus" not in table["policy"]


def test_exact_match_has_a_column_where_it_was_measured() -> None:
    measured = arms("ppo", 1.5, 1.6, metric="exact_match", metric_value=0.25)

    assert "exact" not in shown(arms("ppo", 1.5, 1.6))["policy"]
    table = shown([*arms("random", 2.0, 2.0), *measured])
    assert "  exact match  " in table["policy"]
    assert "25.0%" in table["ppo"]
    assert "%" not in table["random"]


@pytest.mark.parametrize(
    ("metric", "name"),
    [("own_words:exact_score", "exact score"), ("package.module:rougeL", "rougeL")],
)
def test_a_function_of_the_users_has_the_name_that_the_report_gives_it(
    metric: str, name: str
) -> None:
    measured = arms("ppo", 1.5, 1.6, metric=metric, metric_value=0.25)

    assert f"  {name}  " in shown(measured)["policy"]
    heading = metric_words(summarise(measured))
    assert heading == name[0].upper() + name[1:]


# --- Where a terminal is too narrow for all columns.

LOPSIDED = {
    "base": (4.0, 4.0, 4.0),
    "random": (2.9, 3.1, 3.9),
    "full": (1.0, 1.1, 1.7),
    "nearest_to_target": (2.3, 2.4, 3.1),
    "ppo": (3.0, 3.4, 3.2),
}
"""Losses whose intervals reach farther up than down."""


def widest() -> list[ArmResult]:
    """The quick start's policies and full data, with every reference, budget and a metric."""
    curve: dict[str, Any] = {
        "steps": 2, "step_tokens": (0, 10, 20), "step_flops": (0.0, 1e12, 2e12),
        "metric": "exact_match", "metric_value": 0.5,
    }  # fmt: skip
    return [
        each
        for policy, losses in LOPSIDED.items()
        for seed, loss in enumerate(losses)
        for each in arms(policy, loss, reward_validation_losses=(5.0, loss + 1, loss), **curve)
        for each in [replace(each, seed=seed)]
    ]


def tables(results: Sequence[ArmResult], *, width: int) -> list[str]:
    """Lines of both tables."""
    summaries = summarise(results)
    second = references_table(summaries)
    assert second is not None
    return [
        *printed(results_table(summaries), width=width),
        "",
        *printed(second, width=width),
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(cell_len, tables(widest(), width=width))) <= width


@pytest.mark.parametrize("width", [40, 80, 100])
def test_a_table_is_split_by_columns_and_nothing_is_lost_or_cut(width: int) -> None:
    """Each line of a piece begins with the policy; their cells together are those of the whole."""
    whole, split = tables(widest(), width=400), tables(widest(), width=width)

    for policy in ("policy", *LOPSIDED):
        cells = [
            sorted(
                cell
                for line in lines
                if line.startswith(f"{policy} ")
                for cell in re.split(r" {2,}", line.strip())[1:]
            )
            for lines in (whole, split)
        ]
        assert cells[0] == cells[1] != []
    assert len(split) > len(whole)


def test_a_difference_stays_beside_its_verdict_and_budgets_beside_each_other() -> None:
    heads = [line for line in tables(widest(), width=80) if line.startswith("policy ")]

    assert [re.split(r" {2,}", head.strip())[1:] for head in heads] == [
        ["test loss", "exact match", "steps", "tokens", "TFLOP", "min"],
        ["minus random", "verdict"],
        ["minus base", "verdict"],
        ["minus full", "verdict"],
        ["minus nearest_to_target", "verdict"],
        ["equal tokens", "equal compute"],
    ]


def test_a_column_that_no_terminal_has_room_for_runs_on() -> None:
    label = "ppo-" + "x" * 120
    lines = printed(results_table(summarise(arms(label, 1.0, 1.1))), width=80)

    assert sum(line.startswith(f"{label} ") for line in lines) == 2
    assert "…" not in "".join(lines)


# Several targets, and other metrics.


def test_several_targets_have_a_column_each_and_are_compared_together() -> None:
    given = [
        *arms("base", 9.0, 9.0, target_losses={"short": 4.0, "long": 2.0}),
        *arms("random", 1.0, 1.0, target_losses={"short": 2.0, "long": 1.5}),
        *arms("ppo", 2.0, 2.0, target_losses={"short": 1.0, "long": 1.0}),
    ]

    lines = shown(given, width=160)

    assert lines["loss"].startswith("loss / base's: mean over targets of the loss as a share of")
    assert re.search(r"test loss +short +long +loss / base's", lines["policy"])
    assert "1.000 ±0.000" in lines["ppo"]
    assert "0.375 ±0.000" in lines["ppo"]
    assert "-0.250 ±0.000" in lines["ppo"]


def test_the_likelihood_of_options_has_a_column_under_its_name() -> None:
    measured = arms("ppo", 1.5, 1.6, metric="option_likelihood", metric_value=0.5)

    table = shown(measured)

    assert " option likelihood " in table["policy"]
    assert "50.0%" in table["ppo"]


# Against other references, and on equal budgets.


def references(results: Sequence[ArmResult], *against: str) -> dict[str, str]:
    """Each line of the second table, by its first word."""
    table = references_table(summarise(results, against))
    assert table is not None
    return {line.split()[0]: line for line in printed(table, width=200) if line.strip(" ─")}


def test_a_second_table_has_a_difference_and_a_word_for_each_reference() -> None:
    base, random, ppo = (3.0, 3.0), (2.0, 2.1), (1.0, 1.21)
    against_base = bootstrap_interval([a - b for a, b in zip(ppo, base, strict=True)])
    results = [*arms("base", *base), *arms("random", *random), *arms("ppo", *ppo)]

    lines = references(results)

    assert lines["policy"].split() == ["policy", "minus", "base", "verdict"]
    assert lines["ppo"].split()[-1] == summarise(results)[2].effects[1].verdict
    assert f"{against_base.mean:.3f}" in lines["ppo"]
    assert len(INTERVAL.findall(lines["ppo"])) == len(INTERVAL.findall(lines["random"])) == 1
    assert lines["base"].split() == ["base", "reference"]


def test_policies_asked_for_by_name_stand_last_among_the_references() -> None:
    results = [*arms("base", 3.0), *arms("random", 2.0), *arms("ppo", 1.0), *arms("raise", 1.5)]

    lines = references(results, "ppo", "raise")

    assert re.findall(r"minus \w+", lines["policy"]) == ["minus base", "minus ppo", "minus raise"]
    assert re.findall(r"-?\d\.\d+|reference", lines["raise"]) == ["-1.500", "0.500", "reference"]


def test_a_second_table_tells_losses_on_equal_budgets() -> None:
    curve = {"steps": 1, "step_tokens": (0, 10), "reward_validation_losses": (2.5, 1.75)}

    lines = references([*arms("random", 2.0, **curve), *arms("ppo", 1.0, **curve)])

    assert lines["policy"].split("  ")[-1].strip() == "equal tokens"
    assert lines["random"].split() == ["random", "1.750"]


def test_a_policy_alone_has_no_equal_to_spend_as_much_as() -> None:
    curve = {"steps": 1, "step_tokens": (0, 10), "reward_validation_losses": (2.5, 1.75)}

    assert references_table(summarise(arms("random", 2.0, **curve))) is None


def stopped() -> list[ArmResult]:
    """Of two policies one stopped at its first step."""
    whole = {"steps": 2, "step_tokens": (0, 1000, 2000), "step_flops": (0.0, 1e12, 2e12)}
    short = {"steps": 1, "step_tokens": (0, 1234), "step_flops": (0.0, 0.5e12)}
    return [
        *arms("random", 2.0, reward_validation_losses=(4.0, 3.0, 2.5), **whole),
        *arms(
            "ppo",
            math.nan,
            reward_validation_losses=(4.0, math.nan),
            status="non_finite_loss",
            **short,
        ),
    ]


def test_a_policy_that_stopped_early_is_shown_where_it_ended_and_limits_nobody() -> None:
    lines = references(stopped())

    assert lines["random"].split() == ["random", "2.500", "2.500"]
    assert re.split(r" {2,}", lines["ppo"].strip()) == [
        "ppo", "ended at 1,234 tokens", "ended at 0.5 TFLOP"
    ]  # fmt: skip
    assert lines["Stopped,"].endswith("equal tokens and equal compute: ppo s0.")


def test_there_is_no_second_table_where_the_first_has_said_it_all() -> None:
    assert references_table(summarise([*arms("random", 2.0, 2.1), *arms("ppo", 1.0, 1.2)])) is None
    assert references_table(summarise(arms("ppo", 1.0, 1.2))) is None


def test_before_the_test_is_opened_the_table_says_what_its_losses_are_of() -> None:
    sealed = arms("random", 0.0, test=None, model_selection=arm_results.held_out(2.25))

    table = shown(sealed)

    assert "model-selection loss" in table["policy"]
    assert "2.250" in table["random"]
