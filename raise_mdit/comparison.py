"""How policies compare over their seeds, beside random, base, full data and the best static one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import get_args

from raise_mdit.bootstrap import bootstrap_interval
from raise_mdit.core import Cost
from raise_mdit.effects import Effect, Reference, Role, Verdict, effects_of
from raise_mdit.equal_budgets import EqualBudget, equal_budget
from raise_mdit.errors import RunError, nearest
from raise_mdit.item_differences import values_by_item
from raise_mdit.ledger import CHOOSING
from raise_mdit.metric_agreement import Reached
from raise_mdit.policy_config import STATIC_KINDS
from raise_mdit.results import (
    ArmResult,
    HeldOut,
    HeldOutSplit,
    by_policy,
    compared_split,
)
from raise_mdit.statistics import Interval

COMPARED_BY_TARGETS = "mean over targets of the loss as a share of the base model's on that target"
"""What policies are compared by where held-out data have several targets."""


@dataclass(frozen=True, kw_only=True)
class PolicySummary:
    """One policy over its seeds."""

    policy: str
    """Label of the policy."""
    kind: str
    """Kind of the policy."""
    num_seeds: int
    split: HeldOutSplit
    """The data that losses and metric are of."""
    loss: Interval
    """Loss on held-out data, in nats."""
    metric: str | None
    """What is measured of it besides loss."""
    metric_value: Interval | None
    """Mean over items of the task metric, where every seed has it."""
    target_losses: dict[str, Interval]
    """Loss on each target, in nats."""
    loss_ratio: Interval | None
    """Mean over targets of loss over that of the `base` arm, which stands for several targets; None
    where there is one target or no such arm."""
    effects: tuple[Effect, ...]
    """Against each reference that the run has with the same seeds, the policy itself left out."""
    at_equal_tokens: Interval | None
    """Loss on reward-validation when every policy had trained on as many tokens; None where that is
    not known or a seed ended before."""
    at_equal_compute: Interval | None
    """The same when every policy had spent as many FLOPs in all."""
    ended_at_tokens: float | None
    """The fewest tokens at which a seed stopped short of these, its loss not finite; None where
    none did."""
    ended_at_flops: float | None
    """The same of FLOPs in all."""
    stopped_seeds: tuple[int, ...]
    """Seeds whose final fine-tuning stopped because the loss was not finite."""
    steps: float
    """Mean optimizer steps of the final fine-tuning."""
    tokens: float
    """Mean tokens of the final fine-tuning, without padding."""
    compute: Cost
    """Mean over seeds of :meth:`raise_mdit.results.ArmResult.cost_compared_on` the split."""
    verdict: Verdict
    """Against random; `reference` is random itself, `not compared` who has no seed in common."""

    @property
    def compared(self) -> Interval | None:
        """What policies are compared by: the ratio where there are several targets."""
        return self.loss_ratio if len(self.target_losses) > 1 else self.loss

    def effect(self, role: Role) -> Effect | None:
        """The effect against the first reference of that role, where there is one."""
        return next((effect for effect in self.effects if effect.reference.role == role), None)

    def effect_against(self, reference: Reference) -> Effect | None:
        """The effect against one reference, where there is one."""
        return next((effect for effect in self.effects if effect.reference == reference), None)

    @property
    def difference_to_random(self) -> Interval | None:
        """What the policy is compared by, minus that of random with the same seed."""
        effect = self.effect("random")
        return None if effect is None else effect.difference


def summarise(arms: Sequence[ArmResult], against: Sequence[str] = ()) -> tuple[PolicySummary, ...]:
    """Each policy over its seeds, in the order in which policies first appear.

    All are measured on the test if every arm has opened it, else on model-selection data; without
    either there is nothing to compare.

    Args:
        arms: Finished arms.
        against: Labels of policies that each is compared with besides :func:`references`.

    Raises:
        RunError: A label is no policy's.
    """
    split = compared_split(arms)
    of_policy = {
        policy: group
        for policy, group in by_policy(arms).items()
        if all(arm.held_out(split) is not None for arm in group)
    }
    compared = compared_losses(arms)
    roles = references(arms)
    compared_with = [
        *itertools.starmap(Reference, roles.items()),
        *_named(against, of_policy, roles),
    ]
    effects = effects_of(compared, values_by_item(arms, split), compared_with)
    tokens, flops = (equal_budget(arms, spent) for spent in ("tokens", "flops"))
    return tuple(
        _summary(
            group,
            split,
            compared,
            effects.get(policy, ()),
            is_reference=policy == roles.get("random"),
            tokens=tokens,
            flops=flops,
        )
        for policy, group in of_policy.items()
    )


def compared_losses(arms: Sequence[ArmResult]) -> dict[tuple[str, int], float]:
    """What arms are compared by, by policy and seed.

    It is the loss on the held-out data. Where these have several targets, a loss over all tokens
    would be that of the target with the longest responses: then it is the mean over targets of loss
    over that of the arm ``base``, and nothing where there is none.
    """
    return _losses_on(arms, compared_split(arms))


def references(arms: Sequence[ArmResult]) -> dict[Role, str]:
    """Labels of the policies that others are compared with.

    The first of kind ``random``, ``base`` and ``full``, and the best of those that rank the pool
    once. The best is chosen on model-selection data, or where there are none on reward-validation:
    chosen on the test, it would be flattered by its own luck.
    """
    found: dict[Role, str] = {}
    for role in ("random", "base", "full"):
        label = next((arm.policy for arm in arms if arm.kind == role), None)
        if label is not None:
            found[role] = label
    static = [arm for arm in arms if arm.kind in STATIC_KINDS]
    if static:
        found["best_static"] = best_on_validation(static, arms)
    return found


def best_on_validation(arms: Sequence[ArmResult], run: Sequence[ArmResult]) -> str:
    """The policy of the smallest mean loss on data that a choice may be made on.

    These are model-selection data or, where an arm has no loss on them, reward-validation. A policy
    whose loss is not finite comes last.

    Args:
        arms: Those of the policies to choose from.
        run: All of the run, for that of ``base``: several model-selection targets are compared by
            their loss over its.
    """
    on_selection = _losses_on(run, "model_selection")
    complete = all((arm.policy, arm.seed) in on_selection for arm in arms)
    losses: dict[str, list[float]] = {}
    for arm in arms:
        measured = on_selection[arm.policy, arm.seed] if complete else _last_loss(arm)
        losses.setdefault(arm.policy, []).append(measured)
    means = {policy: fmean(values) for policy, values in losses.items()}
    return min(
        means, key=lambda policy: means[policy] if math.isfinite(means[policy]) else math.inf
    )


def references_among(summaries: Sequence[PolicySummary]) -> tuple[Reference, ...]:
    """All that some policy of these is compared with, role by role."""
    found = dict.fromkeys(effect.reference for each in summaries for effect in each.effects)
    order = get_args(Role)
    return tuple(sorted(found, key=lambda reference: order.index(reference.role)))


def reached_by(arms: Sequence[ArmResult]) -> tuple[Reached, ...]:
    """Loss and task metric of each arm that has both on what arms are compared on."""
    split = compared_split(arms)
    return tuple(
        Reached(arm.policy, held_out.loss, held_out.metric)
        for arm in arms
        if (held_out := arm.held_out(split)) is not None and held_out.metric is not None
    )


def target_names(results: Sequence[ArmResult] | Sequence[PolicySummary]) -> tuple[str, ...]:
    """Targets of the held-out data where these have several, and none where they have one."""
    names: dict[str, None] = {}
    for result in results:
        if isinstance(result, PolicySummary):
            names |= dict.fromkeys(result.target_losses)
        else:
            held_out = result.test or result.model_selection
            names |= dict.fromkeys(held_out.target_losses if held_out else ())
    return tuple(names) if len(names) > 1 else ()


def reference_of(summaries: Sequence[PolicySummary]) -> str:
    """Name of the policy that has no verdict of its own; `random` where none has finished."""
    found = (each.policy for each in summaries if each.verdict == "reference")
    return next(found, "random")


def cost_of_choosing(arms: Sequence[ArmResult], full_training: Cost) -> tuple[str, ...]:
    """A sentence on all policies that learn: their cost as a share of one full-data training.

    Args:
        arms: Finished arms.
        full_training: Three epochs of the same pool, LoRA through the whole model.

    Returns:
        That sentence, or nothing where no policy learns.
    """
    shares: dict[str, list[float]] = {}
    for arm in arms:
        if arm.costs.get("policy_training", Cost()).flops:
            spent = sum(arm.costs[purpose].flops for purpose in CHOOSING if purpose in arm.costs)
            shares.setdefault(arm.policy, []).append(spent / full_training.flops)
    if not shares:
        return ()
    listed = ", ".join(f"{policy} {_mean(values):.2f}" for policy, values in shares.items())
    return (
        f"What learning to pick cost, in FLOPs as a share of one full-data training: {listed} "
        "(features, checks before it, frozen layers, policy training and rewards; 3 epochs of the "
        "same pool with LoRA through the whole model are "
        f"{full_training.flops / 1e12:,.1f} TFLOP).",
    )


def _named(
    asked_for: Sequence[str], policies: Collection[str], roles: Mapping[Role, str]
) -> Iterator[Reference]:
    """References asked for by name; one that has a role is compared with already."""
    for label in dict.fromkeys(asked_for):
        if label not in policies:
            several = "," in label and " Give --against once for each."
            raise RunError(
                f"no policy {label!r} to compare with; there are {', '.join(policies)}."
                f"{several or nearest(label, policies)}"
            )
        if label not in roles.values():
            yield Reference("named", label)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _losses_on(arms: Sequence[ArmResult], split: HeldOutSplit) -> dict[tuple[str, int], float]:
    measured = {
        (arm.policy, arm.seed): held_out
        for arm in arms
        if (held_out := arm.held_out(split)) is not None
    }
    targets = {target for held_out in measured.values() for target in held_out.target_losses}
    if len(targets) < 2:
        return {key: held_out.loss for key, held_out in measured.items()}
    base = next((measured.get((arm.policy, arm.seed)) for arm in arms if arm.kind == "base"), None)
    if base is None:
        return {}
    return {key: _ratio(held_out, base) for key, held_out in measured.items()}


def _ratio(held_out: HeldOut, base: HeldOut) -> float:
    return fmean(loss / base.target_losses[name] for name, loss in held_out.target_losses.items())


def _last_loss(arm: ArmResult) -> float:
    return arm.reward_validation_losses[-1]


def _summary(
    arms: Sequence[ArmResult],
    split: HeldOutSplit,
    compared: Mapping[tuple[str, int], float],
    effects: tuple[Effect, ...],
    *,
    is_reference: bool,
    tokens: EqualBudget | None,
    flops: EqualBudget | None,
) -> PolicySummary:
    measured = [held_out for arm in arms if (held_out := arm.held_out(split)) is not None]
    right = [held_out.metric for held_out in measured if held_out.metric is not None]
    ratios = [compared[arm.policy, arm.seed] for arm in arms] if compared else []
    several = len(measured[0].target_losses) > 1
    against_random = (each.verdict for each in effects if each.reference.role == "random")
    verdict: Verdict = next(against_random, "not compared")
    return PolicySummary(
        policy=arms[0].policy,
        kind=arms[0].kind,
        num_seeds=len(arms),
        split=split,
        loss=bootstrap_interval([held_out.loss for held_out in measured]),
        metric=arms[0].metric,
        metric_value=_share_interval(right) if len(right) == len(arms) else None,
        target_losses={
            target: bootstrap_interval([held_out.target_losses[target] for held_out in measured])
            for target in measured[0].target_losses
        },
        loss_ratio=bootstrap_interval(ratios) if ratios and several else None,
        effects=effects,
        at_equal_tokens=_over_seeds(arms, tokens),
        at_equal_compute=_over_seeds(arms, flops),
        ended_at_tokens=_ended_at(arms, tokens),
        ended_at_flops=_ended_at(arms, flops),
        stopped_seeds=tuple(arm.seed for arm in arms if arm.status == "non_finite_loss"),
        steps=fmean(arm.steps for arm in arms),
        tokens=fmean(arm.tokens for arm in arms),
        compute=_mean_cost([arm.cost_compared_on(split) for arm in arms]),
        verdict="reference" if is_reference else verdict,
    )


def _over_seeds(arms: Sequence[ArmResult], budget: EqualBudget | None) -> Interval | None:
    if budget is None or _ended_at(arms, budget) is not None:
        return None
    return bootstrap_interval([budget.losses[arm.policy, arm.seed] for arm in arms])


def _ended_at(arms: Sequence[ArmResult], budget: EqualBudget | None) -> float | None:
    ended = {} if budget is None else budget.ended
    found = (ended[arm.policy, arm.seed] for arm in arms if (arm.policy, arm.seed) in ended)
    return min(found, default=None)


def _share_interval(shares: Sequence[float]) -> Interval:
    """The interval, cut to what a share can be."""
    wide = bootstrap_interval(shares)
    if wide.low is None or wide.high is None:
        return wide
    return replace(wide, low=max(0.0, wide.low), high=min(1.0, wide.high))


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    return Cost(
        tokens=round(fmean(cost.tokens for cost in costs)),
        padded_tokens=round(fmean(cost.padded_tokens for cost in costs)),
        flops=fmean(cost.flops for cost in costs),
        seconds=fmean(cost.seconds for cost in costs),
    )
