"""Policies that do not learn: cases by hand, and laws of use and of chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from raise_mdit.agents.static import StaticPolicy, random_policy, ranked_policy, signal_policy
from raise_mdit.core import Observation, SelectionPolicy

RANKS = np.array([3, 0, 4, 1, 2])
"""Of five candidates: row 1 is the best, then 3, 4, 0, 2."""


def window(
    rows: Sequence[int], *, selected: Sequence[int] | None = None, num_slots: int | None = None
) -> Observation:
    """What static policies look at; slots beyond the rows are masked and repeat row 0."""
    num_slots = num_slots or len(rows)
    padding = num_slots - len(rows)
    return {
        "window": np.array([*rows, *[0] * padding], np.int64),
        "selected": np.array([*(selected or [0] * len(rows)), *[0] * padding], np.float32),
        "mask": np.array([*[1] * len(rows), *[0] * padding], np.int8),
    }


def batch_of(observations: Sequence[Observation]) -> Observation:
    return {key: np.stack([one[key] for one in observations]) for key in observations[0]}


def ranked(num_picks: int) -> StaticPolicy:
    return ranked_policy(RANKS, num_picks=num_picks)


def random(num_picks: int, seed: int = 0) -> StaticPolicy:
    return random_policy(np.random.default_rng(seed), num_picks=num_picks)


def picks_of(policy: SelectionPolicy, observation: Observation) -> list[int]:
    action, state = policy.predict(observation)
    assert state is None
    assert action.dtype == np.int64
    picked: list[int] = action.tolist()
    return picked


def test_the_best_ranks_are_picked_in_order() -> None:
    assert picks_of(ranked(3), window([0, 1, 2, 3, 4])) == [1, 3, 4]


def test_picks_are_slots_of_the_window_and_not_rows_of_the_pool() -> None:
    assert picks_of(ranked(2), window([2, 4, 3])) == [2, 1]


def test_a_used_candidate_waits_for_every_unused_one() -> None:
    used_the_best = window([0, 1, 2, 3, 4], selected=[0, 1, 0, 1, 0])

    assert picks_of(ranked(4), used_the_best) == [4, 0, 2, 1]


def test_among_used_candidates_the_least_used_come_first() -> None:
    assert picks_of(ranked(2), window([1, 3, 2], selected=[3, 2, 1])) == [2, 1]


def test_a_masked_slot_is_not_picked_though_it_repeats_the_best_row() -> None:
    best_is_row_zero = ranked_policy(np.array([0, 1, 2]), num_picks=2)

    assert picks_of(best_is_row_zero, window([1, 2], num_slots=5)) == [0, 1]


def test_a_ranked_policy_repeats_itself() -> None:
    policy, observation = ranked(3), window([4, 3, 2, 1, 0])

    assert picks_of(policy, observation) == picks_of(policy, observation)


def test_a_batch_gets_one_action_for_each_window() -> None:
    first, second = window([0, 1, 2]), window([4, 3, 2], selected=[0, 1, 0])

    action, _ = ranked(2).predict(batch_of([first, second]))

    assert action.tolist() == [picks_of(ranked(2), first), picks_of(ranked(2), second)]


def test_a_batch_of_random_actions_draws_each_anew() -> None:
    windows = batch_of([window(list(range(30)))] * 2)

    action, _ = random(10).predict(windows)

    assert action.shape == (2, 10)
    assert action[0].tolist() != action[1].tolist()


def test_the_state_is_passed_through() -> None:
    state = (np.array([1.0]),)

    _, found = ranked(1).predict(window([0, 1]), state)

    assert found is state


@pytest.mark.parametrize("kind", ["ranked", "random"])
@given(
    num_candidates=st.integers(1, 12),
    num_picks=st.integers(1, 12),
    num_steps=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_nothing_is_used_again_before_everything_in_the_window_was(
    kind: str, num_candidates: int, num_picks: int, num_steps: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    num_picks = min(num_picks, num_candidates)
    policy: SelectionPolicy = random_policy(rng, num_picks=num_picks)
    if kind == "ranked":
        policy = ranked_policy(rng.permutation(num_candidates), num_picks=num_picks)
    selected = np.zeros(num_candidates, np.int64)

    for _ in range(num_steps):
        observation = window(range(num_candidates), selected=selected.tolist(), num_slots=15)
        action, _ = policy.predict(observation)
        np.add.at(selected, action, 1)

        assert len(set(action.tolist())) == num_picks
        assert selected.max() - selected.min() <= 1


def with_signal(observation: Observation, signal: Sequence[float]) -> Observation:
    """A window whose candidates have a feature of no importance and a signal; 0 where masked."""
    column = [*signal, *[0.0] * (len(observation["mask"]) - len(signal))]
    candidates = np.column_stack([np.arange(len(column))[::-1], column]).astype(np.float32)
    return {**observation, "candidates": candidates}


def test_the_strongest_signals_are_picked_in_order() -> None:
    observation = with_signal(window([4, 0, 3, 1]), [-0.5, 2.0, -3.0, 1.0])

    assert picks_of(signal_policy(num_picks=3), observation) == [1, 3, 0]


def test_a_used_candidate_waits_however_strong_its_signal() -> None:
    observation = with_signal(window([4, 0, 3, 1], selected=[0, 1, 0, 0]), [-0.5, 2.0, -3.0, 1.0])

    assert picks_of(signal_policy(num_picks=4), observation) == [3, 0, 2, 1]


def test_a_masked_slot_is_not_picked_though_others_signals_are_below_its_zero() -> None:
    observation = with_signal(window([4, 0], num_slots=5), [-3.0, -1.0])

    assert picks_of(signal_policy(num_picks=2), observation) == [1, 0]


def test_signals_are_compared_within_each_window_of_a_batch() -> None:
    first = with_signal(window([0, 1, 2]), [1.0, 2.0, 3.0])
    second = with_signal(window([0, 1, 2]), [30.0, 20.0, 10.0])

    action, _ = signal_policy(num_picks=2).predict(batch_of([first, second]))

    assert action.tolist() == [[2, 1], [0, 1]]


def test_random_picks_are_uniform_over_ordered_pairs() -> None:
    policy, observation = random(2), window([0, 1, 2, 3, 4], num_slots=7)

    counts = Counter(tuple(picks_of(policy, observation)) for _ in range(6000))

    assert len(counts) == 5 * 4
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_random_picks_are_uniform_over_what_is_allowed() -> None:
    allowed = np.array([False, True, False, True, True])
    policy = random_policy(np.random.default_rng(0), num_picks=2, allowed=allowed)

    counts = Counter(
        tuple(picks_of(policy, window([0, 1, 2, 3, 4], num_slots=7))) for _ in range(3000)
    )

    assert set(counts) == {(a, b) for a in (1, 3, 4) for b in (1, 3, 4) if a != b}
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_what_is_not_allowed_is_not_picked_though_all_else_is_used() -> None:
    policy = random_policy(
        np.random.default_rng(0), num_picks=1, allowed=np.array([True, False, False])
    )

    assert picks_of(policy, window([2, 0, 1], selected=[0, 5, 0])) == [1]


def test_random_picks_repeat_with_the_seed() -> None:
    observation = window(list(range(40)))
    one, same, other = random(8), random(8), random(8, seed=1)

    first = [picks_of(one, observation) for _ in range(3)]

    assert [picks_of(same, observation) for _ in range(3)] == first
    assert [picks_of(other, observation) for _ in range(3)] != first


def test_random_picks_ignore_the_global_generator() -> None:
    observation = window(list(range(40)))
    expected = picks_of(random(8), observation)

    np.random.seed(1)  # noqa: NPY002  # the one that must not matter

    assert picks_of(random(8), observation) == expected
