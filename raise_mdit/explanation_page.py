"""An explanation as one HTML file: three plots and the tables behind them."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from markupsafe import Markup

from raise_mdit.explanation import ExplainedPick, Explanation
from raise_mdit.pages import rendered
from raise_mdit.pick_figures import groups_legend, largest_groups, shares_by_step
from raise_mdit.plots import GROUP_COLOURS, embedded, empty_figure
from raise_mdit.runs import write_text

RAISES, LOWERS, TOTAL = "#009e73", "#d55e00", "#7f8c9b"
"""Okabe & Ito 2008, as in the report: told apart by colour-blind readers on light and dark."""

HEIGHT, RIGHT = 320, 64
"""Of the plots in pixels; numbers of the waterfall stand at its right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Panel:
    """A plot with its heading and legend."""

    title: str
    figure: Markup
    legend: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    """What the policy saw of a pick, as texts."""

    name: str
    group: str
    value: str
    window_mean: str


def write_page(path: Path, explanation: Explanation, *, top: int) -> None:
    """Write the page; one that is there is replaced.

    Args:
        path: The HTML file.
        explanation: Of an arm.
        top: Picks in the table at most; the first of them is shown in full.
    """
    picks = explanation.strongest(top)
    page = rendered(
        "explanation.html",
        explanation=explanation,
        sentence=headline(explanation),
        attributions=_attributions_panel(explanation),
        shares=[_shares_panel(explanation, way) for way in explanation.counts],
        picks=picks,
        shown=picks[0],
        waterfall=embedded(waterfall(explanation, picks[0]), "waterfall"),
        columns=_columns(explanation, picks[0]),
    )
    write_text(path, page)


def headline(explanation: Explanation) -> str:
    """To which groups the scores of picks owe most, in a sentence."""
    means = dict(zip(explanation.groups, explanation.attributions.mean(axis=0), strict=True))
    whole = float(sum(means.values()))
    if whole == 0:
        return "The policy scores all candidates alike: no group of features has an effect."
    first, second = sorted(means, key=lambda group: -means[group])[:2]
    return (
        f"What sets picks apart from their windows is {first} ({means[first] / whole:.0%} of all "
        f"attributions) and then {second} ({means[second] / whole:.0%})."
    )


def attributions_by_step(explanation: Explanation) -> go.Figure:
    """Mean absolute attribution of each group at each step, stacked."""
    figure = empty_figure("optimizer step", "mean absolute attribution", height=HEIGHT)
    colours = _group_colours(explanation)
    for place, group in enumerate(explanation.groups):
        figure.add_bar(
            x=list(range(len(explanation.attributions))),
            y=explanation.attributions[:, place].tolist(),
            marker={"color": colours[group], "line": {"width": 0}},
            name=escape(group),
        )
    figure.update_layout(barmode="stack", bargap=0.05)
    return figure


def waterfall(explanation: Explanation, pick: ExplainedPick) -> go.Figure:
    """From the mean of the window to the score of a pick, group by group."""
    figure = empty_figure("score above the window's mean", None, height=HEIGHT, right=RIGHT)
    figure.add_waterfall(
        orientation="h",
        y=[*map(escape, explanation.groups), "all together"],
        x=[*pick.attributions.tolist(), pick.lift],
        measure=["relative"] * len(explanation.groups) + ["total"],
        text=[f"{value:+z.3f}" for value in (*pick.attributions, pick.lift)],
        increasing={"marker": {"color": RAISES}},
        decreasing={"marker": {"color": LOWERS}},
        totals={"marker": {"color": TOTAL}},
        textposition="outside",
        cliponaxis=False,
    )
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return figure


def picks_by_step(explanation: Explanation, way: str) -> go.Figure:
    """Share of picks at each step, stacked.

    Args:
        explanation: Of an arm.
        way: One of :data:`raise_mdit.explanation.WAYS_OF_GROUPING`.
    """
    series = [explanation.counts[way]]
    # The report counts steps from 1, schedules and this page from 0.
    return shares_by_step(series, largest_groups(series), first_step=0)


def _attributions_panel(explanation: Explanation) -> _Panel:
    return _Panel(
        title="Mean absolute attribution of what was picked",
        figure=embedded(attributions_by_step(explanation), "attributions"),
        legend=_group_colours(explanation),
    )


def _shares_panel(explanation: Explanation, way: str) -> _Panel:
    series = [explanation.counts[way]]
    return _Panel(
        title=f"By {way}",
        figure=embedded(picks_by_step(explanation, way), f"picks-{way}"),
        legend=groups_legend(series, largest_groups(series)),
    )


def _group_colours(explanation: Explanation) -> dict[str, str]:
    return dict(zip(explanation.groups, GROUP_COLOURS, strict=False))


def _columns(explanation: Explanation, pick: ExplainedPick) -> list[_Column]:
    return [
        _Column(name=name, group=group, value=f"{value:.3f}", window_mean=f"{mean:.3f}")
        for name, group, value, mean in zip(
            explanation.columns,
            explanation.column_groups,
            pick.features,
            pick.window_means,
            strict=True,
        )
    ]
