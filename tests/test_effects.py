"""Effects of policies against references: pairs, corrected p-values, words and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from helpers.arm_results import arm, arms, held_out
from numpy.typing import NDArray
from scipy import stats

from raise_mdit.bootstrap import SMALLEST_P, bootstrap_interval, holm, zero_mean_p_value
from raise_mdit.comparison import references, summarise
from raise_mdit.effects import MOST_ITEMS, MOST_SEEDS, Effect, Reference, effects_of, what_it_takes
from raise_mdit.results import ArmResult
from raise_mdit.statistics import Interval

RANDOM = [Reference("random", "random")]
SEEDS = 5
DRAWN = np.random.default_rng(0).normal(size=(8, SEEDS))


def losses_of(**policies: Sequence[float]) -> dict[tuple[str, int], float]:
    """Losses by policy and seed, with seeds from 0."""
    return {
        (policy, seed): loss
        for policy, losses in policies.items()
        for seed, loss in enumerate(losses)
    }


def effect_of(differences: Sequence[float], items: NDArray[np.float64] | None = None) -> Effect:
    """Of a policy that differs from random by that, and on items alike on each seed."""
    zeros = [0.0] * len(differences)
    by_item = {}
    if items is not None:
        for seed in range(len(differences)):
            by_item["ppo", seed] = items
            by_item["random", seed] = np.zeros(len(items))
    found = effects_of(losses_of(random=zeros, ppo=differences), by_item, RANDOM)
    (effect,) = found["ppo"]
    return effect


# --- Pairs.


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ by far more than policies do: unpaired, nothing could be said."""
    losses = losses_of(random=[1.0, 5.0, 9.0, 3.0, 7.0])
    ppo = {("ppo", seed): losses["random", seed] - 0.1 - seed / 1000 for seed in (4, 2, 0, 3, 1)}

    (effect,) = effects_of({**losses, **ppo}, {}, RANDOM)["ppo"]

    assert effect.difference == bootstrap_interval(
        [ppo["ppo", seed] - losses["random", seed] for seed in (4, 2, 0, 3, 1)]
    )
    assert effect.verdict == "better"


def test_seeds_that_only_one_of_both_has_are_left_out() -> None:
    losses = {
        ("random", 0): 1.0, ("random", 1): 2.0, ("random", 7): 100.0,
        ("ppo", 9): -100.0, ("ppo", 1): 1.4, ("ppo", 0): 0.5,
    }  # fmt: skip

    (effect,) = effects_of(losses, {}, RANDOM)["ppo"]

    assert effect.difference == bootstrap_interval([1.4 - 2.0, 0.5 - 1.0])


def test_policies_without_a_common_seed_have_no_effect() -> None:
    found = effects_of({("random", 0): 1.0, ("ppo", 1): 1.0}, {}, RANDOM)

    assert found == {"random": (), "ppo": ()}


def test_each_reference_has_its_effects_and_none_against_itself() -> None:
    losses = losses_of(base=[3.0, 3.0], random=[2.0, 2.1], ppo=[1.0, 1.2])

    found = effects_of(losses, {}, [*RANDOM, Reference("base", "base")])

    against = {policy: [each.reference for each in of] for policy, of in found.items()}
    assert against == {
        "base": [("random", "random")],
        "random": [("base", "base")],
        "ppo": [("random", "random"), ("base", "base")],
    }
    assert found["base"][0].difference.mean == -found["random"][0].difference.mean


def test_items_are_paired_too_and_averaged_over_seeds() -> None:
    rng = np.random.default_rng(1)
    policies = ("random", "ppo")
    by_item = {(policy, seed): rng.normal(size=30) for policy in policies for seed in (0, 1)}
    losses = {key: float(values.mean()) for key, values in by_item.items()}

    (effect,) = effects_of(losses, by_item, RANDOM)["ppo"]

    apart = [by_item["ppo", seed] - by_item["random", seed] for seed in (0, 1)]
    assert effect.over_items == bootstrap_interval(((apart[0] + apart[1]) / 2).tolist())
    assert effect.over_items is not None
    assert effect.over_items.mean == pytest.approx(effect.difference.mean)
    assert effect.over_items.num_samples == 30


