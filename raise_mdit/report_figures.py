"""Plots of a report: how arms learned, fell and ended, and what they cost.

Colours hold on light and dark ground; text and grid take theirs from the page's style sheet, which
also shows the legends. Plotly reads markup in labels, so every name is escaped before it is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import TypeVar

import numpy as np
import plotly.graph_objects as go

from raise_mdit.comparison import PolicySummary, compared_losses
from raise_mdit.ledger import MONITORING
from raise_mdit.metric_agreement import Reached
from raise_mdit.plots import GROUP_COLOURS, drawn, empty_figure, name_rows, scale_x, whiskers
from raise_mdit.prominence import PALE, level
from raise_mdit.report_words import TFLOP, compared_axis
from raise_mdit.results import ArmResult, by_policy

Item = TypeVar("Item")

RUNNING_MEAN = 8
"""Episodes over which a running mean looks back."""
MOST_POINTS = 400
"""Points of a curve; longer ones are drawn at that many places evenly, the last among them."""


def episode_returns(arms: Sequence[ArmResult], colours: Mapping[str, str]) -> go.Figure:
    """Return by learning episode: each seed thin, the running mean over all seeds thick."""
    figure = empty_figure("learning episode", "return")
    for policy, group in by_policy(arms).items():
        series = [arm.episode_returns for arm in group if arm.episode_returns]
        for values in series:
            places = range(1, len(values) + 1)
            _line(figure, places, values, colours[policy], width=1, opacity=0.35)
        if series:
            means = running_mean([_mean(column) for column in _columns(series)])
            places = range(1, len(means) + 1)
            _line(figure, places, means, colours[policy], width=3, name=policy)
    return figure


def validation_by_step(arms: Sequence[ArmResult], colours: Mapping[str, str]) -> go.Figure:
    """Loss on reward-validation by step: mean over seeds and the range of seeds.

    A policy that takes no step is a level line.
    """
    figure = empty_figure("optimizer step", "loss (nats)")
    last = max((len(arm.reward_validation_losses) for arm in arms), default=0)

    def places(arm: ArmResult) -> Sequence[float]:
        return range(last if arm.steps == 0 else len(arm.reward_validation_losses))

    return _validation(figure, arms, colours, places)


def validation_by_compute(arms: Sequence[ArmResult], colours: Mapping[str, str]) -> go.Figure:
    """The same by total compute so far, choosing included; empty where an arm does not say it."""
    figure = empty_figure("total compute so far (TFLOP)", "loss (nats)")
    spent = [amount / TFLOP for arm in arms for amount in arm.step_flops]
    if not spent or any(arm.steps and not arm.step_flops for arm in arms):
        return figure
    scale_x(figure, spent)
    ends = (min(spent), max(spent))

    def places(arm: ArmResult) -> Sequence[float]:
        return ends if arm.steps == 0 else [amount / TFLOP for amount in arm.step_flops]

    return _validation(figure, arms, colours, places)


def held_out_losses(
    arms: Sequence[ArmResult], summaries: Sequence[PolicySummary], colours: Mapping[str, str]
) -> go.Figure:
    """What each policy is compared by, the lowest first: interval, mean and a dot for each seed."""
    shown = sorted((each for each in summaries if each.compared is not None), key=level)
    figure = empty_figure(compared_axis(summaries), None, height=90 + 34 * len(shown))
    by_arm = compared_losses(arms)
    for row, summary in enumerate(shown):
        colour = colours[summary.policy]
        losses = [drawn(loss) for (policy, _), loss in by_arm.items() if policy == summary.policy]
        figure.add_scatter(
            x=[drawn(level(summary))],
            y=[row],
            error_x=whiskers(summary.compared),
            marker={"color": colour, "size": 11, "symbol": "diamond"},
            mode="markers",
            hovertemplate=f"{escape(summary.policy)}<br>%{{x:.4f}}<extra></extra>",
        )
        figure.add_scatter(
            x=losses,
            y=[row] * len(losses),
            marker={"color": colour, "size": 8, "opacity": 0.5},
            mode="markers",
            hovertemplate=f"{escape(summary.policy)}, a seed<br>%{{x:.4f}}<extra></extra>",
        )
    name_rows(figure, [summary.policy for summary in shown])
    return figure


def metric_by_loss(
    reached: Sequence[Reached], colours: Mapping[str, str], *, metric: str, place: str
) -> go.Figure:
    """Task metric against loss, a dot for each policy and seed.

    Args:
        reached: What each reached.
        colours: By policy.
        metric: Name of the metric.
        place: What both were measured on.
    """
    figure = empty_figure(f"loss on {place} (nats)", metric.lower())
    for policy in dict.fromkeys(each.policy for each in reached):
        mine = [each for each in reached if each.policy == policy]
        figure.add_scatter(
            x=[drawn(each.loss) for each in mine],
            y=[drawn(each.metric) for each in mine],
            mode="markers",
            marker={"color": colours[policy], "size": 10, "opacity": 0.8},
            cliponaxis=False,
            hovertemplate=f"{escape(policy)}<br>%{{y:.1%}} at %{{x:.4f}}<extra></extra>",
        )
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure


def costs(arms: Sequence[ArmResult]) -> go.Figure:
    """Compute of each policy by purpose, mean over its seeds, stacked."""
    groups = by_policy(arms)
    figure = empty_figure("compute (TFLOP)", None, height=90 + 34 * len(groups))
    for purpose, colour in purpose_colours(arms).items():
        figure.add_bar(
            x=[_mean_tflop(group, purpose) for group in groups.values()],
            y=list(range(len(groups))),
            orientation="h",
            marker={"color": colour, "line": {"width": 0}},
            hovertext=[escape(f"{policy}: {purpose.replace('_', ' ')}") for policy in groups],
            hovertemplate="%{hovertext}<br>%{x:.3g} TFLOP<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.35)
    name_rows(figure, list(groups))
    return figure


def purpose_colours(arms: Sequence[ArmResult]) -> dict[str, str]:
    """A colour for each purpose that something was spent on, by the order of first appearance."""
    spent = [
        purpose
        for arm in arms
        for purpose, cost in arm.costs.items()
        if purpose != MONITORING and cost.flops != 0
    ]
    return dict(zip(dict.fromkeys(spent), cycle(GROUP_COLOURS), strict=False))


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, :data:`RUNNING_MEAN` at most."""
    return [_mean(values[max(0, end - RUNNING_MEAN) : end]) for end in range(1, len(values) + 1)]


