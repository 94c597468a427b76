"""What would settle an open comparison, in words."""

from __future__ import annotations

import math
import re

import pytest
from helpers.arm_results import arm, arms, of_items

from raise_mdit.comparison import summarise
from raise_mdit.open_comparisons import power_sentences
from raise_mdit.results import ArmResult

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


def test_a_hopeless_comparison_says_so() -> None:
    (sentence,) = sentences(arms("random", 1.0, 1.0, 1.0), arms("ppo", 0.0, 2.0, 1.001))

    assert sentence == HOPELESS


def test_policies_that_end_alike_are_said_to_be() -> None:
    (sentence,) = sentences(arms("random", 1.0, 2.0, 1.5), arms("ppo", 1.0, 2.0, 1.5))

    assert sentence == "No different from random, alike with every seed: ppo."


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


def test_what_was_asked_for_by_name_has_sentences_of_its_own() -> None:
    random, rival = arms("random", 1.0, 1.0, 1.0), arms("rival", 0.2, 0.2, 0.2)
    ppo = arms("ppo", 0.19, 0.2, 0.15)

    assert power_sentences(summarise([*random, *rival, *ppo])) == ()
    (sentence,) = power_sentences(summarise([*random, *rival, *ppo], ["rival"]))
    assert re.match(
        r"Open against rival, and what would settle it, .*: ppo \d+ more seeds", sentence
    )