def test_without_the_items_of_every_seed_only_seeds_are_asked() -> None:
    losses = losses_of(random=[0.0, 0.0, 0.0], ppo=[1.0, 1.1, 1.2])
    by_item = {key: np.arange(9.0) for key in losses if key != ("random", 2)}

    (effect,) = effects_of(losses, by_item, RANDOM)["ppo"]

    assert effect.over_items is None
    assert effect.p_value == zero_mean_p_value([1.0, 1.1, 1.2])


# --- p-values.


def test_the_larger_p_value_counts() -> None:
    clear, unclear = [-0.5, -0.6, -0.55, -0.62, -0.49], [-0.5, 0.6, -0.55, 0.62, -0.2]

    by_seeds = effect_of(unclear, np.array(clear * 9))
    by_items = effect_of(clear, np.array(unclear * 2))

    assert by_seeds.p_value == zero_mean_p_value(unclear)
    assert by_items.p_value == zero_mean_p_value(unclear * 2)
    assert by_seeds.verdict == by_items.verdict == "inconclusive"
    assert effect_of(clear, np.array(clear * 9)).verdict == "better"


def test_p_values_are_corrected_over_policies_and_against_each_reference_apart() -> None:
    shifts = [0.0, 0.0, 0.2, -0.5, -1.0, -2.0, 1.0, 0.4]
    losses = {
        (f"policy {at}", seed): float(shift + 0.3 * DRAWN[at, seed])
        for at, shift in enumerate(shifts)
        for seed in range(SEEDS)
    }
    references = [Reference("random", "policy 0"), Reference("base", "policy 1")]

    found = effects_of(losses, {}, references)

    for place, reference in enumerate(references):
        others = [f"policy {at}" for at in range(place + 1, 8)]  # two references meet once
        p_values = []
        for policy in others:
            apart = [losses[policy, seed] - losses[reference.policy, seed] for seed in range(SEEDS)]
            p = zero_mean_p_value(apart)
            assert p is not None
            p_values.append(p)
        of = [
            next(each for each in found[policy] if each.reference == reference) for policy in others
        ]
        assert [each.p_value for each in of] == p_values
        assert [each.adjusted_p for each in of] == holm(p_values)


def test_of_many_policies_one_looks_good_by_chance_and_is_not_called_better() -> None:
    alone = [-0.5, -0.9, -0.3, -1.1, -0.2]
    rest = {f"other {at}": (DRAWN[at] - DRAWN[at].mean()).tolist() for at in range(7)}
    zeros = [0.0] * SEEDS

    (single,) = effects_of(losses_of(random=zeros, ppo=alone), {}, RANDOM)["ppo"]
    (among,) = effects_of(losses_of(random=zeros, ppo=alone, **rest), {}, RANDOM)["ppo"]

    assert single.verdict == "better"
    assert single.p_value == single.adjusted_p == among.p_value
    assert among.adjusted_p is not None
    assert among.p_value is not None
    assert among.adjusted_p == pytest.approx(8 * among.p_value)
    assert among.difference.is_below_zero
    assert among.verdict == "inconclusive"


def test_what_has_no_p_value_is_not_counted_among_the_compared() -> None:
    zeros, clear = [0.0] * 3, [-0.5, -0.6, -0.55]
    losses = losses_of(random=zeros, ppo=clear, lost=[1.0, math.nan, 1.0], short=[2.0])

    found = effects_of(losses, {}, RANDOM)

    assert found["ppo"][0].adjusted_p == found["ppo"][0].p_value is not None
    assert found["lost"][0].adjusted_p is found["lost"][0].p_value is None


