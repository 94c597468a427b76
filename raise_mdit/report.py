"""One HTML file that answers an experiment's question and shows what the answer stands on.

The file needs no network and forbids itself any: Plotly is inside, and a content security policy
stops everything that is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raise_mdit import report_figures
from raise_mdit.comparison import (
    COMPARED_BY_TARGETS,
    ArmResult,
    PolicySummary,
    reference_of,
    target_names,
)
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost
from raise_mdit.experiment_file import resolved_yaml
from raise_mdit.plots import embedded
from raise_mdit.runs import write_text
from raise_mdit.statistics import Interval, slope_interval

MINUS = "\N{MINUS SIGN}"
UNKNOWN = "\N{EN DASH}"
LOSS = "{:.4f}"
DIFFERENCE = "{:+.4f}"
UNBUDGETED = ("base", "full")
"""Kinds that do not spend the budget; they stand in the table but do not win a comparison."""


class _Estimate(NamedTuple):
    """A mean and its interval, as texts."""

    mean: str
    range: str = ""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One policy in the table, as texts."""

    policy: str
    colour: str
    loss: _Estimate
    targets: dict[str, _Estimate]
    """Loss by target."""
    ratio: _Estimate
    metric: _Estimate
    steps: str
    tokens: str
    compute: str
    difference: _Estimate
    verdict: str


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """A plot with its caption."""

    title: str
    figure: Markup | None


