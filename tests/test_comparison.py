"""How policies compare over their seeds."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.arm_results import arm, arms, held_out

from raise_mdit.bootstrap import bootstrap_interval
from raise_mdit.comparison import (
    compared_losses,
    cost_of_choosing,
    reference_of,
    references_among,
    summarise,
    target_names,
)
from raise_mdit.core import Cost
from raise_mdit.effects import Reference
from raise_mdit.errors import RunError
from raise_mdit.results import ArmResult


def verdict_against(random: list[ArmResult], other: list[ArmResult]) -> str:
    return summarise([*random, *other])[-1].verdict


def test_the_cost_of_choosing_is_a_share_of_a_full_training() -> None:
    dear = {"features": Cost(flops=20.0), "policy_training": Cost(flops=30.0)}
    rest = {"reward_evaluation": Cost(flops=10.0), "final_training": Cost(flops=1e6)}
    given = [*arms("random", 1.0, costs=rest), *arms("ppo", 1.0, 1.0, costs={**dear, **rest})]

    (sentence,) = cost_of_choosing(given, Cost(flops=400.0))

    assert ": ppo 0.15 (features, " in sentence


def test_one_sentence_tells_the_cost_of_choosing_of_all_policies_that_learn() -> None:
    of = [{"policy_training": Cost(flops=flops)} for flops in (10.0, 30.0, 40.0)]
    given = [
        arm("ppo", 0, 1.0, costs=of[0]), arm("ppo", 1, 1.0, costs=of[1]),
        arm("raise", 0, 1.0, costs=of[2]), *arms("random", 1.0, costs={}),
    ]  # fmt: skip

    (sentence,) = cost_of_choosing(given, Cost(flops=100.0))

    assert ": ppo 0.20, raise 0.40 (" in sentence
    assert cost_of_choosing(given[-1:], Cost(flops=100.0)) == ()


def test_summaries_come_in_the_order_of_first_appearance() -> None:
    given = [arm("ppo", 0, 1.0), arm("base", 0, 1.0), arm("ppo", 1, 1.0), arm("random", 0, 1.0)]
    assert [summary.policy for summary in summarise(given)] == ["ppo", "base", "random"]


def test_difference_leaves_out_seeds_that_random_lacks() -> None:
    summary = summarise([*arms("random", 1.0, 2.0), *arms("ppo", 0.5, 1.4, 100.0)])[-1]
    assert summary.difference_to_random == bootstrap_interval([0.5 - 1.0, 1.4 - 2.0])
    assert summary.num_seeds == summary.loss.num_samples == 3


def test_base_is_paired_with_each_seed_of_random() -> None:
    summary = summarise([*arms("base", 3.0, 3.0, 3.0), *arms("random", 1.0, 1.1, 1.2)])[0]
    assert summary.difference_to_random == bootstrap_interval([3.0 - 1.0, 3.0 - 1.1, 3.0 - 1.2])
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
    assert summary.verdict == "not compared"


def test_loss_that_is_not_finite_is_inconclusive() -> None:
    assert verdict_against(arms("random", 1.0, 1.0), arms("ppo", 0.5, math.nan)) == "inconclusive"


def test_exact_match_is_summarised_where_every_seed_has_it() -> None:
    with_match = [
        arm("random", seed, 1.0, metric="exact_match", metric_value=0.5 + seed / 64)
        for seed in range(3)
    ]
    assert summarise(with_match)[0].metric_value == bootstrap_interval([0.5, 0.515625, 0.53125])
    assert summarise([*with_match, arm("random", 3, 1.0)])[0].metric_value is None


def test_means_over_seeds() -> None:
    pair = [
        arm("random", 0, 1.0, steps=2, tokens=10, costs={"features": Cost(1, 2, 3.0, 4.0)}),
        arm("random", 1, 1.0, steps=3, tokens=13, costs={"features": Cost(3, 4, 6.0, 5.0)}),
    ]
    (summary,) = summarise(pair)
    assert (summary.steps, summary.tokens) == (2.5, 11.5)
    assert summary.compute == Cost(2, 3, 4.5, 4.5)


def test_a_share_has_an_interval_within_its_limits() -> None:
    arms = [
        arm("ppo", seed, 1.0, metric="exact_match", metric_value=share)
        for seed, share in ((0, 0.0), (1, 0.9))
    ]

    interval = summarise(arms)[0].metric_value

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

    assert ppo.difference_to_random == bootstrap_interval([-0.125, -0.125, -0.125])
    assert (ppo.verdict, base.verdict) == ("better", "worse")
    assert ppo.compared == ppo.loss_ratio != ppo.loss
    assert base.loss_ratio == bootstrap_interval([1.0, 1.0, 1.0])
    assert random.target_losses["short"] == bootstrap_interval([2.0, 2.2, 1.8])


def test_without_base_several_targets_are_not_compared() -> None:
    _, ppo = summarise([*RANDOM, *PPO])

    assert (ppo.compared, ppo.difference_to_random, ppo.verdict) == (None, None, "not compared")
    assert ppo.target_losses["long"] == bootstrap_interval([1.0, 1.1, 0.9])


def test_one_target_is_compared_by_its_loss() -> None:
    (summary,) = summarise(arms("random", 1.0, 2.0, target_losses={"only": 7.0}))

    assert summary.compared == summary.loss == bootstrap_interval([1.0, 2.0])
    assert summary.loss_ratio is None


# What is compared: the test once all arms have opened it, and equal budgets besides.


def unopened(policy: str, *losses: float) -> list[ArmResult]:
    """Arms whose test is still sealed."""
    return [
        arm(policy, seed, 0.0, test=None, model_selection=held_out(loss))
        for seed, loss in enumerate(losses)
    ]


def test_before_the_test_is_opened_policies_are_compared_on_model_selection_data() -> None:
    random, ppo = summarise([*unopened("random", 2.0, 2.1), *unopened("ppo", 1.0, 1.2)])

    assert (random.split, ppo.split) == ("model_selection", "model_selection")
    assert ppo.loss == bootstrap_interval([1.0, 1.2])
    assert ppo.difference_to_random == bootstrap_interval([1.0 - 2.0, 1.2 - 2.1])


def test_one_sealed_test_keeps_all_arms_from_being_compared_on_it() -> None:
    tested = [arm("random", seed, 9.0, model_selection=held_out(2.0)) for seed in (0, 1)]

    summaries = summarise([*tested, *unopened("ppo", 1.0, 1.2)])

    assert [each.loss.mean for each in summaries] == pytest.approx([2.0, 1.1])


def test_a_test_that_nobody_is_compared_on_is_no_part_of_what_policies_cost() -> None:
    """After seeds were added to a run that was evaluated, arms with and without their test meet."""
    tested, own = (
        {"final_evaluation": Cost(1, 1, 7.0, 1.0)},
        {"final_training": Cost(5, 5, 5.0, 5.0)},
    )
    first = [arm("ppo", 0, 1.0, model_selection=held_out(1.0), costs={**own, **tested})]
    added = [arm("ppo", 1, 1.0, test=None, model_selection=held_out(1.2), costs=own)]

    (before,), (after,) = summarise(first), summarise([*first, *added])

    assert (before.split, before.compute.flops) == ("test", 12.0)
    assert (after.split, after.compute.flops) == ("model_selection", 5.0)


def test_without_any_held_out_data_there_is_nothing_to_compare() -> None:
    assert summarise(arms("random", 1.0, 2.0, test=None)) == ()
    assert summarise([]) == ()


def test_effects_stand_against_every_reference_that_the_run_has() -> None:
    given = [
        *arms("base", 4.0, 4.0),
        *arms("random", 2.0, 2.1),
        *arms("longest", 1.9, 2.2),
        *arms("full", 1.5, 1.7),
        *arms("ppo", 1.0, 1.2),
    ]

    summaries = {each.policy: each for each in summarise(given)}

    against = {
        policy: [e.reference.role for e in each.effects] for policy, each in summaries.items()
    }
    assert against == {
        "base": ["random", "full", "best_static"],
        "random": ["base", "full", "best_static"],
        "longest": ["random", "base", "full"],
        "full": ["random", "base", "best_static"],
        "ppo": ["random", "base", "full", "best_static"],
    }
    effect = summaries["ppo"].effect("full")
    assert effect is not None
    assert effect.difference == bootstrap_interval([1.0 - 1.5, 1.2 - 1.7])
    assert summaries["ppo"].effect("random") == summaries["ppo"].effects[0]
    assert summaries["random"].effect("random") is None


def test_a_policy_asked_for_by_name_is_a_reference_beside_the_others() -> None:
    given = [*arms("random", 2.0, 2.1), *arms("ppo", 1.0, 1.2), *arms("raise", 1.1, 1.5)]

    summaries = {each.policy: each for each in summarise(given, ["ppo"])}

    named = Reference("named", "ppo")
    effect = summaries["raise"].effect_against(named)
    assert effect is not None
    assert effect.difference == bootstrap_interval([1.1 - 1.0, 1.5 - 1.2])
    assert summaries["ppo"].effect_against(named) is None
    against_random = summaries["ppo"].effect("random")
    turned = summaries["random"].effect_against(named)
    assert against_random is not None
    assert turned is not None
    assert turned.adjusted_p == against_random.adjusted_p
    assert references_among(list(summaries.values())) == (Reference("random", "random"), named)


def test_several_may_be_asked_for_and_each_is_once_a_reference() -> None:
    given = [*arms("random", 2.0), *arms("longest", 1.0), *arms("ppo", 1.0), *arms("raise", 1.0)]

    asked_for = ["raise", "random", "ppo", "longest", "raise"]
    summaries = summarise(given, asked_for)

    assert references_among(summaries) == (
        Reference("random", "random"), Reference("best_static", "longest"),
        Reference("named", "raise"), Reference("named", "ppo"),
    )  # fmt: skip


def test_a_reference_that_is_no_policy_is_refused_with_the_nearest() -> None:
    with pytest.raises(RunError, match=r"'pppo'.* there are random, ppo\. Did you mean 'ppo'\?"):
        summarise([*arms("random", 2.0), *arms("ppo", 1.0)], ["pppo"])
    with pytest.raises(RunError, match=r"there are random, ppo\. Give --against once for each\."):
        summarise([*arms("random", 2.0), *arms("ppo", 1.0)], ["random,ppo"])


def test_the_verdict_is_that_against_random_after_all_policies_are_counted() -> None:
    random, ppo = arms("random", *[1.0] * 5), arms("ppo", 0.5, 0.1, 0.7, -0.1, 0.8)
    noise = [arms(f"policy {at}", 1.5, 0.6, 1.1, 0.9, 0.8 + at / 9) for at in range(7)]

    assert summarise([*random, *ppo])[1].verdict == "better"
    assert summarise([*random, *ppo, *(each for few in noise for each in few)])[1].verdict == (
        "inconclusive"
    )


def test_losses_at_equal_budgets_are_over_seeds() -> None:
    curves: dict[str, list[tuple[float, ...]]] = {
        "random": [(4.0, 3.0, 2.0), (4.0, 3.2, 2.4)],
        "ppo": [(4.0, 2.0), (4.0, 2.5)],
    }
    given = [
        arm(
            policy,
            seed,
            1.0,
            steps=len(losses) - 1,
            reward_validation_losses=losses,
            step_tokens=tuple(10 * step for step in range(len(losses))),
            step_flops=tuple(40.0 * (policy == "ppo") + 20 * step for step in range(len(losses))),
        )
        for policy, of_seeds in curves.items()
        for seed, losses in enumerate(of_seeds)
    ]

    random, ppo = summarise(given)

    assert random.at_equal_tokens == bootstrap_interval([3.0, 3.2])
    assert ppo.at_equal_tokens == bootstrap_interval([2.0, 2.5])
    assert random.at_equal_compute == bootstrap_interval([2.0, 2.4])
    assert ppo.at_equal_compute == bootstrap_interval([4.0, 4.0])


def test_a_policy_of_which_a_seed_stopped_short_has_no_loss_at_equal_budgets() -> None:
    curve = {"reward_validation_losses": (4.0, 3.0, 2.0), "step_tokens": (0, 10, 20)}
    whole = {**curve, "steps": 2, "step_flops": (0.0, 100.0, 200.0)}
    short: dict[str, Any] = {
        "steps": 1, "reward_validation_losses": (4.0, math.nan), "status": "non_finite_loss"
    }  # fmt: skip
    given = [
        *arms("random", 1.0, 1.0, 1.0, **whole),
        arm("ppo", 0, 1.0, **whole),
        arm("ppo", 1, math.nan, step_tokens=(0, 9), step_flops=(0.0, 90.0), **short),
        arm("ppo", 2, math.nan, step_tokens=(0, 7), step_flops=(0.0, 70.0), **short),
    ]

    random, ppo = summarise(given)

    assert random.at_equal_tokens == random.at_equal_compute == bootstrap_interval([2.0] * 3)
    assert (random.ended_at_tokens, random.stopped_seeds) == (None, ())
    assert (ppo.at_equal_tokens, ppo.ended_at_tokens) == (None, 7.0)
    assert (ppo.at_equal_compute, ppo.ended_at_flops) == (None, 70.0)
    assert ppo.stopped_seeds == (1, 2)


def test_without_curves_there_are_no_equal_budgets() -> None:
    (summary,) = summarise(arms("random", 1.0, 2.0))

    assert (summary.at_equal_tokens, summary.at_equal_compute) == (None, None)


def test_the_reference_has_the_name_of_the_first_random_policy() -> None:
    named = summarise([*arms("ppo", 1.0), *arms("mine", 1.0, kind="random")])

    assert reference_of(named) == "mine"
    assert reference_of(summarise(arms("ppo", 1.0))) == "random"


def test_targets_are_named_where_there_are_several() -> None:
    assert target_names(BASE) == target_names(summarise(BASE)) == ("short", "long")
    assert target_names(arms("base", 1.0)) == target_names(summarise(arms("base", 1.0))) == ()
    sealed = [arm("base", 0, 1.0, test=None), arm("base", 1, 1.0, test=None)]
    assert target_names(sealed) == ()


def test_a_policy_of_one_seed_without_random_has_no_verdict() -> None:
    (summary,) = summarise(arms("ppo", 1.0))
    assert summary.verdict == "not compared"
