"""What plots of a report draw."""

from __future__ import annotations

import json
import math
from html import unescape

import pytest
from helpers.arm_results import arm, arms
from helpers.runs_on_disk import finished_arms

from raise_mdit import report_figures
from raise_mdit.comparison import summarise
from raise_mdit.compute_figure import loss_by_compute, pareto_front
from raise_mdit.core import Cost
from raise_mdit.prominence import PALE, POLICY_COLOURS, by_prominence, policy_colours, winner
from raise_mdit.results import ArmResult

EVIL = "<script>alert('&')</script>"


def colours(given: list[ArmResult]) -> dict[str, str]:
    return policy_colours(given, summarise(given))


def costing(policy: str, loss: float, flops: float) -> ArmResult:
    costs = {"final_training": Cost(flops=flops), "monitoring": Cost(flops=1e18)}
    return arm(policy, 0, loss, costs=costs)


def test_the_front_holds_what_nothing_cheaper_undercuts() -> None:
    given = [
        costing("middle", 1.5, 2e12),
        costing("cheap", 2.0, 1e12),
        costing("dominated", 1.6, 3e12),
        costing("dear", 1.0, 9e12),
        costing("as dear, higher", 1.2, 9e12),
    ]
    front = [summary.policy for summary in pareto_front(summarise(given))]
    assert front == ["cheap", "middle", "dear"]


def test_every_policy_stands_at_its_compute_and_loss_and_the_front_is_drawn() -> None:
    given = [costing("random", 2.0, 1e12), costing("ppo", 1.0, 5e12), costing("bad", 3.0, 4e12)]
    figure = loss_by_compute(given, summarise(given), colours(given))
    front, *marks = figure.data
    assert (list(front.x), list(front.y)) == ([1.0, 5.0], [2.0, 1.0])
    assert [(mark.x[0], mark.y[0]) for mark in marks[3:]] == [(1.0, 2.0), (5.0, 1.0), (4.0, 3.0)]
    assert {each.text for each in figure.layout.annotations} == {"random", "ppo"}
    assert figure.layout.xaxis.type is None


def test_a_wide_range_of_compute_is_drawn_by_its_logarithm() -> None:
    given = [costing("random", 2.0, 1e12), costing("ppo", 1.0, 1e14)]
    figure = loss_by_compute(given, summarise(given), colours(given))
    assert figure.layout.xaxis.type == "log"
    assert sorted(each.x for each in figure.layout.annotations) == pytest.approx([0, 2])


def test_a_policy_without_a_finite_loss_is_left_out_of_the_front_and_the_plot() -> None:
    given = [costing("random", 2.0, 1e12), costing("ppo", math.nan, 5e12)]
    figure = loss_by_compute(given, summarise(given), colours(given))
    assert len(figure.data) == 3  # the front, and random's seed and mean


def test_label_of_a_plot_is_escaped_for_plotly() -> None:
    given = [arm(EVIL, 0, 1.0)]
    figure = report_figures.held_out_losses(given, summarise(given), colours(given))
    assert "<script" not in figure.data[0].hovertemplate
    (label,) = figure.layout.yaxis.ticktext
    assert "<" not in label
    assert unescape(label) == EVIL[:21] + "…"


def test_names_that_begin_alike_keep_their_rows() -> None:
    same = "x" * 30
    given = [arm(f"{same}1", 0, 1.0), arm(f"{same}2", 0, 2.0)]
    figure = report_figures.held_out_losses(given, summarise(given), colours(given))
    assert [trace.y[0] for trace in figure.data[::2]] == [0, 1]


def test_numbers_that_are_not_finite_leave_gaps() -> None:
    broken = arm("ppo", 0, math.nan, reward_validation_losses=(2.0, math.inf), steps=1)
    given = [*arms("random", 1.5, 1.6), broken]
    drawn = report_figures.validation_by_step(given, colours(given)).to_json()
    assert json.loads(drawn)["data"][-1]["y"] == [2.0, None]


def test_curves_over_compute_begin_where_choosing_is_paid_for() -> None:
    given = finished_arms(seeds=2)
    figure = report_figures.validation_by_compute(given, colours(given))
    curves = {trace.name: trace for trace in figure.data if trace.name}
    for policy, curve in curves.items():
        (first, *_) = [each.step_flops for each in given if each.policy == policy]
        assert curve.x[0] == pytest.approx(first[0] / 1e12)
    assert curves["ppo"].x[0] > 9
    assert curves["base"].x[-1] == max(max(curve.x) for curve in curves.values())


