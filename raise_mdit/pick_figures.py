"""Plots of what was picked: shares of groups over steps, and places on a map of the pool.

Shapes: ``N`` candidates of the pool, ``B`` those drawn as its background, ``P`` picks drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from raise_mdit.feature_groups import column_group
from raise_mdit.features import FeatureTable
from raise_mdit.plots import GROUP_COLOURS, empty_figure

Shares = Sequence[Sequence[Mapping[str, int]]]
"""Picks by group at each step of each seed."""

HEIGHT = 270
"""Of these plots in pixels; they stand side by side."""
MAX_GROUPS = len(GROUP_COLOURS) - 1
"""Groups drawn by name; the rest are one."""
MAX_BARS = 60
"""Bars across a plot of picks; more steps than that are averaged."""
OTHER = "other groups"

MAP_CANDIDATES = 1_500
"""Candidates drawn as background of each map, evenly over the pool: a map is SVG, and a browser
takes about a second for 10,000 marks."""
MAP_PICKS = 1_000
"""Picks drawn on each map; of more, so many evenly over the steps."""
EARLY, MIDDLE, LATE = "#3d6fd1", "#b0749f", "#e69f00"
"""From the first step to the last: blue to orange, told apart by all kinds of colour vision, and
seen on white and near-black."""
BACKGROUND = "#9aa7b6"


def shares_by_step(series: Shares, groups: Sequence[str], *, first_step: int = 1) -> go.Figure:
    """Share of picks by group over the steps of one policy, mean over its seeds, stacked.

    Args:
        series: Picks of the policy.
        groups: What is drawn by name; the rest are :data:`OTHER`.
        first_step: Number of the first step.
    """
    figure = empty_figure("optimizer step", "share of picks", height=HEIGHT, left=62)
    longest = max((len(steps) for steps in series), default=0)
    steps = [[seed[at] for seed in series if at < len(seed)] for at in range(longest)]
    width = max(1, math.ceil(len(steps) / MAX_BARS))
    chunks = [steps[start : start + width] for start in range(0, len(steps), width)]
    shares = [_shares(pick for step in chunk for pick in step) for chunk in chunks]
    colours = group_colours(groups)
    for group in colours:
        figure.add_bar(
            x=[first_step + at * width + (width - 1) / 2 for at in range(len(shares))],
            y=[round(_share_of(group, share, groups), 6) for share in shares],
            marker={"color": colours[group], "line": {"width": 0}},
            name=escape(group),
        )
    figure.update_layout(barmode="stack", bargap=0)
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    return figure


def largest_groups(series: Shares) -> tuple[str, ...]:
    """The groups most picked from, the most first."""
    shares = _shares(pick for steps in series for pick in steps)
    return tuple(sorted(shares, key=lambda group: (-shares[group], group))[:MAX_GROUPS])


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """A colour for each group, and the last for all others together."""
    return {**dict(zip(groups, GROUP_COLOURS, strict=False)), OTHER: GROUP_COLOURS[-1]}


def groups_legend(series: Shares, groups: Sequence[str]) -> dict[str, str]:
    """The same without the others where there are none."""
    colours = group_colours(groups)
    if all(group in groups for steps in series for step in steps for group in step):
        del colours[OTHER]
    return colours


def map_places(table: FeatureTable) -> NDArray[np.float32]:
    """[N, 2] of each candidate on a plane.

    The first two semantic columns, which are the principal axes of the embeddings; without them the
    principal axes of all features.

    Args:
        table: Features of the pool.
    """
    semantic = semantic_columns(table)
    if len(semantic) > 1:
        return table.values[:, semantic[:2]]
    centred_NF = table.values - table.values.mean(axis=0)
    _, axes_FF = np.linalg.eigh(centred_NF.T @ centred_NF)
    return np.asarray(centred_NF @ axes_FF[:, :-3:-1], np.float32)


def semantic_columns(table: FeatureTable) -> list[int]:
    """Positions of the columns that are principal components of embeddings, in their order."""
    return [at for at, name in enumerate(table.names) if column_group(name) == "semantic"]


def drawn_evenly(count: int, most: int) -> NDArray[np.int64]:
    """Positions of as many things as are drawn, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def picks_map(
    background: NDArray[np.float32],
    background_texts: NDArray[np.int64],
    picked: NDArray[np.float32],
    picked_texts: NDArray[np.int64],
    steps: NDArray[np.int64],
    *,
    num_steps: int,
) -> go.Figure:
    """Where a policy picked and when: its picks by step over a part of the pool.

    Args:
        background: [B, 2] places of candidates.
        background_texts: [B] numbers of their texts, which the page holds once for all maps.
        picked: [P, 2] places of picks.
        picked_texts: [P] numbers of their texts.
        steps: [P] step of each pick, from 1.
        num_steps: Of the fine-tuning, at which colours end.
    """
    figure = empty_figure("first axis", "second axis", height=HEIGHT, left=28)
    figure.update_layout(margin_b=28)
    figure.add_scatter(
        x=_rounded(background[:, 0]),
        y=_rounded(background[:, 1]),
        customdata=background_texts.tolist(),
        meta="candidates",
        mode="markers",
        marker={"color": BACKGROUND, "size": 4, "opacity": 0.35},
        hovertemplate="not picked here<br>%{text}<extra></extra>",
    )
    figure.add_scatter(
        x=_rounded(picked[:, 0]),
        y=_rounded(picked[:, 1]),
        customdata=picked_texts.tolist(),
        meta="candidates",
        mode="markers",
        marker={
            "color": steps.tolist(),
            "cmin": 1,
            "cmax": max(2, num_steps),
            "colorscale": [[0, EARLY], [0.5, MIDDLE], [1, LATE]],
            "size": 8,
            "line": {"width": 0.5, "color": "rgba(255,255,255,0.7)"},
        },
        hovertemplate="step %{marker.color}<br>%{text}<extra></extra>",
    )
    figure.update_xaxes(showticklabels=False, showgrid=False, title_standoff=4)
    figure.update_yaxes(showticklabels=False, showgrid=False, title_standoff=4)
    return figure


def _rounded(values: NDArray[np.float32]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _shares(picks: Iterable[Mapping[str, int]]) -> dict[str, float]:
    counts: dict[str, int] = {}
    for pick in picks:
        for group, count in pick.items():
            counts[group] = counts.get(group, 0) + count
    whole = sum(counts.values())
    return {group: count / whole for group, count in counts.items() if whole}


def _share_of(group: str, shares: Mapping[str, float], named: Sequence[str]) -> float:
    if group != OTHER:
        return shares.get(group, 0.0)
    return sum(share for name, share in shares.items() if name not in named)
