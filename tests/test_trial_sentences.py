"""What is said of rankings that were tried and of episodes that were played again."""

from __future__ import annotations

import pytest
from helpers.arm_results import arm

from raise_mdit.results import ArmResult, RankingTrial
from raise_mdit.trial_sentences import played_again, trial_sentences

ALONE = [arm("dsir", 0, 1.0), arm("shortest", 0, 1.0)]
"""The rankings as policies of their own."""


def tried(seed: int, dsir: float, shortest: float, **fields: object) -> ArmResult:
    trials = (RankingTrial("dsir", dsir), RankingTrial("shortest", shortest))
    return arm("best", seed, 1.0, trials=trials, **fields)


def test_what_was_tried_and_followed() -> None:
    given = [arm("random", 0, 1.0), *(tried(seed, 0.1, 0.3, kind="best_of") for seed in (0, 1))]

    assert trial_sentences(given) == [
        "best tried rankings (mean return: dsir 0.100, shortest 0.300), followed shortest."
    ]


def test_a_policy_that_began_as_what_is_no_policy_here_cannot_be_told_from_it() -> None:
    began = [tried(0, 0.1, 0.2), tried(1, 0.3, 0.2)]
    missing = " No policy here is shortest or dsir: add it to see what learning adds."

    assert trial_sentences(began)[0].endswith(missing)
    one = trial_sentences([*began, arm("mine", 0, 1.0, kind="dsir")])[0]
    assert one.endswith(" No policy here is shortest: add it to see what learning adds.")
    assert "No policy" not in trial_sentences([*began, *ALONE])[0]


def test_turns_of_rankings_are_known_by_their_kind() -> None:
    trials = (RankingTrial("dsir and shortest in turn", 0.2), RankingTrial("dsir", 0.1))
    began = arm("best", 0, 1.0, trials=trials)

    assert "No policy here is dsir and shortest in turn" in trial_sentences([began, *ALONE])[0]
    turns = arm("both", 0, 1.0, kind="in_turn")
    assert "No policy" not in trial_sentences([began, turns])[0]


def test_seeds_that_took_different_rankings() -> None:
    given = [tried(0, 0.1, 0.2), tried(1, 0.3, 0.2), tried(2, 0.1, 0.2), *ALONE]

    assert trial_sentences(given) == [
        "best tried rankings (mean return: dsir 0.167, shortest 0.200), began as shortest (s0 s2), "
        "dsir (s1)."
    ]


def test_which_episode_was_played_again_is_said_by_seed() -> None:
    given = [
        tried(0, 0.1, 0.2, episode_returns=(0.3, 0.1), greedy_return=0.25),
        tried(1, 0.1, 0.2, episode_returns=(0.3, 0.1), greedy_return=0.5),
        *ALONE,
    ]

    (sentence,) = trial_sentences(given)

    assert sentence.endswith(
        "began as shortest and in the end played episode 1 (s0), the highest scores (s1) again."
    )


def test_which_weights_were_kept_is_said_by_seed() -> None:
    first = arm("ppo", 0, 1.0, kept_updates=0)
    later = arm("ppo", 1, 1.0, kept_updates=6)
    said = "ppo kept the weights that it began with, as no later ones gained more"

    assert trial_sentences([first]) == [f"{said}."]
    assert trial_sentences([first, later]) == [f"{said} (s0), the weights of update 6 (s1)."]


def test_of_a_policy_that_plays_an_episode_again_weights_are_not_told() -> None:
    """They pick nothing any more."""
    replayed = arm("ppo", 0, 1.0, episode_returns=(0.3,), greedy_return=0.1, kept_updates=0)

    assert trial_sentences([replayed]) == ["ppo in the end played episode 1 again."]


@pytest.mark.parametrize(
    ("episodes", "greedy", "expected"),
    [
        ((0.1, 0.4, 0.4), 0.4, "episode 2"),
        ((0.1, 0.2), 0.2, "the trial of shortest"),  # of equals the first
        ((), 0.9, "the highest scores"),
        ((0.9,), None, None),
    ],
)
def test_the_first_of_the_best_episodes_is_played_again(
    episodes: tuple[float, ...], greedy: float | None, expected: str | None
) -> None:
    given = tried(0, 0.1, 0.2, episode_returns=episodes, greedy_return=greedy)

    assert played_again(given) == expected


def test_who_tried_nothing_is_not_spoken_of() -> None:
    assert trial_sentences([arm("ppo", 0, 1.0, episode_returns=(0.1, 0.2))]) == []
