"""Results as JSON: they come back to the last bit, and damage is told."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from helpers.arm_results import COSTS, arm, arms, held_out, of_items
from hypothesis import given
from hypothesis import strategies as st

from raise_mdit.comparison import summarise
from raise_mdit.core import Cost
from raise_mdit.errors import RunError
from raise_mdit.results import (
    ArmResult,
    HeldOut,
    RankingTrial,
    arms_from_json,
    compared_split,
    to_json,
    total,
)

ITEMS = of_items([0.1 + 0.2, 1 / 3, 7e-9], [3, 1, 2], targets={"a": [0, 2], "b": [1]})
FULL = arm(
    "ppo",
    3,
    2.0,
    kind="ppo",
    status="non_finite_loss",
    test=dataclasses.replace(ITEMS, metric=2 / 3, item_metrics=(1.0, 0.0, 1.0)),
    model_selection=held_out(math.pi, metric=0.5),
    metric="exact_match",
    reward_validation_losses=(2.0, 1.1, 5e-324),
    episode_returns=(1e-300, -math.pi),
    trials=(RankingTrial("dsir", 0.1), RankingTrial("dsir and shortest in turn", math.inf)),
    greedy_return=1 / 7,
    kept_updates=4,
    kept_steps=1,
    steps=2,
    step_tokens=(0, 12, 2**53 + 1),
    step_flops=(1e12, 2.5e12, 1e300),
    picks=({"sort": 2}, {"reverse": 1, "sort": 1}),
)
"""Every field differs from its default."""

FORMAT_2 = """{
  "format": 2,
  "arms": [
    {
      "policy": "ppo",
      "kind": "ppo",
      "seed": 1,
      "status": "complete",
      "test_loss": 1.25,
      "metric": "exact_match",
      "test_metric": 0.5,
      "target_losses": {"notes": 1.5, "exam": "inf"},
      "reward_validation_losses": [2.0, "nan", 1.5],
      "episode_returns": [],
      "steps": 2,
      "tokens": 40,
      "picks": [{"sort": 2}, {"sort": 1, "reverse": 1}],
      "costs": {"features": {"tokens": 1, "padded_tokens": 2, "flops": 3.0, "seconds": "inf"}}
    }
  ],
  "summaries": [{"policy": "ppo", "test_loss": {"mean": 1.25}}]
}
"""


def refuse(literal: str) -> NoReturn:
    raise AssertionError(f"{literal} is not JSON")


def returned(*given: ArmResult) -> tuple[ArmResult, ...]:
    """What comes back from JSON."""
    return arms_from_json(to_json(given, summarise(given)))


# --- Back from JSON.


def test_arms_return_as_they_were() -> None:
    default = {field.name: field.default for field in dataclasses.fields(ArmResult)}
    assert all(getattr(FULL, name) != value for name, value in default.items())

    assert returned(FULL) == (FULL,)


def test_what_is_empty_or_absent_returns_so() -> None:
    unopened = arm("base", 0, 1.0, test=None, picks=(), costs={}, episode_returns=(), steps=0)
    without_items = arm("random", 0, 1.0)

    assert returned(unopened, without_items) == (unopened, without_items)
    assert returned() == ()


@pytest.mark.parametrize("lost", [math.inf, -math.inf])
def test_infinite_numbers_return(lost: float) -> None:
    given = arm(
        "<b>ü",
        0,
        lost,
        test=dataclasses.replace(
            of_items([lost, 1.0], [1, 2]), metric=lost, item_metrics=(lost, 0.5)
        ),
        costs={"features": Cost(1, 1, lost, 0.1)},
        reward_validation_losses=(1.0, lost),
        step_flops=(0.0, lost),
    )

    assert returned(given) == (given,)


def test_nan_returns() -> None:
    given = arm("ppo", 0, math.nan, reward_validation_losses=(math.nan,))
    (found,) = returned(given)

    assert found.test is not None
    assert math.isnan(found.test.loss)
    assert math.isnan(found.test.target_losses["test"])
    assert math.isnan(found.reward_validation_losses[0])
    rest = [
        dataclasses.replace(each, test=None, reward_validation_losses=()) for each in (found, given)
    ]
    assert rest[0] == rest[1]


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_every_number_returns_to_the_last_bit(losses: list[float]) -> None:
    given = arm("ppo", 0, losses[0], reward_validation_losses=tuple(losses))
    (found,) = arms_from_json(to_json([given]))

    assert [*map(repr, found.reward_validation_losses)] == [*map(repr, losses)]


@given(st.text(max_size=12))
def test_every_name_returns_letter_by_letter(name: str) -> None:
    given = arm(name, 0, 1.0, target_losses={name: 1.0}, picks=({name: 1},))

    assert arms_from_json(to_json([given])) == (given,)


def test_a_name_that_looks_like_a_list_of_numbers_is_left_alone() -> None:
    given = arm("[1,  2]", 0, 1.0, picks=({"[ 3 ,   4 ]": 1},))

    assert returned(given) == (given,)


# --- The text.


def test_json_is_strict() -> None:
    given = [arm("random", 0, 1.0), arm("ppo", 0, math.nan), arm("ppo", 1, math.inf)]
    document = json.loads(to_json(given, summarise(given)), parse_constant=refuse)

    assert document["format"] == 6
    assert [each["test"]["loss"] for each in document["arms"]] == [1.0, "nan", "inf"]
    assert document["summaries"][0]["loss"]["low"] is None
    assert document["arms"][0]["costs"]["synthesis"] == {
        "tokens": 1,
        "padded_tokens": 2,
        "flops": 3.0,
        "seconds": 4.0,
    }


def test_numbers_of_items_and_steps_stand_on_one_line() -> None:
    many = of_items([1.5e-7] * 300, [7] * 300)
    given = arm("ppo", 0, 1.0, test=many, step_tokens=(0, 10), step_flops=(-1.0, 2e12))

    lines = {line.split('"')[1]: line for line in to_json([given]).splitlines() if '": [' in line}

    for name in ("item_losses", "item_tokens", "item_targets", "step_tokens", "step_flops"):
        assert lines[name].rstrip(",").endswith("]")
    assert lines["item_losses"].count("1.5e-07") == 300
    assert lines["picks"].endswith("[")


# --- Older and other texts.


def test_format_2_is_read_as_what_it_meant() -> None:
    (found,) = arms_from_json(FORMAT_2)

    nan = found.reward_validation_losses[1]
    assert math.isnan(nan)
    assert found == ArmResult(
        policy="ppo",
        kind="ppo",
        seed=1,
        status="complete",
        test=HeldOut(loss=1.25, target_losses={"notes": 1.5, "exam": math.inf}, metric=0.5),
        metric="exact_match",
        reward_validation_losses=(2.0, nan, 1.5),
        episode_returns=(),
        steps=2,
        tokens=40,
        picks=({"sort": 2}, {"sort": 1, "reverse": 1}),
        costs={"features": Cost(1, 2, 3.0, math.inf)},
    )


def test_what_was_read_of_format_2_is_written_as_format_6() -> None:
    (old,) = arms_from_json(FORMAT_2.replace('"nan"', "1.75"))

    assert '"format": 6' in to_json([old])
    assert returned(old) == (old,)


def test_format_3_is_read() -> None:
    """It told no episode from another."""
    told = dataclasses.replace(
        FULL, trials=(), greedy_return=None, kept_updates=None, kept_steps=None
    )
    document = json.loads(to_json([told]))
    for name in ("trials", "greedy_return", "kept_updates", "kept_steps"):
        del document["arms"][0][name]

    assert arms_from_json(json.dumps({**document, "format": 3})) == (told,)


def test_format_4_is_read() -> None:
    """It said nothing of weights that were kept."""
    told = dataclasses.replace(FULL, kept_updates=None, kept_steps=None)
    document = json.loads(to_json([told]))
    for name in ("kept_updates", "kept_steps"):
        del document["arms"][0][name]

    assert arms_from_json(json.dumps({**document, "format": 4})) == (told,)


def test_format_5_is_read() -> None:
    """It had no early stopping."""
    told = dataclasses.replace(FULL, kept_steps=None)
    document = json.loads(to_json([told]))
    del document["arms"][0]["kept_steps"]

    assert arms_from_json(json.dumps({**document, "format": 5})) == (told,)


def test_of_trials_that_gave_as_much_the_first_is_best() -> None:
    trials = tuple(map(RankingTrial, "abc", (1.0, 2.0, 2.0)))

    assert arm("ppo", 0, 1.0, trials=trials).best_trial == trials[1]
    assert arm("ppo", 0, 1.0).best_trial is None


def test_trials_tell_what_to_pick_as_episodes_do() -> None:
    assert arm("best_of", 0, 1.0, trials=(RankingTrial("a", 1.0),)).has_rewards
    assert arm("ppo", 0, 1.0, episode_returns=(0.1,)).has_rewards
    assert not arm("dsir", 0, 1.0).has_rewards


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "3", "null", "{}", '{"arms": []}'], ids=repr)
def test_what_is_no_object_with_a_format_is_the_users_error(text: str) -> None:
    with pytest.raises(RunError, match="not a JSON object with a `format`"):
        arms_from_json(text)


@pytest.mark.parametrize("number", ["0", "1", "7", '"6"', "null", "[3]"])
def test_an_unknown_format_is_named(number: str) -> None:
    with pytest.raises(RunError, match=r"have format .*; this version reads 2, 3, 4, 5 and 6"):
        arms_from_json(f'{{"format": {number}, "arms": []}}')


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields.pop(name)


def changed(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields.update(values)


@pytest.mark.parametrize(
    "damage",
    [
        *(without(field.name) for field in dataclasses.fields(ArmResult) if field.name != "metric"),
        changed(test={}),
        changed(test="1.0"),
        changed(test={"loss": "much", "metric": None, "target_losses": {}}),
        changed(reward_validation_losses=["high"]),
        changed(reward_validation_losses=None),
        changed(costs=[]),
        changed(costs={"features": {"tokens": 1}}),
        changed(from_a_later_version=1),
    ],
)
def test_a_damaged_arm_is_the_users_error(damage: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(to_json([FULL]))
    damage(document["arms"][0])

    with pytest.raises(RunError, match="hold an arm that cannot be read"):
        arms_from_json(json.dumps(document))


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 2}',
        '{"format": 3, "arms": 3}',
        '{"format": 3, "arms": [[]]}',
        FORMAT_2.replace('"test_loss": 1.25', '"loss": 1.25'),
        FORMAT_2.replace('"metric": "exact_match",\n      "test_metric"', '"test_metrics"'),
    ],
)
def test_damaged_lists_of_arms_are_the_users_error(text: str) -> None:
    with pytest.raises(RunError, match="hold an arm that cannot be read"):
        arms_from_json(text)


# --- What arms cost, and what they are compared on.


def test_total_adds_purposes_field_by_field() -> None:
    assert total(COSTS) == Cost(111, 222, 333.0, 444.0)


def test_total_of_nothing_is_free() -> None:
    assert total({}) == Cost()


def test_what_only_draws_curves_is_no_cost_of_a_policy() -> None:
    costs = {"final_training": Cost(3, 4, 5.0, 6.0), "monitoring": Cost(30, 40, 50.0, 60.0)}

    assert total(costs) == Cost(3, 4, 5.0, 6.0)


def test_arms_are_compared_on_the_test_once_all_have_opened_it() -> None:
    opened, unopened = arms("random", 1.0, 2.0), arm("ppo", 0, 1.0, test=None)

    assert compared_split(opened) == "test"
    assert compared_split([*opened, unopened]) == "model_selection"


def test_an_arm_has_what_it_reached_on_each_split() -> None:
    assert FULL.held_out("test") == FULL.test
    assert FULL.held_out("model_selection") == FULL.model_selection
