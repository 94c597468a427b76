"""How policies compare over their seeds."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from helpers.arm_results import arm, arms, held_out, of_items

from raise_mdit.bootstrap import bootstrap_interval
from raise_mdit.comparison import (
    compared_losses,
    cost_of_choosing,
    power_sentences,
    reference_of,
    summarise,
    target_names,
)
from raise_mdit.core import Cost
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
    assert summary.verdict == "inconclusive"


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

    assert (ppo.compared, ppo.difference_to_random, ppo.verdict) == (None, None, "inconclusive")
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

    against = {policy: [e.against for e in each.effects] for policy, each in summaries.items()}
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


# What would settle an open comparison, in words.


HOPELESS = (
    "Open against random, and no number of seeds or items within reason would settle it, as "
    "difference and spread are: ppo."
)


def sentences(random: list[ArmResult], ppo: list[ArmResult]) -> tuple[str, ...]:
    return power_sentences(summarise([*random, *ppo]))


def test_an_open_comparison_says_how_many_seeds_would_settle_it() -> None:
    random, ppo = arms("random", 1.0, 1.0, 1.0), arms("ppo", 0.5, 1.1, 0.8)
    effect = summarise([*random, *ppo])[1].effects[0]
    assert effect.more_seeds is not None

    assert sentences(random, ppo) == (
        "Open against random, and what would settle it, were difference and spread as they are: "
        f"ppo {effect.more_seeds} more seeds. Add seeds with raise-mdit run RUN_DIR "
        "--more-seeds N.",
    )


def on_items(policy: str, *by_seed: list[float]) -> list[ArmResult]:
    """Arms whose test has these items, of one token each."""
    tests = [of_items(losses, [1] * len(losses)) for losses in by_seed]
    return [arm(policy, seed, test.loss, test=test) for seed, test in enumerate(tests)]


def test_an_open_comparison_says_how_many_items_would_settle_it() -> None:
    random, ppo = (
        on_items("random", *[[1.0, 1.0, 1.0]] * 2),
        on_items("ppo", *[[0.1, 1.2, 0.9]] * 2),
    )

    (sentence,) = sentences(random, ppo)

    assert re.search(r"they are: ppo \d+ more held-out items\.$", sentence)


def test_seeds_and_items_may_both_be_lacking() -> None:
    random = on_items("random", *[[1.0, 1.0, 1.0]] * 3)
    ppo = on_items("ppo", [0.1, 1.2, 0.9], [0.5, 1.2, 1.0], [0.1, 1.3, 1.5])

    (sentence,) = sentences(random, ppo)

    assert re.search(r"ppo \d+ more seeds and \d+ more held-out items\. Add", sentence)


@pytest.mark.parametrize("losses", [(0.0, 2.0, 1.001), (1.0, 1.0, 1.0)])
def test_a_hopeless_comparison_says_so(losses: tuple[float, ...]) -> None:
    (sentence,) = sentences(arms("random", 1.0, 1.0, 1.0), arms("ppo", *losses))

    assert sentence == HOPELESS


def test_items_that_never_settle_it_make_it_hopeless_though_seeds_agree() -> None:
    near = [0.0, 2.0] * 20 + [0.9999]
    random, ppo = on_items("random", *[[1.0] * 41] * 2), on_items("ppo", near, near)

    (sentence,) = sentences(random, ppo)

    assert sentence == HOPELESS


def test_open_comparisons_that_can_be_settled_stand_apart_from_those_that_cannot() -> None:
    random, ppo = arms("random", 1.0, 1.0, 1.0), arms("ppo", 0.5, 1.1, 0.8)
    lost, best = arms("lost", 0.0, 2.0, 1.001), arms("best", 0.2, 0.21, 0.19)

    first, second = power_sentences(summarise([*random, *ppo, *lost, *best]))

    assert re.search(r"they are: ppo \d+ more seeds\. Add", first)
    assert second == HOPELESS.replace("ppo", "lost")


def test_two_seeds_that_differ_give_no_number_but_ask_for_more_seeds_first() -> None:
    random = arms("random", 1.0, 1.4, 1.1)
    late, best = arms("late", 0.5, 1.3), arms("best", 0.2, 0.5, 0.28)

    (sentence,) = power_sentences(summarise([*random, *arms("ppo", 0.9, 1.5), *late, *best]))

    assert sentence == (
        "Open against random, and a spread over 2 seeds tells too little to say what would settle "
        "it: ppo, late. Run at least 3 more seeds first, with raise-mdit run RUN_DIR "
        "--more-seeds 3."
    )


def test_one_seed_asks_for_four_more() -> None:
    (sentence,) = sentences(arms("random", 1.0), arms("ppo", 0.5))

    assert sentence.startswith("Open against random, and one seed has no spread to say what would")
    assert sentence.endswith(
        "Run at least 4 more seeds first, with raise-mdit run RUN_DIR --more-seeds 4."
    )


@pytest.mark.parametrize("losses", [(0.5, 0.51, 0.49), (0.5, math.nan)])
def test_what_is_settled_or_cannot_be_told_has_no_sentence(losses: tuple[float, ...]) -> None:
    assert sentences(arms("random", 1.0, 1.0, 1.0), arms("ppo", *losses)) == ()


def test_a_policy_of_one_seed_without_random_has_no_verdict() -> None:
    (summary,) = summarise(arms("ppo", 1.0))
    assert summary.verdict == "one seed"
