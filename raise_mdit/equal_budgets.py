"""What policies had reached when each had spent the same: tokens, or FLOPs of everything it needed.

A run gives every policy the same budget, of steps or of tokens. Its curves say more: the loss on
reward-validation by tokens trained on, and by total compute. They are read at the most that every
policy reached; a policy whose choosing costs more than that stands where it began.
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


def equal_budget(arms: Sequence[ArmResult], spent: Spent) -> EqualBudget | None:
    """Where every arm stood when all had spent as much as the one that spent the least.

    Between two steps losses are read off the straight line. Arms that do not train stay where they
    are and limit nobody.

    Args:
        arms: Finished arms.
        spent: What is made equal.

    Returns:
        None where no arm trained, or one does not say what it had spent by step.
    """
    curve = _curve_of(spent)
    training = [arm for arm in arms if arm.steps > 0]
    if not training or any(len(curve(arm)) != arm.steps + 1 for arm in training):
        return None
    amount = float(min(curve(arm)[-1] for arm in training))
    losses = {
        (arm.policy, arm.seed): (
            _read(curve(arm), arm.reward_validation_losses, amount)
            if arm.steps
            else arm.reward_validation_losses[-1]
        )
        for arm in arms
    }
    return EqualBudget(amount, losses)


def _curve_of(spent: Spent) -> Callable[[ArmResult], Sequence[float]]:
    return _tokens if spent == "tokens" else _flops


def _tokens(arm: ArmResult) -> Sequence[float]:
    return arm.step_tokens


def _flops(arm: ArmResult) -> Sequence[float]:
    return arm.step_flops


def _read(spent: Sequence[float], losses: Sequence[float], amount: float) -> float:
    """The loss at an amount; that of the start where even choosing cost more."""
    return float(np.interp(amount, spent, losses))
