"""What a report says of numbers that are set by hand."""

from __future__ import annotations

import math

import pytest
from helpers.arm_results import arm, arms, of_items

from raise_mdit.comparison import summarise
from raise_mdit.core import Cost
from raise_mdit.open_comparisons import power_sentences
from raise_mdit.report_sentences import cautions, headline, return_trends
from raise_mdit.report_words import MINUS, TIMES
from raise_mdit.results import ArmResult

RANDOM = arms("random", 1.50, 1.60, 1.70, 1.61, 1.59)
BETTER = arms("ppo", 1.00, 1.11, 1.22, 1.09, 1.08)
OPEN = arms("ppo", 1.0, 2.0, 1.5, 1.4, 1.9)


def test_the_headline_says_who_won_and_at_what_cost() -> None:
    dear = {"policy_training": Cost(flops=4e12), "final_training": Cost(flops=2e12)}
    cheap = {"final_training": Cost(flops=2e12)}
    given = [
        *arms("random", 1.5, 1.6, 1.7, 1.61, 1.59, costs=cheap),
        *arms("dsir", 1.3, 1.41, 1.5, 1.38, 1.39, costs={"final_training": Cost(flops=3e12)}),
        *arms("ppo", 1.0, 1.11, 1.22, 1.09, 1.08, costs=dear),
    ]
    first, second = headline(summarise(given))
    assert first.startswith("ppo won, lowest of 3 policies on the budget: 1.1000 [")
    assert " nats on the sealed test, " in first
    assert f", {MINUS}0.5000 [" in first
    assert " against random (better) and " in first
    assert first.endswith(" against dsir, the best static policy (better).")
    assert second == f"ppo cost 6 TFLOP in all, 3{TIMES} that of random and 2{TIMES} that of dsir."


def test_a_winner_not_told_from_the_best_static_policy_is_not_said_to_have_won() -> None:
    given = [*RANDOM, *BETTER, *arms("dsir", 1.2, 1.0, 1.12, 1.19, 1.05)]
    first, second = headline(summarise(given))
    assert first.startswith("ppo beat random and no more is settled: ")
    assert "the best static policy (inconclusive)" in first
    assert "seed" in second.partition(";")[2]


def test_where_nothing_is_settled_the_headline_says_so_and_what_would() -> None:
    given = [*RANDOM, *OPEN]
    (summary,) = summarise(given)[1:]
    effect = summary.effect("random")
    assert effect is not None
    assert effect.more_seeds is not None
    first, second = headline(summarise(given))
    assert first.startswith("Nothing is settled against random; ppo ended lowest of 2 policies")
    assert first.endswith("against random (inconclusive).")
    assert second.endswith(f"about {effect.more_seeds} more seeds would settle it against random.")


def test_one_seed_gives_no_verdict() -> None:
    first, _ = headline(summarise([arm("random", 0, 1.5), arm("ppo", 0, 1.0)]))
    assert first.startswith("One seed settles nothing; ppo ended lowest")
    assert first.endswith(f"{MINUS}0.5000 against random (no verdict).")


def test_two_seeds_get_no_number_of_seeds_that_would_settle_it() -> None:
    given = [*arms("random", 1.5, 1.7), *arms("dsir", 1.4, 1.5), *arms("ppo", 1.2, 1.0)]
    _, second = headline(summarise(given))
    assert second.endswith(
        "; a spread over 2 seeds tells too little to say what would settle it: run at least 3 more "
        "seeds first."
    )


def test_a_headline_says_where_the_winner_equals_the_best_static_policy() -> None:
    losses = (1.0, 1.2, 1.1)
    given = [*arms("random", 3.0, 3.1, 3.2), *arms("ppo", *losses), *arms("longest", *losses)]

    _, second = headline(summarise(given))

    assert second.endswith("that of longest; it ended alike with every seed as longest.")


def test_what_a_headline_asks_for_is_what_the_terminal_asks_for() -> None:
    """A number of items that is out of reach is not passed over for a number of seeds."""
    items = [0.0, 2.0] * 20 + [0.9999]
    random, ppo = (
        [
            arm(policy, seed, held.loss, test=held)
            for seed in range(3)
            for held in [of_items(losses, [1] * 41)]
        ]
        for policy, losses in (("random", [1.0] * 41), ("ppo", items))
    )
    summaries = summarise([*random, *ppo])
    (sentence,) = power_sentences(summaries)
    assert "no number of seeds or items within reason" in sentence
    assert headline(summaries)[1].endswith(
        "no practical number of seeds or items would settle what is open."
    )