def _validation(
    figure: go.Figure,
    arms: Sequence[ArmResult],
    colours: Mapping[str, str],
    places: Callable[[ArmResult], Sequence[float]],
) -> go.Figure:
    """Curves of all policies, those without a colour of their own beneath the others."""
    groups = by_policy(arms)
    for policy in sorted(groups, key=lambda each: colours[each] != PALE):
        group, colour = groups[policy], colours[policy]
        is_level = group[0].steps == 0
        x = [_mean(column) for column in _columns([places(arm) for arm in group])]
        series = [arm.reward_validation_losses for arm in group]
        columns = _columns([values * len(x) for values in series] if is_level else series)
        x = x[: len(columns)]
        if len(series) > 1 and not is_level and colour != PALE:
            _band(figure, x, columns, colour)
        means = [_mean(column) for column in columns[: len(x)]]
        dash, width = ("dash" if is_level else "solid"), (1 if colour == PALE else 2)
        _line(figure, x, means, colour, name=policy, dash=dash, width=width)
    return figure


def _line(
    figure: go.Figure,
    places: Sequence[float],
    values: Sequence[float],
    colour: str,
    *,
    name: str | None = None,
    width: int = 2,
    opacity: float = 1.0,
    dash: str = "solid",
) -> None:
    kept = _thinned(len(values))
    figure.add_scatter(
        x=[places[at] for at in kept],
        y=[drawn(values[at]) for at in kept],
        mode="lines" if len(values) > 1 else "markers",
        line={"color": colour, "width": width, "dash": dash},
        marker={"color": colour},
        opacity=opacity,
        name=None if name is None else escape(name),
        hoverinfo="all" if name is not None else "skip",
    )


def _band(
    figure: go.Figure, places: Sequence[float], columns: Sequence[Sequence[float]], colour: str
) -> None:
    finite = [[value for value in column if math.isfinite(value)] for column in columns]
    kept = [at for at in _thinned(len(finite)) if finite[at]]
    figure.add_scatter(
        x=[places[at] for at in (*kept, *kept[::-1])],
        y=[*(max(finite[at]) for at in kept), *(min(finite[at]) for at in kept[::-1])],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=colour,
        opacity=0.18,
        hoverinfo="skip",
    )


def _thinned(length: int) -> list[int]:
    """Positions of a curve that are drawn."""
    count = min(length, MOST_POINTS)
    return [round(place) for place in np.linspace(0, length - 1, count)]


def _columns(series: Sequence[Sequence[Item]]) -> list[list[Item]]:
    """What stands at each position, of the series that are long enough."""
    longest = max((len(values) for values in series), default=0)
    return [[values[at] for values in series if at < len(values)] for at in range(longest)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_tflop(arms: Sequence[ArmResult], purpose: str) -> float | None:
    flops = [arm.costs[purpose].flops if purpose in arm.costs else 0.0 for arm in arms]
    return drawn(_mean(flops) / TFLOP)
