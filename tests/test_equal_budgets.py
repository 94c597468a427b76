"""Losses of policies that have all spent the same, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.arm_results import arm

from raise_mdit.equal_budgets import EqualBudget, equal_budget
from raise_mdit.results import ArmResult


def trained(policy: str, losses: tuple[float, ...], *, seed: int = 0, **fields: Any) -> ArmResult:
    """An arm that spent 10 tokens and 100 FLOPs a step, and chose for nothing."""
    steps = len(losses) - 1
    default: dict[str, Any] = {
        "steps": steps,
        "step_tokens": tuple(10 * step for step in range(steps + 1)),
        "step_flops": tuple(100.0 * step for step in range(steps + 1)),
        "reward_validation_losses": losses,
    }
    return arm(policy, seed, 1.0, **{**default, **fields})


RANDOM = trained("random", (4.0, 3.0, 2.5))
BASE = arm("base", 0, 1.0, steps=0, reward_validation_losses=(4.5,), step_tokens=(0,))
UNKNOWN = arm("old", 0, 1.0)


def test_between_two_steps_losses_are_read_off_the_straight_line() -> None:
    uneven = trained("ppo", (4.0, 2.0, 1.0), step_tokens=(0, 16, 32))
    short = trained("random", (4.0, 3.0), step_tokens=(0, 20))

    found = equal_budget([uneven, short], "tokens")

    assert found == EqualBudget(20.0, {("ppo", 0): 2.0 - 4 / 16, ("random", 0): 3.0}, {})


def test_the_amount_is_that_of_the_arm_that_spent_the_least_of_all_seeds() -> None:
    stopped = trained("random", (4.0, 3.5), seed=1)

    found = equal_budget([RANDOM, stopped], "tokens")

    assert found == EqualBudget(10.0, {("random", 0): 3.0, ("random", 1): 3.5}, {})


def test_flops_count_what_choosing_cost() -> None:
    ppo = trained("ppo", (4.0, 2.0, 1.0), step_flops=(150.0, 250.0, 350.0))

    found = equal_budget([RANDOM, ppo], "flops")

    assert found == EqualBudget(200.0, {("random", 0): 2.5, ("ppo", 0): 3.0}, {})
    assert equal_budget([RANDOM, ppo], "tokens") == EqualBudget(
        20.0, {("random", 0): 2.5, ("ppo", 0): 1.0}, {}
    )


def test_a_policy_whose_choosing_costs_more_than_all_of_another_stands_where_it_began() -> None:
    dear = trained("ppo", (4.0, 1.0, 0.5), step_flops=(201.0, 301.0, 401.0))

    found = equal_budget([RANDOM, dear], "flops")

    assert found is not None
    assert found.losses["ppo", 0] == 4.0


def test_an_arm_that_does_not_train_stays_where_it_is_and_limits_nobody() -> None:
    with_base, without = equal_budget([BASE, RANDOM], "tokens"), equal_budget([RANDOM], "tokens")

    assert with_base is not None
    assert without is not None
    assert with_base == EqualBudget(without.amount, {("base", 0): 4.5, **without.losses}, {})


def test_a_loss_that_is_not_finite_stays_so() -> None:
    lost = trained("ppo", (4.0, math.inf, math.inf))

    found = equal_budget([RANDOM, lost], "tokens")

    assert found is not None
    assert found.losses["ppo", 0] == math.inf


def test_an_arm_that_stopped_at_a_loss_that_is_not_finite_does_not_set_the_limit() -> None:
    lost = trained("ppo", (4.0, math.nan), status="non_finite_loss")

    assert equal_budget([RANDOM, lost], "tokens") == EqualBudget(
        20.0, {("random", 0): 2.5}, {("ppo", 0): 10.0}
    )
    assert equal_budget([RANDOM, lost], "flops") == EqualBudget(
        200.0, {("random", 0): 2.5}, {("ppo", 0): 100.0}
    )


def test_an_arm_that_stopped_beyond_the_limit_has_its_loss_there() -> None:
    lost = trained("ppo", (4.0, 3.0, 2.0, math.inf), status="non_finite_loss")

    assert equal_budget([RANDOM, lost], "tokens") == EqualBudget(
        20.0, {("random", 0): 2.5, ("ppo", 0): 2.0}, {}
    )


@pytest.mark.parametrize(
    "given",
    [
        [],
        [trained("ppo", (4.0, math.inf), status="non_finite_loss")],
        [BASE],
        [UNKNOWN],
        [RANDOM, UNKNOWN],
        [RANDOM, trained("ppo", (4.0, 3.0), step_tokens=(10,), step_flops=(100.0,))],
    ],
)
def test_arms_that_do_not_say_what_they_spent_give_nothing(given: list[ArmResult]) -> None:
    assert equal_budget(given, "tokens") is None
    assert equal_budget(given, "flops") is None
