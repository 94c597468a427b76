"""Whether the loss that rewards are made of and the task metric rank the same models alike.

Policies learn from falls of loss. If the models with less loss do not answer better, what policies
were rewarded for is not what is asked of them, and a comparison by loss misleads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from raise_mdit.agreement import rank_correlation
from raise_mdit.statistics import Interval

FEWEST_MODELS = 3
"""Fewer models have no rank correlation that could be believed."""

Verdict = Literal["agree", "unclear", "disagree", "unknown"]


class Reached(NamedTuple):
    """What one policy with one seed reached on the sealed test."""

    policy: str
    loss: float
    """Mean loss per scored token, in nats: less is better."""
    metric: float
    """Mean task metric, from 0 to 1: more is better."""


class MetricAgreement(NamedTuple):
    """How alike loss and task metric rank the models of an experiment."""

    correlation: Interval | None
    """Spearman's rank correlation of the metric with minus the loss, with its bootstrap interval
    over models; positive where less loss goes with better answers. None where models are too few,
    or all have the same loss or the same metric."""
    verdict: Verdict
    """`agree` where the whole interval is positive, `disagree` where the correlation is negative,
    `unclear` between, `unknown` without one."""
    sentence: str
    """The same in words."""

    @property
    def warns(self) -> bool:
        """Whether a person has to be told before the comparison by loss is believed."""
        return self.verdict == "disagree"


def metric_agreement(
    reached: Iterable[Reached], *, metric: str, rng: np.random.Generator
) -> MetricAgreement:
    """How alike loss and task metric rank models.

    A model that several seeds give alike, as the untrained one is, counts once; one whose loss or
    metric is not finite does not count.

    Args:
        reached: Each policy with each seed.
        metric: Name of the task metric, for the sentence.
        rng: Of the resamples.
    """
    finite = (each for each in reached if math.isfinite(each.loss) and math.isfinite(each.metric))
    models = sorted(set(finite))  # sorted, so that resamples do not depend on the order given
    if len(models) < FEWEST_MODELS:
        return _unknown(f"{metric} is known of {len(models)} different models, and it takes three")
    losses = np.array([each.loss for each in models])
    metrics = np.array([each.metric for each in models])
    for name, values in (("loss", losses), (metric, metrics)):
        if np.ptp(values) == 0:
            return _unknown(f"{name} is {values[0]:.3g} for all {len(models)} models")
    correlation = rank_correlation(-losses, metrics, rng)
    verdict = _verdict(correlation)
    return MetricAgreement(correlation, verdict, _sentence(correlation, verdict, metric))


def _unknown(reason: str) -> MetricAgreement:
    sentence = f"Loss and task metric: whether they rank models alike is not known, as {reason}."
    return MetricAgreement(None, "unknown", sentence)


def _verdict(correlation: Interval) -> Verdict:
    if correlation.is_above_zero:
        return "agree"
    return "disagree" if correlation.mean < 0 else "unclear"


def _sentence(correlation: Interval, verdict: Verdict, metric: str) -> str:
    found = (
        f"rank correlation {correlation.mean:.2f}, 95 % interval {correlation.low:.2f} to "
        f"{correlation.high:.2f}, over {correlation.num_samples} models"
    )
    match verdict:
        case "agree":
            return f"Loss and task metric: models with less loss have more {metric} ({found})."
        case "disagree":
            if not correlation.is_below_zero:
                return (
                    f"Loss and task metric may disagree: models with less loss tend to have less "
                    f"{metric} ({found}), which so few models do not settle; look at both."
                )
            return (
                f"Loss and task metric disagree: models with less loss have less {metric} "
                f"({found}). Rewards are falls of loss, so a comparison by loss does not tell "
                "which policy is better at the task; go by the metric."
            )
    return (
        f"Loss and task metric: it is not shown that models with less loss have more {metric} "
        f"({found})."
    )