def test_no_policy_below_random_is_told() -> None:
    first, _ = headline(summarise([*RANDOM, *arms("ppo", 1.8, 1.9, 2.0, 1.91, 1.87)]))
    assert first.startswith("No policy beat random; ppo came closest: ")


def test_one_of_many_is_not_crowned_by_chance() -> None:
    """One interval of twenty leaves out zero, as by chance; corrected for all, none does."""
    lucky = arms("lucky", 1.47, 1.56, 1.69, 1.57, 1.58)
    others = [
        each
        for at in range(19)
        for each in arms(f"p{at}", 1.50 + 0.03 * (-1) ** at, 1.62, 1.67, 1.63, 1.58)
    ]
    summaries = summarise([*RANDOM, *lucky, *others])
    effect = summaries[1].effect("random")
    assert effect is not None
    assert effect.difference.is_below_zero
    assert headline(summaries)[0].startswith("Nothing is settled against random; ")


def test_a_policy_without_the_budget_is_not_crowned_but_told() -> None:
    given = [*RANDOM, *BETTER, *arms("full", *[0.5] * 5), *arms("base", *[0.4] * 5)]
    summaries = summarise(given)
    assert headline(summaries)[0].startswith("ppo won")
    base, full = cautions(summaries)
    assert base.startswith("Without any training the model stands lower still, at 0.4000")
    assert full.startswith("full, which trains on all of it, ended lower still, at 0.5000")


def test_a_lower_policy_that_is_open_is_told_beside_the_winner() -> None:
    erratic = arms("ucb", 0.1, 2.9, 0.2, 1.4, 0.3)
    summaries = summarise([*RANDOM, *BETTER, *erratic])
    assert headline(summaries)[0].startswith("ppo won")
    (caution,) = cautions(summaries)
    assert caution.startswith("ucb ended lower still, at 0.9800")
    assert caution.endswith("not settled against random.")


def test_the_headline_without_random_compares_nothing() -> None:
    first, second = headline(summarise(arms("ppo", 1.0, 2.0)))
    assert "no random arm" in first
    assert second.startswith("ppo cost ")


def test_the_headline_passes_over_a_loss_that_is_not_finite() -> None:
    given = [*RANDOM, *BETTER, *arms("broken", math.nan, 0.1, 0.1, 0.1, 0.1)]
    assert headline(summarise(given))[0].startswith("ppo won")


def test_the_headline_over_several_targets_is_about_what_is_compared() -> None:
    given = [
        *arms("base", 4.0, 4.0, target_losses={"short": 4.0, "long": 2.0}),
        *arms("random", 2.0, 2.2, target_losses={"short": 2.0, "long": 1.5}),
        *arms("ppo", 3.0, 3.1, target_losses={"short": 1.0, "long": 1.0}),
    ]
    first, *_ = headline(summarise(given))
    assert ": 0.3750 [0.3750, 0.3750] of the base model's loss (mean over 2 targets)" in first
    assert f"{MINUS}0.2500 [{MINUS}0.2500, {MINUS}0.2500] against random" in first
    assert headline(summarise(given[2:])) == [
        "No policy has finished that could be compared with random."
    ]


@pytest.mark.parametrize(
    ("returns", "word"),
    [
        ((0.1, 0.2, 0.31, 0.4), "rises"),
        ((0.4, 0.3, 0.21, 0.1), "falls"),
        ((0.1, 0.3, 0.1, 0.2), "inconclusive"),
    ],
)
def test_trend_of_returns_in_words(returns: tuple[float, ...], word: str) -> None:
    given: list[ArmResult] = [arm("random", 0, 1.0), arm("ppo", 0, 1.0, episode_returns=returns)]
    (sentence,) = return_trends(given)
    quarters = f"{returns[0]:.3f} in the first quarter of the episodes and {returns[-1]:.3f} in"
    assert sentence.startswith(f"ppo: mean return {quarters} the last, higher in ")
    assert f"in {int(returns[-1] > returns[0])} of 1 runs. Fitted slope" in sentence
    assert sentence.endswith(f"within its one seed: {word}.")


def test_two_episodes_have_no_trend() -> None:
    assert return_trends([arm("ppo", 0, 1.0, episode_returns=(0.1, 0.2))]) == []
