"""What a report says in sentences, each made from its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from raise_mdit.comparison import PolicySummary, reached_by
from raise_mdit.effects import ALIKE, Effect, spread_says_too_little, what_it_takes
from raise_mdit.metric_agreement import MetricAgreement, metric_agreement
from raise_mdit.prominence import level, rivals, winner
from raise_mdit.report_words import (
    DIFFERENCE,
    LOSS,
    TIMES,
    compared_unit,
    interval_text,
    metric_name,
    split_words,
    tflop,
)
from raise_mdit.results import ArmResult, by_policy
from raise_mdit.runs import arms_in_words
from raise_mdit.statistics import slope_interval


def headline(summaries: Sequence[PolicySummary]) -> list[str]:
    """Which policy won, and at what cost: two sentences."""
    best = winner(summaries)
    if best is None:
        return ["No policy has finished that could be compared with random."]
    level_text = f"{interval_text(best.compared, LOSS)} {compared_unit(summaries)}"
    reached = f"{level_text} on {split_words(summaries).place}"
    effects = [effect for effect in (best.effect("random"), best.effect("best_static")) if effect]
    if not effects or effects[0].reference.role != "random":
        return [
            f"{best.policy} ended lowest, at {reached}; there is no random arm with the same seeds "
            "to compare it with.",
            _cost_sentence(best, summaries, effects),
        ]
    differences = " and ".join(map(_difference, effects))
    return [
        f"{_lead(best, summaries, effects)}: {reached}, {differences}.",
        _cost_sentence(best, summaries, effects),
    ]


def cautions(summaries: Sequence[PolicySummary]) -> list[str]:
    """What a reader of the headline alone would miss, if anything."""
    best = winner(summaries)
    if best is None:
        return []
    unit = compared_unit(summaries)

    def says(summary: PolicySummary, lead: str, end: str = "") -> str:
        return f"{lead} lower still, at {interval_text(summary.compared, LOSS)} {unit}{end}."

    lower = sorted((each for each in summaries if level(each) < level(best)), key=level)
    unsettled = [each for each in lower if each in rivals(summaries)]
    sentences = [
        says(each, f"{each.policy} ended", ", but that is not settled against random")
        for each in unsettled[:1]
    ]
    for each in lower:
        if each.kind == "base":
            sentences.append(says(each, "Without any training the model stands"))
        if each.kind == "full":
            cost = f", for {tflop(each.compute)} TFLOP"
            sentences.append(says(each, f"{each.policy}, which trains on all of it, ended", cost))
    return sentences


def metric_agreement_of(
    arms: Sequence[ArmResult], summaries: Sequence[PolicySummary]
) -> MetricAgreement | None:
    """Whether loss and task metric rank models alike; None where no metric was measured."""
    metric = metric_name(summaries)
    if metric is None:
        return None
    rng = np.random.default_rng(0)
    return metric_agreement(reached_by(arms), metric=metric, rng=rng)


def limits_sentence(summaries: Sequence[PolicySummary]) -> str:
    """Which arms do not set the limit of equal tokens and compute, or nothing where all do."""
    stopped = {each.policy: each.stopped_seeds for each in summaries if each.stopped_seeds}
    if not stopped:
        return ""
    return (
        "Stopped, as the loss was not finite, and so left out of setting the limit of equal tokens "
        f"and equal compute: {arms_in_words(stopped)}."
    )


def return_trends(arms: Sequence[ArmResult]) -> list[str]:
    """For each policy that learned, whether its return rose, by the least-squares slope."""
    sentences = []
    for policy, group in by_policy(arms).items():
        series = [arm.episode_returns for arm in group if _has_trend(arm.episode_returns)]
        if series:
            sentences.append(f"{policy}: {_trend(series)}")
    return sentences


def _lead(
    best: PolicySummary, summaries: Sequence[PolicySummary], effects: Sequence[Effect]
) -> str:
    """Who won, in as strong words as verdicts allow."""
    against_random = effects[0]
    count = len(rivals(summaries)) + 1  # with random
    among = f"lowest of {count} policies on the budget"
    if against_random.verdict == "better":
        if all(effect.verdict == "better" for effect in effects):
            return f"{best.policy} won, {among}"
        return f"{best.policy} beat {against_random.reference.policy} and no more is settled"
    if against_random.difference.mean >= 0:
        return f"No policy beat {against_random.reference.policy}; {best.policy} came closest"
    if against_random.verdict == "one seed":
        return f"One seed settles nothing; {best.policy} ended {among}"
    return (
        f"Nothing is settled against {against_random.reference.policy}; {best.policy} ended {among}"
    )


def _difference(effect: Effect) -> str:
    against = effect.reference.policy
    if effect.reference.role == "best_static":
        against += ", the best static policy"
    verdict = "no verdict" if effect.verdict == "one seed" else effect.verdict
    return f"{interval_text(effect.difference, DIFFERENCE)} against {against} ({verdict})"


def _cost_sentence(
    best: PolicySummary, summaries: Sequence[PolicySummary], effects: Sequence[Effect]
) -> str:
    costs = {summary.policy: summary.compute for summary in summaries}
    ratios = [
        f"{_ratio(best.compute.flops / costs[policy].flops)} that of {policy}"
        for policy in (effect.reference.policy for effect in effects)
        if 0 < costs[policy].flops < math.inf and math.isfinite(best.compute.flops)
    ]
    cost = f"{best.policy} cost {tflop(best.compute)} TFLOP in all"
    parts = [", ".join([cost, " and ".join(ratios)]) if ratios else cost]
    return "; ".join([*parts, *_to_settle(effects)]) + "."


def _ratio(value: float) -> str:
    return f"{value:.3g}{TIMES}" if value < 1000 else f"{value:,.0f}{TIMES}"


def _to_settle(effects: Sequence[Effect]) -> list[str]:
    """What would settle what is open, in at most three clauses."""
    lacking = [effect for effect in effects if effect.seeds_first]
    reachable = [
        f"{what_it_takes(effect)} would settle it against {effect.reference.policy}"
        for effect in effects
        if effect.can_be_settled
    ]
    clauses = [
        f"{spread_says_too_little(effect)}: run {what_it_takes(effect)}" for effect in lacking[:1]
    ]
    alike = [effect.reference.policy for effect in effects if effect.is_alike]
    if alike:
        clauses.append(f"it ended {ALIKE} as {' and '.join(alike)}")
    if reachable:
        clauses.append(f"about {' and '.join(reachable)}")
    if not clauses and any(effect.is_out_of_reach for effect in effects):
        return ["no practical number of seeds or items would settle what is open"]
    return clauses


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
        f"{interval_text(slope, '{:+.2g}')} an episode, 95% interval {over}: {seen}."
    )