# --- Words.


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-0.2, -0.19, -0.21], "better"),
        ([0.2, 0.19, 0.21], "worse"),
        ([-0.5, 0.5, -0.1], "inconclusive"),
        ([0.0, 0.0, 0.0], "inconclusive"),
        ([-0.5], "one seed"),
        ([math.nan], "one seed"),
        ([-0.5, math.nan], "inconclusive"),
        ([-0.5, -math.inf, -0.6], "inconclusive"),
    ],
)
def test_the_word_for_a_difference(differences: list[float], verdict: str) -> None:
    assert effect_of(differences).verdict == verdict


def test_one_seed_has_a_difference_and_an_interval_over_items() -> None:
    items = np.array([-0.5, -0.3, -0.4, -0.6])
    effect = effect_of([-0.45], items)

    assert effect.difference == Interval(-0.45, None, None, 1)
    assert effect.over_items == bootstrap_interval(items.tolist())
    assert (effect.p_value, effect.adjusted_p) == (None, None)
    assert (effect.more_seeds, effect.more_items) == (None, None)


def test_a_difference_without_spread_is_beyond_doubt_for_seeds_alone() -> None:
    assert effect_of([-0.25, -0.25]).p_value == SMALLEST_P
    assert effect_of([-0.25, -0.25]).verdict == "better"

    among_items = effect_of([-0.25, -0.25], np.array([-2.0, 1.5, 0.75, -1.25]))
    assert among_items.verdict == "inconclusive"
    assert among_items.p_value is not None
    assert among_items.p_value > 0.5


# --- What would settle it.


def seeds_by_hand(differences: Sequence[float], level: float) -> int:
    """Seeds in all at which Student's interval would leave out zero."""
    spread, mean = np.std(differences, ddof=1), abs(np.mean(differences))
    return next(
        size
        for size in range(2, MOST_SEEDS + 1)
        if stats.t.isf(level / 2, size - 1) * spread / math.sqrt(size) < mean
    )


def test_more_seeds_are_those_that_students_interval_lacks() -> None:
    open_ = [-0.5, 0.1, -0.2]
    effect = effect_of(open_)

    assert effect.verdict == "inconclusive"
    assert effect.more_seeds == seeds_by_hand(open_, 0.05) - 3 > 0
    assert effect.more_items is None


def test_more_policies_take_more_seeds() -> None:
    open_ = [-0.5, 0.1, -0.2]
    losses = losses_of(random=[0.0] * 3, ppo=open_, other=[0.1, -0.1, 0.05], third=[1.0, 1.1, 1.3])

    (effect,) = effects_of(losses, {}, RANDOM)["ppo"]

    assert effect.more_seeds == seeds_by_hand(open_, 0.05 / 3) - 3


def test_where_seeds_agree_only_items_are_lacking() -> None:
    items = np.array([-2.0, 1.5, 0.75, -1.25])
    effect = effect_of([-0.25, -0.25], items)

    assert effect.more_seeds == 0
    assert effect.more_items == seeds_by_hand(items.tolist(), 0.05) - 4


def test_where_items_agree_only_seeds_are_lacking() -> None:
    open_ = [-0.5, 0.1, -0.2]
    effect = effect_of(open_, np.linspace(-0.25, -0.15, 20))

    assert effect.more_seeds == seeds_by_hand(open_, 0.05) - 3
    assert effect.more_items == 0


def test_what_no_number_within_reason_settles_has_none() -> None:
    assert effect_of([-1.0, 1.0, 0.3]).more_seeds == seeds_by_hand([-1.0, 1.0, 0.3], 0.05) - 3
    assert effect_of([-1.0, 1.0, 0.1]).more_seeds is None  # 3,600 at a mean of 1 / 30 of the spread
    assert effect_of([0.0, 0.0]).more_seeds is None


