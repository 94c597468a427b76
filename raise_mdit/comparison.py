"""What one fine-tuning under a policy gave, and how policies compare over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from statistics import fmean
from typing import Any, Literal

from raise_mdit.config import TaskMetric
from raise_mdit.core import Cost
from raise_mdit.errors import RunError
from raise_mdit.ledger import CHOOSING, MONITORING
from raise_mdit.statistics import Interval, student_interval

RESULTS_FORMAT = 2
"""Raised when an older program could not read results any more."""

COMPARED_BY_TARGETS = "mean over targets of the loss as a share of the base model's on that target"
"""What policies are compared by where the test has several targets."""

Verdict = Literal["better", "worse", "inconclusive", "reference", "one seed"]


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One policy with one seed: what it did, what it reached and what that cost."""

    policy: str
    """Label of the policy."""
    kind: str
    """Kind of the policy."""
    seed: int
    status: Literal["complete", "non_finite_loss"]
    """How the final fine-tuning ended."""
    test_loss: float
    """Mean loss per response token on the sealed test, in nats."""
    metric: TaskMetric | None
    """What is measured of the test besides loss."""
    test_metric: float | None
    """Share of test items that are right by it, where the experiment asks for it."""
    target_losses: dict[str, float]
    """Mean loss per response token on the test items of each source, in nats."""
    reward_validation_losses: tuple[float, ...]
    """Loss on reward-validation before the first and after each step of the final fine-tuning."""
    episode_returns: tuple[float, ...]
    """Return of each learning episode in order; empty for a policy that does not learn."""
    steps: int
    """Optimizer steps of the final fine-tuning."""
    tokens: int
    """Tokens of the final fine-tuning, without padding."""
    picks: tuple[dict[str, int], ...]
    """Picks by group (task, source or kind) at each step of the final fine-tuning."""
    costs: dict[str, Cost]
    """What the arm cost by purpose, as if it had run alone."""


@dataclass(frozen=True, kw_only=True)
class PolicySummary:
    """One policy over its seeds, beside random."""

    policy: str
    """Label of the policy."""
    kind: str
    """Kind of the policy."""
    num_seeds: int
    test_loss: Interval
    """Loss on the sealed test, in nats."""
    metric: TaskMetric | None
    """What is measured of the test besides loss."""
    test_metric: Interval | None
    """Share of test items that are right by it, where every seed has it."""
    target_losses: dict[str, Interval]
    """Loss on each target of the test, in nats."""
    loss_ratio: Interval | None
    """Mean over targets of loss over that of the `base` arm, which stands for several targets; None
    where there is one target or no such arm."""
    difference_to_random: Interval | None
    """What the policy is compared by, minus that of random with the same seed; None without such
    pairs."""
    steps: float
    """Mean optimizer steps of the final fine-tuning."""
    tokens: float
    """Mean tokens of the final fine-tuning, without padding."""
    compute: Cost
    """Mean over seeds of what the arm cost, see :func:`total`."""
    verdict: Verdict
    """`better` or `worse` than random where the interval of the difference leaves out zero."""

    @property
    def compared(self) -> Interval | None:
        """What policies are compared by: the ratio where there are several targets."""
        return self.loss_ratio if len(self.target_losses) > 1 else self.test_loss


def total(costs: Mapping[str, Cost]) -> Cost:
    """The cost of everything that was needed: all purposes but monitoring."""
    needed = (cost for purpose, cost in costs.items() if purpose != MONITORING)
    return reduce(Cost.plus, needed, Cost())


