"""The plot that a report begins with: what policies reached against everything they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from raise_mdit.comparison import PolicySummary, compared_losses
from raise_mdit.plots import drawn, empty_figure, scale_x, short_name, whiskers
from raise_mdit.prominence import level
from raise_mdit.report_words import TFLOP, compared_axis, tflop
from raise_mdit.results import ArmResult

FRONT_COLOUR = "#8794a3"


def loss_by_compute(
    arms: Sequence[ArmResult], summaries: Sequence[PolicySummary], colours: Mapping[str, str]
) -> go.Figure:
    """What policies are compared by against everything they cost, with the Pareto front."""
    figure = empty_figure("total compute (TFLOP)", compared_axis(summaries), height=400, left=64)
    shown = [each for each in summaries if math.isfinite(level(each) + each.compute.flops)]
    if not shown:
        return figure
    amounts = [each.compute.flops / TFLOP for each in shown]
    is_log = scale_x(figure, amounts)
    front = pareto_front(shown)
    _draw_front(figure, front)
    by_arm = compared_losses(arms)
    for summary in shown:
        mine = [arm for arm in arms if arm.policy == summary.policy]
        figure.add_scatter(
            x=[arm.cost_compared_on(summary.split).flops / TFLOP for arm in mine],
            y=[drawn(by_arm[arm.policy, arm.seed]) for arm in mine],
            marker={"color": colours[summary.policy], "size": 6, "opacity": 0.45},
            mode="markers",
            hoverinfo="skip",
        )
    for summary in shown:
        _draw_policy(figure, summary, colours[summary.policy])
    for summary in front:
        _name(figure, summary, amounts, is_log=is_log)
    return figure


def pareto_front(summaries: Sequence[PolicySummary]) -> list[PolicySummary]:
    """The policies to which no other is both cheaper, or as cheap, and lower; the cheapest first.

    Args:
        summaries: With finite compute and loss.
    """
    front: list[PolicySummary] = []
    for summary in sorted(summaries, key=lambda each: (each.compute.flops, level(each))):
        if not front or level(summary) < level(front[-1]):
            front.append(summary)
    return front


def _draw_front(figure: go.Figure, front: Sequence[PolicySummary]) -> None:
    figure.add_scatter(
        x=[summary.compute.flops / TFLOP for summary in front],
        y=[level(summary) for summary in front],
        mode="lines",
        line={"color": FRONT_COLOUR, "width": 1.5, "dash": "dot", "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )


def _draw_policy(figure: go.Figure, summary: PolicySummary, colour: str) -> None:
    figure.add_scatter(
        x=[summary.compute.flops / TFLOP],
        y=[level(summary)],
        error_y=whiskers(summary.compared),
        marker={"color": colour, "size": 12, "symbol": "diamond"},
        mode="markers",
        name=escape(summary.policy),
        hovertemplate=f"{escape(summary.policy)}<br>%{{y:.4f}} at {tflop(summary.compute)} TFLOP"
        "<extra></extra>",
    )


def _name(
    figure: go.Figure, summary: PolicySummary, amounts: Sequence[float], *, is_log: bool
) -> None:
    """The policy's name at its point, on the side that has room."""
    scale: Callable[[float], float] = math.log10 if is_log else float
    low, high, here = (
        scale(value) for value in (min(amounts), max(amounts), summary.compute.flops / TFLOP)
    )
    is_right = high > low and (here - low) / (high - low) > 0.5
    figure.add_annotation(
        x=here,  # of a logarithmic axis, annotations take the exponent
        y=level(summary),
        text=short_name(summary.policy),
        showarrow=False,
        xanchor="right" if is_right else "left",
        xshift=-10 if is_right else 10,
        yshift=10,
    )
