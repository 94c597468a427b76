"""The tables with which a run and a comparison end in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from raise_mdit.comparison import (
    COMPARED_BY_TARGETS,
    PolicySummary,
    reference_of,
    references_among,
    target_names,
)
from raise_mdit.effects import Reference
from raise_mdit.report_sentences import limits_sentence
from raise_mdit.report_words import TFLOP, ended_at, metric_name
from raise_mdit.split_table import Column, SplitTable
from raise_mdit.statistics import Interval

REFERENCES_NOTE = (
    "± and + - reach to the ends of 95 % intervals over seeds; a minus is a difference paired by "
    "seed, below zero is better. A verdict holds over seeds and over held-out items, corrected for "
    "the number of policies (Holm). Equal tokens, compute: loss on reward-validation when every "
    "policy had spent as much as the one that spent the least."
)


def results_table(summaries: Sequence[PolicySummary]) -> SplitTable:
    """One line a policy: loss, difference to random, both with 95 % intervals, and cost.

    Where held-out data have several targets, also the loss on each, and what is compared: the mean
    over targets of loss over that of the untrained model.
    """
    targets = target_names(summaries)
    on = "test" if not summaries or summaries[0].split == "test" else "model-selection"
    measured = [Column(f"{on} loss", [_interval(each.loss) for each in summaries])]
    for target in targets:
        of_target = [_interval(each.target_losses[target]) for each in summaries]
        measured.append(Column(target, of_target))
    if targets:
        ratios = [_interval(each.loss_ratio) for each in summaries]
        measured.append(Column("loss / base's", ratios))
    metric = metric_name(summaries)
    if metric is not None:
        measured.append(Column(metric, [_share(each.metric_value) for each in summaries]))
    reference = reference_of(summaries)
    by_targets = f"loss / base's: {COMPARED_BY_TARGETS}; minus {reference} in it"
    return SplitTable(
        "policy",
        [each.policy for each in summaries],
        groups=[
            *([column] for column in measured),
            *([_against_random(summaries)] if any(map(_is_compared, summaries)) else []),
            _costs(summaries),
        ],
        caption=by_targets if targets else "",
    )


def references_table(summaries: Sequence[PolicySummary]) -> SplitTable | None:
    """One line a policy: against each reference but random, and on equal budgets.

    Returns:
        None where the first table has said it all.
    """
    groups = [
        _against(summaries, reference)
        for reference in references_among(summaries)
        if reference.role != "random"
    ]
    equal: dict[str, list[str]] = {
        "equal tokens": [
            ended_at(each, "tokens") or _interval(each.at_equal_tokens) for each in summaries
        ],
        "equal compute": [
            ended_at(each, "flops") or _interval(each.at_equal_compute) for each in summaries
        ],
    }
    budgets = [Column(name, cells) for name, cells in equal.items() if any(cells)]
    if budgets and len(summaries) > 1:
        groups.append(budgets)
    if not groups:
        return None
    names = [each.policy for each in summaries]
    return SplitTable("policy", names, groups=groups, caption=limits_sentence(summaries))


def _costs(summaries: Sequence[PolicySummary]) -> list[Column]:
    return [
        Column("steps", [f"{each.steps:,.0f}" for each in summaries]),
        Column("tokens", [f"{each.tokens:,.0f}" for each in summaries]),
        Column("TFLOP", [f"{each.compute.flops / TFLOP:,.1f}" for each in summaries]),
        Column("min", [f"{each.compute.seconds / 60:,.1f}" for each in summaries]),
    ]


def _is_compared(summary: PolicySummary) -> bool:
    return summary.verdict != "not compared"


def _against_random(summaries: Sequence[PolicySummary]) -> list[Column]:
    return [
        Column(
            f"minus {reference_of(summaries)}",
            [
                "" if each.verdict == "reference" else _interval(each.difference_to_random)
                for each in summaries
            ],
        ),
        Column("verdict", [each.verdict for each in summaries], "left"),
    ]


def _against(summaries: Sequence[PolicySummary], reference: Reference) -> list[Column]:
    effects = [summary.effect_against(reference) for summary in summaries]
    differences = [
        _interval(effect.difference)
        if effect is not None
        else ("reference" if summary.policy == reference.policy else "")
        for summary, effect in zip(summaries, effects, strict=True)
    ]
    verdicts = ["" if effect is None else effect.verdict for effect in effects]
    return [Column(f"minus {reference.policy}", differences), Column("verdict", verdicts, "left")]


def _interval(interval: Interval | None) -> str:
    """The mean and how far the interval reaches: one number where both ways are alike."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:z.3f}"
    up, down = f"{interval.high - interval.mean:.3f}", f"{interval.mean - interval.low:.3f}"
    return f"{interval.mean:z.3f} " + (f"±{up}" if up == down else f"+{up} -{down}")


def _share(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:.1%}"