def test_results_of_older_versions_have_no_curves_over_compute() -> None:
    given = arms("random", 1.5, 1.6)
    assert not report_figures.validation_by_compute(given, colours(given)).data


def test_long_curves_are_thinned_and_keep_both_ends() -> None:
    losses = tuple(float(value) for value in range(5_001))
    given = [arm("ppo", 0, 1.0, reward_validation_losses=losses, steps=5_000)]
    (curve,) = report_figures.validation_by_step(given, colours(given)).data
    assert len(curve.x) == report_figures.MOST_POINTS
    assert (curve.x[0], curve.x[-1], curve.y[-1]) == (0, 5_000, 5_000)
    assert list(curve.x) == list(curve.y)


def test_costs_are_stacked_in_tflop_as_means_over_seeds() -> None:
    pair = [
        arm("ppo", 0, 1.0, costs={"features": Cost(flops=1e12)}),
        arm("ppo", 1, 1.0, costs={"features": Cost(flops=3e12), "synthesis": Cost(flops=4e12)}),
    ]
    bars = report_figures.costs(pair).data
    assert [list(bar.x) for bar in bars] == [[2.0], [2.0]]


def test_running_mean_looks_back_only() -> None:
    values = [float(value) for value in range(10)]
    means = report_figures.running_mean(values)
    assert means[:3] == [0.0, 0.5, 1.0]
    assert means[-1] == sum(range(2, 10)) / 8


def test_what_is_drawn_of_several_targets_is_what_is_compared() -> None:
    given = [
        *arms("base", 4.0, 4.0, target_losses={"short": 4.0, "long": 2.0}),
        *arms("random", 2.0, 2.2, target_losses={"short": 2.0, "long": 1.5}),
        *arms("ppo", 3.0, 3.1, target_losses={"short": 1.0, "long": 1.0}),
    ]
    figure = report_figures.held_out_losses(given, summarise(given), colours(given))
    assert [trace.x[0] for trace in figure.data[::2]] == [0.375, 0.625, 1.0]
    assert figure.layout.xaxis.title.text == "loss as a share of the base model's"


def test_metric_and_loss_of_each_seed_are_a_dot() -> None:
    from raise_mdit.metric_agreement import Reached

    reached = [Reached("a", 1.0, 0.5), Reached("b", 2.0, 0.25), Reached("a", 1.5, 0.4)]
    figure = report_figures.metric_by_loss(
        reached, {"a": "#111111", "b": "#222222"}, metric="Exact match", place="the sealed test"
    )
    assert [(list(dots.x), list(dots.y)) for dots in figure.data] == [
        ([1.0, 1.5], [0.5, 0.4]),
        ([2.0], [0.25]),
    ]


def test_colour_of_a_policy_follows_its_place() -> None:
    given = [*arms("random", 1.5), *arms("ppo", 1.0)]
    assert list(colours(given).items()) == [
        ("random", POLICY_COLOURS[0]),
        ("ppo", POLICY_COLOURS[1]),
    ]


def test_of_many_policies_those_that_matter_have_colours_and_the_others_one() -> None:
    given = finished_arms(seeds=1, extra=[f"p{at}" for at in range(12)])
    chosen = colours(given)
    own = [policy for policy, colour in chosen.items() if colour != PALE]
    assert len(own) == len({chosen[policy] for policy in own}) == len(POLICY_COLOURS)
    assert {"ppo", "random", "base", "full", "dsir"} <= {*own}


def test_references_have_colours_however_many_policies_learn() -> None:
    learned = [arm for at in range(12) for arm in arms(f"p{at}", 1.2, episode_returns=(0.1, 0.2))]
    chosen = colours([*finished_arms(seeds=1), *learned])
    assert PALE not in {chosen[policy] for policy in ("random", "base", "full", "dsir")}


def test_winner_learned_and_references_come_first() -> None:
    learned = arms("ppo", 1.8, 1.9, episode_returns=(0.1, 0.2))
    given = [*arms("a", 1.0, 1.1), *arms("random", 1.5, 1.6), *arms("b", 1.2, 1.3), *learned]
    order = [summary.policy for summary in by_prominence(given, summarise(given))]
    assert order == ["a", "ppo", "random", "b"]


def test_a_policy_settled_against_random_wins_over_a_lower_one_that_is_not() -> None:
    given = [
        *arms("random", 1.50, 1.60, 1.70, 1.61, 1.59),
        *arms("steady", 1.00, 1.11, 1.22, 1.09, 1.08),
        *arms("erratic", 0.1, 2.9, 0.2, 1.4, 0.3),
    ]
    best = winner(summarise(given))
    assert best is not None
    assert best.policy == "steady"
