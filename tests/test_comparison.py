import dataclasses
import json
import math
from typing import Any, NoReturn

import pytest

from raise_mdit.comparison import (
    ArmResult,
    arms_from_json,
    compared_losses,
    cost_of_choosing,
    summarise,
    to_json,
    total,
)
from raise_mdit.core import Cost
from raise_mdit.errors import RunError
from raise_mdit.statistics import student_interval

COSTS = {
    "synthesis": Cost(1, 2, 3.0, 4.0),
    "policy_training": Cost(10, 20, 30.0, 40.0),
    "final_training": Cost(100, 200, 300.0, 400.0),
}


def arm(policy: str, seed: int, test_loss: float, **fields: Any) -> ArmResult:
    default: dict[str, Any] = {
        "kind": policy,
        "status": "complete",
        "metric": None,
        "test_metric": None,
        "target_losses": {"test": 1.0},
        "reward_validation_losses": (2.0, 1.5),
        "episode_returns": (),
        "steps": 1,
        "tokens": 10,
        "picks": ({"sort": 2, "reverse": 1},),
        "costs": COSTS,
    }
    return ArmResult(policy=policy, seed=seed, test_loss=test_loss, **{**default, **fields})


def arms(policy: str, *losses: float, **fields: Any) -> list[ArmResult]:
    return [arm(policy, seed, loss, **fields) for seed, loss in enumerate(losses)]


def verdict_against(random: list[ArmResult], other: list[ArmResult]) -> str:
    return summarise([*random, *other])[-1].verdict


def test_total_adds_purposes_field_by_field() -> None:
    assert total(COSTS) == Cost(111, 222, 333.0, 444.0)


def test_total_of_nothing_is_free() -> None:
    assert total({}) == Cost()


def test_the_cost_of_choosing_is_a_share_of_a_full_training() -> None:
    dear = {"features": Cost(flops=20.0), "policy_training": Cost(flops=30.0)}
    rest = {"reward_evaluation": Cost(flops=10.0), "final_training": Cost(flops=1e6)}
    given = [*arms("random", 1.0, costs=rest), *arms("ppo", 1.0, 1.0, costs={**dear, **rest})]

    (sentence,) = cost_of_choosing(given, Cost(flops=400.0))

    assert sentence.startswith("Learning what to pick cost ppo 0.15 of one full-data training")


def test_summaries_come_in_the_order_of_first_appearance() -> None:
    given = [arm("ppo", 0, 1.0), arm("base", 0, 1.0), arm("ppo", 1, 1.0), arm("random", 0, 1.0)]
    assert [summary.policy for summary in summarise(given)] == ["ppo", "base", "random"]


def test_difference_is_paired_by_seed() -> None:
    # Seeds differ by far more than policies do: unpaired, nothing could be said.
    random, ppo = arms("random", 1.0, 5.0, 9.0), arms("ppo", 0.9, 4.9, 8.9)
    summary = summarise([*random, *reversed(ppo)])[-1]
    assert summary.difference_to_random is not None
    assert summary.difference_to_random.mean == pytest.approx(-0.1)
    assert summary.verdict == "better"


def test_difference_leaves_out_seeds_that_random_lacks() -> None:
    summary = summarise([*arms("random", 1.0, 2.0), *arms("ppo", 0.5, 1.4, 100.0)])[-1]
    assert summary.difference_to_random == student_interval([0.5 - 1.0, 1.4 - 2.0])
    assert summary.num_seeds == summary.test_loss.num_samples == 3


def test_base_is_paired_with_each_seed_of_random() -> None:
    summary = summarise([*arms("base", 3.0, 3.0, 3.0), *arms("random", 1.0, 1.1, 1.2)])[0]
    assert summary.difference_to_random == student_interval([3.0 - 1.0, 3.0 - 1.1, 3.0 - 1.2])
    assert summary.verdict == "worse"


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ((0.8, 0.81, 0.79), "better"),
        ((1.2, 1.21, 1.19), "worse"),
        ((0.5, 1.5, 0.9), "inconclusive"),
        ((1.0, 1.0, 1.0), "inconclusive"),
        ((0.5,), "one seed"),
    ],
)
def test_verdict_follows_the_interval(losses: tuple[float, ...], verdict: str) -> None:
    assert verdict_against(arms("random", 1.0, 1.0, 1.0), arms("ppo", *losses)) == verdict


def test_random_is_the_reference() -> None:
    (summary,) = summarise(arms("random", 1.0, 2.0))
    assert summary.verdict == "reference"


def test_second_random_policy_is_compared_with_the_first() -> None:
    other = arms("random-2", 1.5, 1.6, 1.5, kind="random")
    assert verdict_against(arms("random", 1.0, 1.1, 1.0), other) == "worse"


def test_without_random_nothing_is_concluded() -> None:
    (summary,) = summarise(arms("ppo", 1.0, 2.0))
    assert summary.difference_to_random is None
    assert summary.verdict == "inconclusive"


def test_loss_that_is_not_finite_is_inconclusive() -> None:
    assert verdict_against(arms("random", 1.0, 1.0), arms("ppo", 0.5, math.nan)) == "inconclusive"


def test_exact_match_is_summarised_where_every_seed_has_it() -> None:
    with_match = [
        arm("random", seed, 1.0, metric="exact_match", test_metric=0.5 + seed / 64)
        for seed in range(3)
    ]
    assert summarise(with_match)[0].test_metric == student_interval([0.5, 0.515625, 0.53125])
    assert summarise([*with_match, arm("random", 3, 1.0)])[0].test_metric is None


