"""What items add to a comparison, against the number itself with other items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from helpers.arm_results import arm, held_out, of_items
from numpy.typing import NDArray

from raise_mdit.comparison import compared_losses, summarise
from raise_mdit.item_differences import values_by_item
from raise_mdit.results import ArmResult

NUM_ITEMS = 400
TARGETS = {"notes": range(0, 300), "exam": range(300, 350), "code": range(350, NUM_ITEMS)}
RESAMPLES = 1000

Items = Mapping[str, Sequence[int]]


def experiment(targets: Items | None) -> list[ArmResult]:
    """Base and two policies with two seeds, on the same items of very different lengths."""
    rng = np.random.default_rng(4)
    tokens = rng.integers(1, 60, NUM_ITEMS)
    hardness = rng.gamma(3.0, 0.7, NUM_ITEMS) * np.where(np.arange(NUM_ITEMS) < 300, 1.0, 3.0)
    shares = {"base": (1.0, 0.0), "random": (0.8, 0.1), "ppo": (0.7, 0.2)}
    return [
        arm(
            policy,
            seed,
            0.0,
            test=of_items(
                (share * hardness + noise * rng.gamma(2.0, 1.0, NUM_ITEMS)).tolist(),
                tokens.tolist(),
                targets=targets,
            ),
        )
        for policy, (share, noise) in shares.items()
        for seed in ((0,) if policy == "base" else (0, 1))
    ]


def chosen(given: ArmResult, items: NDArray[np.int64], targets: Items | None) -> ArmResult:
    """The arm, had the test held these items, some of them more than once."""
    assert given.test is not None
    losses, tokens = (np.take(of, items) for of in (given.test.item_losses, given.test.item_tokens))
    groups = None
    if targets is not None:
        of_item = np.array(given.test.item_targets)[items]
        groups = {name: np.flatnonzero(of_item == at).tolist() for at, name in enumerate(targets)}
    test = of_items(losses.tolist(), tokens.tolist(), targets=groups)
    return arm(given.policy, given.seed, test.loss, test=test)


ONE_AND_SEVERAL = pytest.mark.parametrize("targets", [None, TARGETS], ids=["one", "several"])


@ONE_AND_SEVERAL
def test_the_mean_over_items_is_what_an_arm_is_compared_by(targets: Items | None) -> None:
    arms = experiment(targets)

    means = {key: values.mean() for key, values in values_by_item(arms, "test").items()}

    assert means == pytest.approx(compared_losses(arms), rel=1e-12)
    assert len(means) == 5


@ONE_AND_SEVERAL
def test_other_items_would_move_means_as_they_would_move_the_comparison(
    targets: Items | None,
) -> None:
    arms = experiment(targets)
    by_item = values_by_item(arms, "test")
    rng = np.random.default_rng(9)

    real, ours = [], []
    for _ in range(RESAMPLES):
        items = rng.integers(0, NUM_ITEMS, NUM_ITEMS)
        real.append(compared_losses([chosen(each, items, targets) for each in arms]))
        ours.append({key: values[items].mean() for key, values in by_item.items()})

    def spread(draws: list[dict[tuple[str, int], float]], *signs: tuple[str, float]) -> float:
        return float(np.std([sum(sign * draw[key, 1] for key, sign in signs) for draw in draws]))

    for signs in ([("random", 1.0)], [("ppo", 1.0)], [("ppo", 1.0), ("random", -1.0)]):
        assert spread(ours, *signs) == pytest.approx(spread(real, *signs), rel=0.06)


@ONE_AND_SEVERAL
def test_leaving_out_an_item_moves_the_comparison_by_its_value(targets: Items | None) -> None:
    arms = experiment(targets)
    whole, by_item = compared_losses(arms), values_by_item(arms, "test")
    values = by_item["ppo", 0]

    for item in (0, 17, 320, 399):
        rest = np.delete(np.arange(NUM_ITEMS), item)
        moved = compared_losses([chosen(each, rest, targets) for each in arms])["ppo", 0]
        influence = values[item] - values.mean()
        assert moved - whole["ppo", 0] == pytest.approx(
            -influence / (NUM_ITEMS - 1), rel=0.12, abs=1e-6
        )


def test_the_base_model_is_its_own_measure_whatever_the_items() -> None:
    arms = experiment(TARGETS)

    np.testing.assert_allclose(values_by_item(arms, "test")["base", 0], 1.0, rtol=1e-12)


def test_long_items_count_for_more() -> None:
    test = of_items([1.0, 4.0], [3, 1])

    found = values_by_item([arm("ppo", 0, test.loss, test=test)], "test")["ppo", 0]

    # The mean is (3 + 4) / 4; an item's value is that plus 2 * share * (its loss - mean).
    mean = 7 / 4
    np.testing.assert_allclose(
        found, [mean + 2 * 3 / 4 * (1 - mean), mean + 2 * 1 / 4 * (4 - mean)]
    )


def test_arms_without_items_and_losses_that_are_not_finite_have_no_values() -> None:
    known = arm("random", 0, 1.5, test=of_items([1.0, 2.0], [1, 1]))
    lost = arm("ppo", 0, np.inf, test=of_items([np.inf, 2.0], [1, 1]))
    single = arm("full", 0, 1.0, test=of_items([1.0], [1]))
    unopened = arm("ifd", 0, 1.0, test=None)

    found = values_by_item([known, arm("old", 0, 1.0), lost, single, unopened], "test")

    assert [*found] == [("random", 0)]


def test_several_targets_have_no_values_without_a_base_that_has_items() -> None:
    base, *others = experiment(TARGETS)
    old = arm("base", 0, 1.0, target_losses=dict.fromkeys(TARGETS, 1.0))

    assert values_by_item(others, "test") == {}
    assert values_by_item([old, *others], "test") == {}
    assert values_by_item([base, *others], "test") != {}


def test_values_are_of_the_split_that_is_asked_for() -> None:
    given = arm(
        "ppo",
        0,
        1.5,
        test=of_items([1.0, 2.0], [1, 1]),
        model_selection=of_items([5.0, 5.0], [1, 1]),
    )
    random = arm("random", 0, 1.0, model_selection=held_out(2.0))

    assert values_by_item([given, random], "model_selection").keys() == {("ppo", 0)}
    np.testing.assert_allclose(values_by_item([given], "model_selection")["ppo", 0], [5.0, 5.0])


def test_policies_that_draw_nothing_are_not_told_apart_by_seeds_alone() -> None:
    """Their difference is the same on each seed; on items it is luck."""
    rng = np.random.default_rng(3)
    losses = {policy: rng.gamma(2.0, 1.0, 50).tolist() for policy in ("random", "longest")}
    arms = [
        arm(policy, seed, 0.0, test=of_items(items, [5] * 50))
        for policy, items in losses.items()
        for seed in range(3)
    ]

    effect = summarise(arms)[1].effect("random")

    assert effect is not None
    assert effect.difference.low == effect.difference.high == effect.difference.mean != 0
    assert effect.verdict == "inconclusive"
    assert effect.more_seeds == 0
    assert effect.more_items is None or effect.more_items > 0


def test_policies_that_draw_nothing_are_told_apart_where_items_agree() -> None:
    hardness = np.random.default_rng(3).gamma(2.0, 1.0, 50)
    arms = [
        arm(policy, seed, 0.0, test=of_items((share * hardness).tolist(), [5] * 50))
        for policy, share in (("random", 1.0), ("longest", 0.9))
        for seed in range(3)
    ]

    assert summarise(arms)[1].verdict == "better"
