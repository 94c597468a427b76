"""Plots of the report, from the results of arms.

Colours hold on light and dark ground; text and grid take theirs from the page's style sheet, which
also shows the legends. Plotly reads markup in labels, so every name is escaped before it is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import TypeVar

import plotly.graph_objects as go

from raise_mdit.comparison import ArmResult, PolicySummary, compared_losses, target_names
from raise_mdit.ledger import MONITORING
from raise_mdit.plots import empty_figure

Item = TypeVar("Item")

# Okabe & Ito 2008, "Color universal design"; black is left out and yellow is darkened, so that all
# are seen on white and on near-black.
POLICY_COLOURS = (
    "#7f8c9b",
    "#e69f00",
    "#0072b2",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#b8a500",
)
# Paul Tol's "muted" scheme: apart from the colours of policies, since it means groups.
GROUP_COLOURS = (
    "#6a5acd", "#44aa99", "#ddaa77", "#cc6677", "#88ccee", "#117733", "#aa4499", "#999933",
    "#999999",
)  # fmt: skip
MAX_GROUPS = len(GROUP_COLOURS) - 1
"""Groups drawn by name; the rest are one."""
MAX_BARS = 60
"""Bars across a plot of picks; more steps than that are averaged."""
RUNNING_MEAN = 8
"""Episodes over which a running mean looks back."""
OTHER = "other groups"


def policy_colours(arms: Sequence[ArmResult]) -> dict[str, str]:
    """A colour for each policy, by the order of first appearance."""
    policies = dict.fromkeys(arm.policy for arm in arms)
    return dict(zip(policies, cycle(POLICY_COLOURS), strict=False))


def episode_returns(arms: Sequence[ArmResult]) -> go.Figure:
    """Return by learning episode: each seed thin, the running mean over all seeds thick."""
    figure = empty_figure("learning episode", "return")
    colours = policy_colours(arms)
    for policy, group in _by_policy(arms).items():
        series = [arm.episode_returns for arm in group if arm.episode_returns]
        for values in series:
            _line(figure, values, colours[policy], first=1, width=1, opacity=0.35)
        if series:
            means = running_mean([_mean(column) for column in _columns(series)])
            _line(figure, means, colours[policy], first=1, width=3, name=policy)
    return figure


def validation_losses(arms: Sequence[ArmResult]) -> go.Figure:
    """Loss on reward-validation by step: mean over seeds and the range of seeds.

    A policy that takes no step is a level line.
    """
    figure = empty_figure("optimizer step", "loss (nats)")
    colours = policy_colours(arms)
    last = max((len(arm.reward_validation_losses) for arm in arms), default=0)
    for policy, group in _by_policy(arms).items():
        series = [arm.reward_validation_losses for arm in group]
        level = all(len(values) == 1 for values in series)
        columns = _columns([values * last for values in series] if level else series)
        if len(series) > 1 and not level:
            _band(figure, columns, colours[policy])
        dash = "dash" if level else "solid"
        _line(figure, [_mean(c) for c in columns], colours[policy], name=policy, dash=dash)
    return figure


def sealed_losses(arms: Sequence[ArmResult], summaries: Sequence[PolicySummary]) -> go.Figure:
    """What each policy is compared by: the interval, its mean and a dot for each seed.

    That is the loss on the sealed test, or over several targets the mean of their shares of the
    base model's.
    """
    title = "loss over the base model's" if target_names(arms) else "loss on the sealed test (nats)"
    figure = empty_figure(title, None, height=110 + 48 * len(summaries))
    colours = policy_colours(arms)
    by_arm = compared_losses(arms)
    for summary in summaries:
        interval, colour = summary.compared, colours[summary.policy]
        if interval is None:
            continue
        losses = [_drawn(loss) for (policy, _), loss in by_arm.items() if policy == summary.policy]
        label = escape(summary.policy)
        reach = 0.0 if interval.high is None else interval.high - interval.mean
        figure.add_scatter(
            x=[_drawn(interval.mean)],
            y=[label],
            error_x={"array": [reach], "thickness": 2, "width": 7},
            marker={"color": colour, "size": 11, "symbol": "diamond"},
            mode="markers",
            name=label,
        )
        figure.add_scatter(
            x=losses,
            y=[label] * len(losses),
            marker={"color": colour, "size": 8, "opacity": 0.5},
            mode="markers",
            name=f"{label}, seeds",
        )
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return figure


def picks(arms: Sequence[ArmResult], groups: Sequence[str]) -> go.Figure:
    """Share of picks by group over the steps of one policy, mean over its seeds, stacked."""
    figure = empty_figure("optimizer step", "share of picks", height=260)
    steps = _columns([arm.picks for arm in arms])
    width = max(1, math.ceil(len(steps) / MAX_BARS))
    chunks = [steps[start : start + width] for start in range(0, len(steps), width)]
    shares = [_shares(pick for step in chunk for pick in step) for chunk in chunks]
    colours = group_colours(groups)
    for group in colours:
        figure.add_bar(
            x=[1 + index * width + (width - 1) / 2 for index in range(len(shares))],
            y=[_share_of(group, share, groups) for share in shares],
            marker={"color": colours[group], "line": {"width": 0}},
            name=escape(group),
        )
    figure.update_layout(barmode="stack", bargap=0)
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    return figure


def costs(arms: Sequence[ArmResult]) -> go.Figure:
    """Compute of each policy by purpose, mean over its seeds, stacked."""
    by_policy = _by_policy(arms)
    figure = empty_figure("compute (TFLOP)", None, height=150 + 48 * len(by_policy))
    for purpose, colour in purpose_colours(arms).items():
        figure.add_bar(
            x=[_mean_tflop(group, purpose) for group in by_policy.values()],
            y=[escape(policy) for policy in by_policy],
            orientation="h",
            marker={"color": colour, "line": {"width": 0}},
            name=escape(purpose),
        )
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return figure


def largest_groups(arms: Sequence[ArmResult]) -> tuple[str, ...]:
    """The groups most picked from over all arms, the most first."""
    shares = _shares(pick for arm in arms for pick in arm.picks)
    return tuple(sorted(shares, key=lambda group: (-shares[group], group))[:MAX_GROUPS])


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """A colour for each group, and the last for all others together."""
    return {**dict(zip(groups, GROUP_COLOURS, strict=False)), OTHER: GROUP_COLOURS[-1]}


def purpose_colours(arms: Sequence[ArmResult]) -> dict[str, str]:
    """A colour for each purpose that counts, by the order of first appearance."""
    named = (purpose for arm in arms for purpose in arm.costs)
    purposes = dict.fromkeys(purpose for purpose in named if purpose != MONITORING)
    return dict(zip(purposes, cycle(GROUP_COLOURS), strict=False))


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, :data:`RUNNING_MEAN` at most."""
    return [_mean(values[max(0, end - RUNNING_MEAN) : end]) for end in range(1, len(values) + 1)]


