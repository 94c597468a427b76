"""How long a run still takes, against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.arm_results import arm

from raise_mdit.core import Cost
from raise_mdit.remaining_time import RemainingTime, about
from raise_mdit.results import ArmResult


class Clock:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def charged(policy: str, seed: int, seconds: float) -> ArmResult:
    costs = {"final_tuning": Cost(seconds=seconds), "monitoring": Cost(seconds=1e6)}
    return replace(arm(policy, seed, 1.0), costs=costs)


def test_what_is_charged_is_turned_into_time_by_what_was_charged_so_far() -> None:
    """240 s were charged in 80 s: what is shared is charged to each, and two run at once."""
    clock = Clock()
    remaining = RemainingTime(clock=clock)
    for each in (charged("random", 0, 40.0), charged("random", 1, 20.0), charged("ppo", 0, 180.0)):
        remaining.add(each)
    clock.now += 80.0

    assert remaining.seconds(["random", "ppo", "ppo"]) == pytest.approx((30 + 180 + 180) / 3)
    assert remaining.seconds([]) == 0.0


def test_of_a_policy_that_never_finished_nothing_is_foretold() -> None:
    remaining = RemainingTime(clock=Clock())
    remaining.add(charged("random", 0, 40.0))

    assert remaining.seconds(["random", "ppo"]) is None


def test_a_run_that_goes_on_knows_its_arms_but_not_yet_its_pace() -> None:
    clock = Clock()
    remaining = RemainingTime([charged("ppo", 0, 300.0), charged("random", 0, 10.0)], clock=clock)

    assert remaining.seconds(["ppo"]) is None

    remaining.add(charged("random", 1, 10.0))
    clock.now += 20.0
    assert remaining.seconds(["ppo", "random"]) == pytest.approx(2 * (300 + 10))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "less than a minute"),
        (59.9, "less than a minute"),
        (60.0, "about 1 min"),
        (5399.0, "about 90 min"),
        (5400.0, "about 1.5 h"),
        (36_000.0, "about 10.0 h"),
    ],
)
def test_words(seconds: float, words: str) -> None:
    assert about(seconds) == words
