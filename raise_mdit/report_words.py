"""Numbers and names as a report says them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from raise_mdit.comparison import PolicySummary, target_names
from raise_mdit.core import Cost
from raise_mdit.equal_budgets import Spent
from raise_mdit.results import HeldOutSplit
from raise_mdit.statistics import Interval

MINUS = "\N{MINUS SIGN}"
UNKNOWN = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
LOSS = "{:z.4f}"
DIFFERENCE = "{:+z.4f}"
SHARE = "{:.1%}"
TFLOP = 1e12
SMALLEST_P = 0.001
"""Smaller p-values are told as below it."""


class SplitWords(NamedTuple):
    """What held-out data are called."""

    place: str
    """Behind "on" or "of"."""
    heading: str
    """Of a column of losses."""


SPLITS: dict[HeldOutSplit, SplitWords] = {
    "test": SplitWords("the sealed test", "Test loss"),
    "model_selection": SplitWords("model-selection data", "Model-selection loss"),
}


class Estimate(NamedTuple):
    """A mean and its interval, as texts."""

    mean: str
    range: str = ""


def split_words(summaries: Sequence[PolicySummary]) -> SplitWords:
    """What the losses of a comparison are of."""
    return SPLITS[summaries[0].split if summaries else "test"]


def estimate(interval: Interval | None, form: str) -> Estimate:
    """A mean and its interval, by a format such as :data:`LOSS`."""
    if interval is None:
        return Estimate(UNKNOWN)
    mean = number(interval.mean, form)
    if interval.low is None or interval.high is None:
        return Estimate(mean)
    return Estimate(mean, f"[{number(interval.low, form)}, {number(interval.high, form)}]")


def interval_text(interval: Interval | None, form: str) -> str:
    """The same on one line."""
    return " ".join(estimate(interval, form)).rstrip()


def number(value: float, form: str) -> str:
    """A number with a true minus sign."""
    return form.format(value).replace("-", MINUS) if math.isfinite(value) else "not finite"


def p_text(p_value: float) -> str:
    """A p-value."""
    text = f"p < {SMALLEST_P}" if p_value < SMALLEST_P else f"p = {p_value:.2g}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def ended_at(summary: PolicySummary, spent: Spent) -> str:
    """Where a policy stopped short of an equal budget (`ended at 640 tokens`), or nothing."""
    if spent == "tokens" and summary.ended_at_tokens is not None:
        return f"ended at {summary.ended_at_tokens:,.0f} tokens"
    if spent == "flops" and summary.ended_at_flops is not None:
        return f"ended at {tflop(Cost(flops=summary.ended_at_flops))} TFLOP"
    return ""


def tflop(cost: Cost) -> str:
    """FLOPs in units of 10^12."""
    amount = cost.flops / TFLOP
    return f"{amount:,.0f}" if amount >= 1000 else f"{amount:.3g}"


def compared_unit(summaries: Sequence[PolicySummary]) -> str:
    """What follows the number that policies are compared by."""
    targets = target_names(summaries)
    return f"of the base model's loss (mean over {len(targets)} targets)" if targets else "nats"


def compared_axis(summaries: Sequence[PolicySummary]) -> str:
    """Title of an axis of what policies are compared by."""
    if target_names(summaries):
        return "loss as a share of the base model's"
    return f"loss on {split_words(summaries).place} (nats)"


def metric_name(summaries: Sequence[PolicySummary]) -> str | None:
    """Name of what was measured besides loss, as it stands within a sentence, or None.

    Of a function of the user's, it is the function's own: `words:exact_score` is `exact score`.
    """
    names = (each.metric for each in summaries if each.metric_value is not None)
    metric = next((name for name in names if name is not None), None)
    return None if metric is None else metric.rpartition(":")[2].replace("_", " ")


def metric_words(summaries: Sequence[PolicySummary]) -> str | None:
    """The same with a capital, as a heading."""
    name = metric_name(summaries)
    return None if name is None else name[:1].upper() + name[1:]