def test_seeds_that_agree_are_not_blamed_for_items_that_never_will() -> None:
    items = np.tile([-1.0, 1.0], 50) - 1e-4
    effect = effect_of([-1e-4, -1e-4], items)

    assert seeds_by_hand([-1e-4, -1e-4], 0.05) == 2
    assert effect.more_items is None
    assert np.std(items) / 1e-4 * 1.96 > math.sqrt(MOST_ITEMS)
    assert effect.more_seeds == 0


def test_one_more_seed_is_told_where_the_bootstrap_alone_is_in_doubt() -> None:
    """Student's interval of these skewed samples leaves out zero, the bootstrap's does not."""
    skewed = [-0.28, 0.12, -0.4, -0.37, -0.35, -0.13]
    effect = effect_of(skewed)

    assert effect.verdict == "inconclusive"
    assert seeds_by_hand(skewed, 0.05) <= len(skewed)
    assert effect.more_seeds == 1


def test_settled_comparisons_lack_nothing() -> None:
    effect = effect_of([-0.2, -0.19, -0.21], np.linspace(-0.25, -0.15, 20))

    assert effect.verdict == "better"
    assert (effect.more_seeds, effect.more_items) == (None, None)


@pytest.mark.parametrize(("differences", "first"), [([-0.5, 0.1], 3), ([-0.5], 4)])
def test_from_fewer_than_three_seeds_that_differ_no_number_of_seeds_is_told(
    differences: list[float], first: int
) -> None:
    effect = effect_of(differences, np.array([-2.0, 1.5, 0.75, -1.25]))

    assert effect.more_seeds is None
    assert effect.seeds_first == first == 5 - len(differences)
    assert what_it_takes(effect) == f"at least {first} more seeds first"


def test_three_seeds_are_enough_for_a_number() -> None:
    effect = effect_of([-0.5, 0.1, -0.2])

    assert effect.seeds_first == 0
    assert what_it_takes(effect) == f"{effect.more_seeds} more seeds"


def test_two_seeds_that_agree_leave_only_items_to_be_told() -> None:
    effect = effect_of([-0.25, -0.25], np.array([-2.0, 1.5, 0.75, -1.25]))

    assert effect.seeds_first == 0
    assert what_it_takes(effect) == f"{effect.more_items} more held-out items"


def test_what_it_takes_names_seeds_and_items() -> None:
    effect = effect_of([-0.5, 0.1, -0.2], np.array([-2.0, 1.5, 0.75, -1.05]))

    assert effect.more_seeds is not None
    assert effect.more_items is not None
    assert what_it_takes(effect) == (
        f"{effect.more_seeds} more seeds and {effect.more_items} more held-out items"
    )
    skewed = effect_of([-0.28, 0.12, -0.4, -0.37, -0.35, -0.13])
    assert what_it_takes(skewed) == "1 more seed"


@pytest.mark.parametrize(
    ("differences", "items"),
    [
        ([-1.0, 1.0, 0.1], None),
        ([-1e-4, -1e-4], np.tile([-1.0, 1.0], 50) - 1e-4),
    ],
)
def test_what_no_number_within_reason_settles_is_out_of_reach(
    differences: list[float], items: NDArray[np.float64] | None
) -> None:
    assert what_it_takes(effect_of(differences, items)) == "out of reach"


def test_policies_without_any_difference_are_alike_and_need_nothing() -> None:
    effect = effect_of([0.0, 0.0], np.zeros(9))

    assert what_it_takes(effect) == "alike with every seed"
    assert not effect.can_be_settled
    assert not effect.is_out_of_reach
    assert not effect_of([0.0, 1e-9]).is_alike
    assert not effect_of([0.0]).is_alike


@pytest.mark.parametrize(
    "differences", [[-0.2, -0.19, -0.21], [-0.5, math.nan], [-0.5, 0.1, math.inf], [math.nan]]
)
def test_what_is_settled_or_not_finite_takes_nothing(differences: list[float]) -> None:
    assert what_it_takes(effect_of(differences)) == ""


# --- References.