def cost_of_choosing(arms: Sequence[ArmResult], full_training: Cost) -> tuple[str, ...]:
    """A sentence for each policy that learns: its cost as a share of one full-data training.

    Args:
        arms: Finished arms.
        full_training: Three epochs of the same pool, LoRA through the whole model.
    """
    shares: dict[str, list[float]] = {}
    for arm in arms:
        if arm.costs.get("policy_training", Cost()).flops:
            spent = sum(arm.costs[purpose].flops for purpose in CHOOSING if purpose in arm.costs)
            shares.setdefault(arm.policy, []).append(spent / full_training.flops)
    return tuple(
        f"Learning what to pick cost {policy} {_mean(values):.2f} of one full-data training in "
        f"FLOPs (features, proxy check, frozen layers, policy training and rewards; 3 epochs of "
        f"the same pool with LoRA through the whole model are {full_training.flops / 1e12:,.1f} "
        "TFLOP)."
        for policy, values in shares.items()
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def summarise(arms: Sequence[ArmResult]) -> tuple[PolicySummary, ...]:
    """Each policy over its seeds, in the order in which policies first appear.

    The reference is the first policy of kind ``random``. Policies are compared as
    :func:`compared_losses` says.
    """
    by_policy: dict[str, list[ArmResult]] = {}
    for arm in arms:
        by_policy.setdefault(arm.policy, []).append(arm)
    reference = next((arm.policy for arm in arms if arm.kind == "random"), None)
    compared = compared_losses(arms)
    losses = {seed: loss for (policy, seed), loss in compared.items() if policy == reference}
    return tuple(
        _summary(group, compared, losses, is_reference=policy == reference)
        for policy, group in by_policy.items()
    )


def compared_losses(arms: Sequence[ArmResult]) -> dict[tuple[str, int], float]:
    """What arms are compared by, by policy and seed.

    It is the loss on the test. Where the test has several targets, a loss over all tokens would be
    that of the target with the longest responses: then it is the mean over targets of loss over
    that of the arm ``base``, and nothing where there is none.
    """
    if not target_names(arms):
        return {(arm.policy, arm.seed): arm.test_loss for arm in arms}
    base = next((arm.target_losses for arm in arms if arm.kind == "base"), None)
    if base is None:
        return {}
    return {
        (arm.policy, arm.seed): fmean(
            loss / base[target] for target, loss in arm.target_losses.items()
        )
        for arm in arms
    }


def target_names(results: Sequence[ArmResult] | Sequence[PolicySummary]) -> tuple[str, ...]:
    """Targets of the test where it has several, and none where it has one."""
    names = dict.fromkeys(name for result in results for name in result.target_losses)
    return tuple(names) if len(names) > 1 else ()


def reference_of(summaries: Sequence[PolicySummary]) -> str:
    """Name of the policy that others are compared with; `random` where none has finished."""
    found = (each.policy for each in summaries if each.verdict == "reference")
    return next(found, "random")


def to_json(arms: Sequence[ArmResult], summaries: Sequence[PolicySummary]) -> str:
    """Arms and summaries as strict JSON: a number that is not finite becomes its name as a text."""
    document = {
        "format": RESULTS_FORMAT,
        "arms": [_encode(asdict(arm)) for arm in arms],
        "summaries": [_encode(asdict(summary)) for summary in summaries],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def arms_from_json(text: str) -> tuple[ArmResult, ...]:
    """The arms that :func:`to_json` wrote, equal to the last bit.

    Raises:
        RunError: The text is no result of this format.
    """
    try:
        document = json.loads(text)
        found = document["format"]
    except (ValueError, TypeError, KeyError) as fault:
        raise RunError("the results are not a JSON object with a `format`") from fault
    if found != RESULTS_FORMAT:
        raise RunError(f"the results have format {found!r}; this version reads {RESULTS_FORMAT}")
    try:
        return tuple(_arm(fields) for fields in document["arms"])
    except (ValueError, TypeError, KeyError, AttributeError) as fault:
        raise RunError(f"the results hold an arm that cannot be read: {fault!r}") from fault


def _summary(
    arms: Sequence[ArmResult],
    compared: Mapping[tuple[str, int], float],
    random_losses: Mapping[int, float],
    *,
    is_reference: bool,
) -> PolicySummary:
    right = [arm.test_metric for arm in arms if arm.test_metric is not None]
    losses = {arm.seed: compared[arm.policy, arm.seed] for arm in arms} if compared else {}
    pairs = [loss - random_losses[seed] for seed, loss in losses.items() if seed in random_losses]
    difference = student_interval(pairs) if pairs else None
    return PolicySummary(
        policy=arms[0].policy,
        kind=arms[0].kind,
        num_seeds=len(arms),
        test_loss=student_interval([arm.test_loss for arm in arms]),
        metric=arms[0].metric,
        test_metric=_share_interval(right) if len(right) == len(arms) else None,
        target_losses={
            target: student_interval([arm.target_losses[target] for arm in arms])
            for target in arms[0].target_losses
        },
        loss_ratio=student_interval([*losses.values()]) if losses and target_names(arms) else None,
        difference_to_random=difference,
        steps=fmean(arm.steps for arm in arms),
        tokens=fmean(arm.tokens for arm in arms),
        compute=_mean_cost([total(arm.costs) for arm in arms]),
        verdict="reference" if is_reference else _verdict(difference),
    )


def _share_interval(shares: Sequence[float]) -> Interval:
    """Student's interval, cut to what a share can be."""
    wide = student_interval(shares)
    if wide.low is None or wide.high is None:
        return wide
    return replace(wide, low=max(0.0, wide.low), high=min(1.0, wide.high))


def _verdict(difference: Interval | None) -> Verdict:
    if difference is None:
        return "inconclusive"
    if difference.num_samples == 1:
        return "one seed"
    if difference.is_below_zero:
        return "better"
    return "worse" if difference.is_above_zero else "inconclusive"


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    return Cost(
        tokens=round(fmean(cost.tokens for cost in costs)),
        padded_tokens=round(fmean(cost.padded_tokens for cost in costs)),
        flops=fmean(cost.flops for cost in costs),
        seconds=fmean(cost.seconds for cost in costs),
    )


def _encode(value: object) -> object:
    """The value as JSON can say it."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Cost():
            return {name: _encode(part) for name, part in value._asdict().items()}
        case dict():
            return {name: _encode(part) for name, part in value.items()}
        case list() | tuple():
            return [_encode(part) for part in value]
    return value


def _arm(fields: Mapping[str, Any]) -> ArmResult:
    metric = fields["test_metric"]
    decoded = {
        "test_loss": float(fields["test_loss"]),
        "test_metric": None if metric is None else float(metric),
        "target_losses": {name: float(loss) for name, loss in fields["target_losses"].items()},
        "reward_validation_losses": tuple(map(float, fields["reward_validation_losses"])),
        "episode_returns": tuple(map(float, fields["episode_returns"])),
        "picks": tuple(fields["picks"]),
        "costs": {purpose: _cost(**cost) for purpose, cost in fields["costs"].items()},
    }
    return ArmResult(**{**fields, **decoded})


def _cost(*, tokens: int, padded_tokens: int, flops: float | str, seconds: float | str) -> Cost:
    return Cost(tokens, padded_tokens, float(flops), float(seconds))