def _line(
    figure: go.Figure,
    values: Sequence[float],
    colour: str,
    *,
    name: str | None = None,
    first: int = 0,
    width: int = 2,
    opacity: float = 1.0,
    dash: str = "solid",
) -> None:
    figure.add_scatter(
        x=list(range(first, first + len(values))),
        y=[_drawn(value) for value in values],
        mode="lines" if len(values) > 1 else "markers",
        line={"color": colour, "width": width, "dash": dash},
        opacity=opacity,
        name=None if name is None else escape(name),
        hoverinfo="all" if name is not None else "skip",
    )


def _band(figure: go.Figure, columns: Sequence[Sequence[float]], colour: str) -> None:
    finite = [[value for value in column if math.isfinite(value)] for column in columns]
    steps = [step for step, column in enumerate(finite) if column]
    figure.add_scatter(
        x=steps + steps[::-1],
        y=[max(finite[step]) for step in steps] + [min(finite[step]) for step in steps[::-1]],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=colour,
        opacity=0.18,
        hoverinfo="skip",
    )


def _by_policy(arms: Sequence[ArmResult]) -> dict[str, list[ArmResult]]:
    groups: dict[str, list[ArmResult]] = {}
    for arm in arms:
        groups.setdefault(arm.policy, []).append(arm)
    return groups


def _columns(series: Sequence[Sequence[Item]]) -> list[list[Item]]:
    """What stands at each position, of the series that are long enough."""
    longest = max((len(values) for values in series), default=0)
    return [[values[at] for values in series if at < len(values)] for at in range(longest)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _drawn(value: float) -> float | None:
    """The value, or a gap where there is no place to draw it."""
    return value if math.isfinite(value) else None


def _mean_tflop(arms: Sequence[ArmResult], purpose: str) -> float | None:
    flops = [arm.costs[purpose].flops if purpose in arm.costs else 0.0 for arm in arms]
    return _drawn(_mean(flops) / 1e12)


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
