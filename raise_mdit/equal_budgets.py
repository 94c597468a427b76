"""What policies had reached when each had spent the same: tokens, or FLOPs of everything it needed.

A run gives every policy the same budget, of steps or of tokens. Its curves say more: the loss on
reward-validation by tokens trained on, and by total compute. They are read at the most that every
policy reached; a policy whose choosing costs more than that stands where it began. An arm whose
loss is no longer finite stops early, which says nothing of what others could be compared at: it
does not set the limit, and has no loss there if it ended before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from raise_mdit.results import ArmResult

Spent = Literal["tokens", "flops"]


class EqualBudget(NamedTuple):
    """The same amount spent by every policy."""

    amount: float
    """Tokens of the final fine-tuning without padding, or FLOPs of everything but its test."""
    losses: dict[tuple[str, int], float]
    """Loss on reward-validation by policy and seed, in nats."""
    ended: dict[tuple[str, int], float]
    """What arms had spent, by policy and seed, that stopped short of it; they are not among the
    losses."""


def equal_budget(arms: Sequence[ArmResult], spent: Spent) -> EqualBudget | None:
    """Where every arm stood when all had spent as much as the one that spent the least.

    Between two steps losses are read off the straight line. Arms that do not train stay where they
    are and limit nobody; nor do arms that stopped because their loss was not finite.

    Args:
        arms: Finished arms.
        spent: What is made equal.

    Returns:
        None where no arm trained to its budget, or one does not say what it had spent by step.
    """
    curve = _curve_of(spent)
    training = [arm for arm in arms if arm.steps > 0]
    limiting = [arm for arm in training if arm.status == "complete"]
    if not limiting or any(len(curve(arm)) != arm.steps + 1 for arm in training):
        return None
    amount = float(min(curve(arm)[-1] for arm in limiting))
    ended = {
        (arm.policy, arm.seed): float(curve(arm)[-1]) for arm in training if curve(arm)[-1] < amount
    }
    losses = {
        (arm.policy, arm.seed): (
            _read(curve(arm), arm.reward_validation_losses, amount)
            if arm.steps
            else arm.reward_validation_losses[-1]
        )
        for arm in arms
        if (arm.policy, arm.seed) not in ended
    }
    return EqualBudget(amount, losses, ended)


def _curve_of(spent: Spent) -> Callable[[ArmResult], Sequence[float]]:
    return _tokens if spent == "tokens" else _flops


def _tokens(arm: ArmResult) -> Sequence[float]:
    return arm.step_tokens


def _flops(arm: ArmResult) -> Sequence[float]:
    return arm.step_flops


def _read(spent: Sequence[float], losses: Sequence[float], amount: float) -> float:
    """The loss at an amount; that of the start where even choosing cost more."""
    return float(np.interp(amount, spent, losses))