def test_means_over_seeds() -> None:
    pair = [
        arm("random", 0, 1.0, steps=2, tokens=10, costs={"features": Cost(1, 2, 3.0, 4.0)}),
        arm("random", 1, 1.0, steps=3, tokens=13, costs={"features": Cost(3, 4, 6.0, 5.0)}),
    ]
    (summary,) = summarise(pair)
    assert (summary.steps, summary.tokens) == (2.5, 11.5)
    assert summary.compute == Cost(2, 3, 4.5, 4.5)


def test_arms_return_from_json_as_they_were() -> None:
    given = [
        arm(
            "random",
            0,
            0.1 + 0.2,
            metric="exact_match",
            test_metric=1 / 3,
            episode_returns=(1e-300, math.pi),
        ),
        arm("ppo", 1, 2.0, status="non_finite_loss", reward_validation_losses=(1.0, math.inf)),
        arm("<b>ü", 2, -math.inf, costs={"features": Cost(1, 1, math.inf, 0.1)}, picks=()),
    ]
    assert arms_from_json(to_json(given, summarise(given))) == tuple(given)


def test_nan_returns_from_json() -> None:
    given = arm("ppo", 0, math.nan)
    (returned,) = arms_from_json(to_json([given], summarise([given])))
    assert math.isnan(returned.test_loss)
    assert dataclasses.replace(returned, test_loss=1.0) == dataclasses.replace(given, test_loss=1.0)


def test_json_is_strict() -> None:
    def refuse(literal: str) -> NoReturn:
        raise AssertionError(f"{literal} is not JSON")

    given = [arm("random", 0, 1.0), arm("ppo", 0, math.nan), arm("ppo", 1, math.inf)]
    document = json.loads(to_json(given, summarise(given)), parse_constant=refuse)
    assert document["arms"][1]["test_loss"] == "nan"
    assert document["summaries"][0]["test_loss"]["low"] is None
    assert document["arms"][0]["costs"]["synthesis"] == {
        "tokens": 1,
        "padded_tokens": 2,
        "flops": 3.0,
        "seconds": 4.0,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 1, "arms": []}',
        '{"format": 0}',
        '{"format": 2}',
        '{"format": 2, "arms": [{}]}',
    ],
)
def test_other_text_is_the_users_error(text: str) -> None:
    with pytest.raises(RunError, match="results"):
        arms_from_json(text)


def test_what_only_draws_curves_is_no_cost_of_a_policy() -> None:
    costs = {"final_training": Cost(3, 4, 5.0, 6.0), "monitoring": Cost(30, 40, 50.0, 60.0)}

    assert total(costs) == Cost(3, 4, 5.0, 6.0)


def test_a_share_has_an_interval_within_its_limits() -> None:
    arms = [
        arm("ppo", seed, 1.0, metric="exact_match", test_metric=share)
        for seed, share in ((0, 0.0), (1, 0.9))
    ]

    interval = summarise(arms)[0].test_metric

    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 1.0)


# Several targets: each counts as its loss over that of base.


def on_targets(policy: str, *losses: tuple[float, float]) -> list[ArmResult]:
    """Arms whose loss over all tokens says the opposite of what each target says."""
    return [
        arm(policy, seed, 10 - sum(pair), target_losses={"short": pair[0], "long": pair[1]})
        for seed, pair in enumerate(losses)
    ]


BASE = on_targets("base", (4.0, 1.0), (4.0, 1.0), (4.0, 1.0))
RANDOM = on_targets("random", (2.0, 1.0), (2.2, 1.1), (1.8, 0.9))
PPO = on_targets("ppo", (1.0, 1.0), (1.2, 1.1), (0.8, 0.9))


def test_several_targets_are_compared_by_their_mean_share_of_the_base_models_loss() -> None:
    assert compared_losses([*PPO, *BASE]) == {
        ("ppo", 0): pytest.approx((1 / 4 + 1) / 2),
        ("ppo", 1): pytest.approx((1.2 / 4 + 1.1) / 2),
        ("ppo", 2): pytest.approx((0.8 / 4 + 0.9) / 2),
        **{("base", seed): 1.0 for seed in range(3)},
    }


def test_the_verdict_over_several_targets_follows_what_is_compared() -> None:
    base, random, ppo = summarise([*BASE, *RANDOM, *PPO])

    assert ppo.difference_to_random == student_interval([-0.125, -0.125, -0.125])
    assert (ppo.verdict, base.verdict) == ("better", "worse")
    assert ppo.compared == ppo.loss_ratio != ppo.test_loss
    assert base.loss_ratio == student_interval([1.0, 1.0, 1.0])
    assert random.target_losses["short"] == student_interval([2.0, 2.2, 1.8])


def test_without_base_several_targets_are_not_compared() -> None:
    _, ppo = summarise([*RANDOM, *PPO])

    assert (ppo.compared, ppo.difference_to_random, ppo.verdict) == (None, None, "inconclusive")
    assert ppo.target_losses["long"] == student_interval([1.0, 1.1, 0.9])


def test_one_target_is_compared_by_its_loss() -> None:
    (summary,) = summarise(arms("random", 1.0, 2.0, target_losses={"only": 7.0}))

    assert summary.compared == summary.test_loss == student_interval([1.0, 2.0])
    assert summary.loss_ratio is None


def test_losses_of_targets_return_from_json_as_they_were() -> None:
    given = [*PPO, arm("lost", 0, math.inf, target_losses={"short": math.inf, "long": 1 / 3})]

    assert arms_from_json(to_json(given, summarise(given))) == tuple(given)