def static(
    policy: str, test: float, *, selection: float | None, validation: float
) -> list[ArmResult]:
    """Two seeds of a policy that ranks the pool once."""
    return arms(
        policy,
        test,
        test + 0.01,
        kind="ifd",
        model_selection=None if selection is None else held_out(selection),
        reward_validation_losses=(9.0, validation),
    )


def test_the_best_static_policy_is_chosen_without_the_test() -> None:
    lucky = static("lucky", 1.0, selection=2.0, validation=1.0)
    sound = static("sound", 1.5, selection=1.9, validation=2.0)
    ppo = arms("ppo", 1.2, 1.3, model_selection=held_out(1.0))

    assert references([*lucky, *sound, *ppo]) == {"best_static": "sound"}
    effect = summarise([*lucky, *sound, *ppo])[-1].effect("best_static")
    assert effect is not None
    assert effect.difference.mean == pytest.approx((1.2 + 1.3 - 1.5 - 1.51) / 2)


def test_without_model_selection_of_all_reward_validation_chooses() -> None:
    first = static("first", 1.0, selection=None, validation=1.4)
    second = static("second", 0.5, selection=None, validation=1.5)
    half = static("half", 0.5, selection=0.1, validation=1.6)

    assert references([*first, *second])["best_static"] == "first"
    assert references([*second, *half, *first])["best_static"] == "first"


def test_a_loss_that_is_not_finite_is_not_the_best() -> None:
    lost = static("lost", 0.1, selection=math.nan, validation=0.1)
    sound = static("sound", 1.5, selection=1.9, validation=2.0)

    assert references([*lost, *sound])["best_static"] == "sound"


def test_the_best_static_policy_over_several_targets_has_the_least_mean_share_of_base() -> None:
    def on(policy: str, kind: str, short: float, long: float) -> ArmResult:
        losses = {"short": short, "long": long}
        return arm(
            policy,
            0,
            1.0,
            kind=kind,
            model_selection=held_out(sum(losses.values()), target_losses=losses),
        )

    base, shorter = on("base", "base", 1.0, 10.0), on("shorter", "less", 0.5, 9.0)
    longer = on("longer", "dsir", 0.9, 8.0)

    assert references([base, longer, shorter])["best_static"] == "shorter"


def test_references_are_the_first_of_their_kind() -> None:
    given = [
        *arms("mine", 1.0, kind="random"),
        *arms("random", 1.0),
        *arms("untrained", 1.0, kind="base"),
        *arms("all", 1.0, kind="full"),
    ]

    assert references(given) == {"random": "mine", "base": "untrained", "full": "all"}


def test_two_references_are_compared_once_and_the_word_holds_both_ways() -> None:
    """Held against few rivals the pair would pass, held against many it does not: one word."""
    spread = [0.9, 1.0, 1.3, 0.8, 1.1]
    losses = losses_of(random=spread, base=[each + 0.5 for each in DRAWN[0] / 3])
    rivals = losses_of(**{f"p{at}": list(spread + row) for at, row in enumerate(DRAWN)})
    found = effects_of({**losses, **rivals}, {}, [*RANDOM, Reference("base", "base")])

    (there,) = (effect for effect in found["base"] if effect.reference.role == "random")
    (back,) = (effect for effect in found["random"] if effect.reference.role == "base")

    assert back.reference.policy == "base"
    assert (back.p_value, back.adjusted_p) == (there.p_value, there.adjusted_p)
    assert back.difference.mean == -there.difference.mean
    assert (back.difference.low, back.difference.high) == (
        -(there.difference.high or math.nan),
        -(there.difference.low or math.nan),
    )
    opposite = {"better": "worse", "worse": "better"}
    assert back.verdict == opposite.get(there.verdict, there.verdict)
    alone = effects_of(losses, {}, [Reference("base", "base")])["random"][0]
    assert alone.adjusted_p is not None
    assert there.adjusted_p is not None
    assert alone.adjusted_p < there.adjusted_p