def write_report(
    path: Path,
    *,
    config: ExperimentConfig,
    arms: Sequence[ArmResult],
    summaries: Sequence[PolicySummary],
    status: str,
    versions: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    """Write the report.

    Args:
        path: The HTML file; one that is there is replaced.
        config: The experiment as it was run.
        arms: What finished.
        summaries: The same by policy.
        status: How the run stands, such as `complete`.
        versions: Version of each package that had a part in the numbers.
        notes: Sentences a reader should know, such as what was removed from the splits.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        files("raise_mdit").joinpath("report.html").read_text(encoding="utf-8")
    )
    page = template.render(
        name=config.name,
        status=status,
        sentences=headline(summaries),
        rows=_rows(arms, summaries),
        reference=reference_of(summaries),
        targets=target_names(summaries),
        compared_by_targets=COMPARED_BY_TARGETS,
        metric=_metric_name(summaries),
        seeds=len({arm.seed for arm in arms}),
        configuration=resolved_yaml(config),
        versions=versions,
        notes=notes,
        plotly=Markup(get_plotlyjs()),  # a constant of the package
        **_plots(arms, summaries),
    )
    write_text(path, page)


def _plots(arms: Sequence[ArmResult], summaries: Sequence[PolicySummary]) -> dict[str, object]:
    """What the template shows of plots, with their legends and words."""
    groups = report_figures.largest_groups(arms)
    colours = report_figures.policy_colours(arms)
    learned = {arm.policy: colours[arm.policy] for arm in arms if arm.episode_returns}
    return {
        "trends": return_trends(arms),
        "learned": learned,
        "returns": _html(report_figures.episode_returns(arms), "returns"),
        "running_mean": report_figures.RUNNING_MEAN,
        "policies": colours,
        "validation": _html(report_figures.validation_losses(arms), "validation"),
        "sealed": _html(report_figures.sealed_losses(arms, summaries), "sealed"),
        "groups": _legend(arms, groups),
        "picks": _picks(arms, groups),
        "purposes": _purposes(arms),
        "costs": _html(report_figures.costs(arms), "costs"),
    }


def headline(summaries: Sequence[PolicySummary]) -> list[str]:
    """Which policy won and at what cost, in two sentences or a few."""
    reference = next((summary for summary in summaries if summary.verdict == "reference"), None)
    rivals = [s for s in summaries if s is not reference and math.isfinite(_level(s))]
    budgeted = [summary for summary in rivals if summary.kind not in UNBUDGETED]
    best = min(budgeted or rivals, key=_level, default=None)
    if best is None:
        return ["No policy has finished that could be compared with random."]
    ended = f"{_interval_text(best.compared, LOSS)} {_unit(summaries)}"
    if reference is None or best.difference_to_random is None:
        return [
            f"{best.policy} ended lowest, at {ended} on the sealed test.",
            "There is no random arm with the same seeds to compare it with.",
        ]
    return [
        f"{best.policy} ended at {ended} on the sealed test against "
        f"{_interval_text(reference.compared, LOSS)} for {reference.policy}; difference "
        f"{_interval_text(best.difference_to_random, DIFFERENCE)}: {_verdict_text(best.verdict)}.",
        _cost_sentence(best, reference),
        *_untrained_sentence(best, summaries),
    ]


def return_trends(arms: Sequence[ArmResult]) -> list[str]:
    """For each policy that learned, whether its return rose, by the least-squares slope."""
    by_policy: dict[str, list[ArmResult]] = {}
    for arm in arms:
        by_policy.setdefault(arm.policy, []).append(arm)
    sentences = []
    for policy, group in by_policy.items():
        series = [arm.episode_returns for arm in group if _has_trend(arm.episode_returns)]
        if series:
            sentences.append(f"{policy}: {_trend(series)}")
    return sentences


def _level(summary: PolicySummary) -> float:
    """What policies are ranked by; not finite where they cannot be."""
    return math.nan if summary.compared is None else summary.compared.mean


def _unit(summaries: Sequence[PolicySummary]) -> str:
    targets = target_names(summaries)
    return f"of the base model's loss (mean over {len(targets)} targets)" if targets else "nats"


def _metric_name(summaries: Sequence[PolicySummary]) -> str | None:
    """Of what was measured besides loss, in words."""
    named = (each.metric for each in summaries if each.metric is not None)
    return next((name.replace("_", " ").capitalize() for name in named), None)


def _interval_text(interval: Interval | None, form: str) -> str:
    return " ".join(_estimate(interval, form)).rstrip()


def _estimate(interval: Interval | None, form: str) -> _Estimate:
    if interval is None:
        return _Estimate(UNKNOWN)
    mean = _number(interval.mean, form)
    if interval.low is None or interval.high is None:
        return _Estimate(mean)
    return _Estimate(mean, f"[{_number(interval.low, form)}, {_number(interval.high, form)}]")


def _number(value: float, form: str) -> str:
    return form.format(value).replace("-", MINUS) if math.isfinite(value) else "not finite"


def _verdict_text(verdict: str) -> str:
    return "one seed, so no verdict" if verdict == "one seed" else verdict


def _cost_sentence(best: PolicySummary, reference: PolicySummary) -> str:
    compute = f"It cost {_tflop(best.compute)} TFLOP in all"
    if not 0 < reference.compute.flops < math.inf or not math.isfinite(best.compute.flops):
        return f"{compute}."
    ratio = best.compute.flops / reference.compute.flops
    return f"{compute}, {ratio:.3g}\N{MULTIPLICATION SIGN} the FLOPs of {reference.policy}."


def _untrained_sentence(best: PolicySummary, summaries: Sequence[PolicySummary]) -> list[str]:
    lower = [s.compared for s in summaries if s.kind == "base" and _level(s) < _level(best)]
    return [
        f"Without any training the model stands lower still, at {_interval_text(loss, LOSS)} "
        f"{_unit(summaries)}."
        for loss in lower
    ]


def _has_trend(returns: Sequence[float]) -> bool:
    return len(returns) > 2 and all(map(math.isfinite, returns))


def _quarter(returns: Sequence[float]) -> int:
    return max(1, len(returns) // 4)


def _trend(series: Sequence[Sequence[float]]) -> str:
    quarters = [(fmean(each[: _quarter(each)]), fmean(each[-_quarter(each) :])) for each in series]
    first, last = (fmean(part) for part in zip(*quarters, strict=True))
    higher = sum(end > start for start, end in quarters)
    slope = slope_interval(series)
    seen = "rises" if slope.is_above_zero else "inconclusive"
    seen = "falls" if slope.is_below_zero else seen
    over = f"over {len(series)} seeds" if len(series) > 1 else "within its one seed"
    return (
        f"mean return {first:.3f} in the first quarter of the episodes and {last:.3f} in the last, "
        f"higher in {higher} of {len(series)} runs. Fitted slope "
        f"{_interval_text(slope, '{:+.2g}')} an episode, 95% interval {over}: {seen}."
    )


def _rows(arms: Sequence[ArmResult], summaries: Sequence[PolicySummary]) -> list[_Row]:
    colours = report_figures.policy_colours(arms)
    return [_row(summary, colours[summary.policy]) for summary in summaries]


def _row(summary: PolicySummary, colour: str) -> _Row:
    difference = None if summary.verdict == "reference" else summary.difference_to_random
    return _Row(
        policy=summary.policy,
        colour=colour,
        loss=_estimate(summary.test_loss, LOSS),
        targets={name: _estimate(loss, LOSS) for name, loss in summary.target_losses.items()},
        ratio=_estimate(summary.loss_ratio, LOSS),
        metric=_estimate(summary.test_metric, "{:.1%}"),
        steps=f"{summary.steps:,.4g}" if summary.steps < 1e4 else f"{summary.steps:,.0f}",
        tokens=f"{summary.tokens:,.0f}",
        compute=_tflop(summary.compute),
        difference=_estimate(difference, DIFFERENCE),
        verdict=summary.verdict,
    )


def _tflop(cost: Cost) -> str:
    amount = cost.flops / 1e12
    return f"{amount:,.0f}" if amount >= 1000 else f"{amount:.3g}"


def _picks(arms: Sequence[ArmResult], groups: Sequence[str]) -> list[_Panel]:
    policies = dict.fromkeys(arm.policy for arm in arms if arm.picks)
    panels = []
    for index, policy in enumerate(policies):
        figure = report_figures.picks([arm for arm in arms if arm.policy == policy], groups)
        panels.append(_Panel(title=policy, figure=_html(figure, f"picks-{index}")))
    return panels


def _legend(arms: Sequence[ArmResult], groups: Sequence[str]) -> dict[str, str]:
    colours = report_figures.group_colours(groups)
    if all(group in groups for arm in arms for pick in arm.picks for group in pick):
        del colours[report_figures.OTHER]
    return colours


def _purposes(arms: Sequence[ArmResult]) -> dict[str, str]:
    colours = report_figures.purpose_colours(arms)
    return {purpose.replace("_", " "): colour for purpose, colour in colours.items()}


def _html(figure: go.Figure, name: str) -> Markup | None:
    """The figure for the page, or nothing where it has nothing to show."""
    if not figure.data:
        return None
    return embedded(figure, name)
