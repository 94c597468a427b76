"""Linear influence: its posterior against closed forms, and what it picks against enumeration."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from raise_mdit.agents.influence import InfluencePolicy, LinearGain, influence_policy
from raise_mdit.agents.static import BUDGET_SHARE
from raise_mdit.core import Observation, OnlinePolicy
from raise_mdit.envs.observation import CONTEXT

NUM_FEATURES = 4
NUM_PICKS = 3


def policy_of(
    choice: Literal["thompson", "greedy"], *, seed: int = 0, ridge: float = 1.0
) -> InfluencePolicy:
    return influence_policy(
        num_features=NUM_FEATURES,
        num_picks=NUM_PICKS,
        rng=np.random.default_rng(seed),
        choice=choice,
        ridge=ridge,
    )


def window(
    rng: np.random.Generator, *, size: int = 8, num_slots: int | None = None, spent: float = 0.5
) -> Observation:
    """Random candidates; slots beyond them are masked and hold what would be picked if seen."""
    num_slots = num_slots or size
    candidates = np.full((num_slots, NUM_FEATURES), 50.0, np.float32)
    candidates[:size] = rng.normal(size=(size, NUM_FEATURES))
    context = np.zeros(len(CONTEXT), np.float32)
    context[BUDGET_SHARE] = spent
    rows = np.zeros(num_slots, np.int64)
    rows[:size] = 100 + rng.permutation(size)
    return {
        "candidates": candidates,
        "context": context,
        "selected": rng.integers(0, 4, num_slots).astype(np.float32),
        "mask": (np.arange(num_slots) < size).astype(np.int8),
        "window": rows,
    }


def batch_mean(observation: Observation, slots: NDArray[np.int64]) -> NDArray[np.float64]:
    """What a batch is to the regression, said again."""
    return np.array(
        [
            *observation["candidates"][slots].astype(np.float64).mean(axis=0),
            np.log(1 + observation["selected"][slots].astype(np.float64)).mean(),
            1.0,
            float(observation["context"][1]),
        ]
    )


def play(
    policy: OnlinePolicy,
    weights: NDArray[np.float64],
    *,
    num_steps: int,
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One episode in which gains are linear; what the regression was told."""
    rng = np.random.default_rng(seed)
    told, gains = [], []
    for step in range(num_steps):
        observation = window(rng, spent=step / num_steps)
        slots, _ = policy.predict(observation)
        told.append(batch_mean(observation, slots))
        gains.append(float(told[-1] @ weights + noise * rng.normal()))
        policy.learn(observation["window"][slots], gains[-1])
    return np.array(told), np.array(gains)


def planted(seed: int = 9) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=NUM_FEATURES + 3) * 0.01


def test_the_budget_is_where_the_environment_puts_it() -> None:
    assert CONTEXT[BUDGET_SHARE] == "budget_share"


def test_the_posterior_is_that_of_ridge_regression() -> None:
    """Least squares with the prior as rows of their own."""
    policy = policy_of("thompson", ridge=0.7)
    told, gains = play(policy, planted(), num_steps=12, noise=0.01)
    size = told.shape[1]

    stacked = np.vstack([told, np.sqrt(0.7) * np.eye(size)])
    solution, *_ = np.linalg.lstsq(stacked, np.concatenate([gains, np.zeros(size)]))

    assert policy.gains.mean() == pytest.approx(solution, rel=1e-6)
    pseudo_inverse = np.linalg.pinv(stacked)
    covariance = pseudo_inverse @ pseudo_inverse.T
    assert policy.gains.unit_covariance() == pytest.approx(covariance, rel=1e-6)


def test_the_noise_has_its_posterior_by_the_sums_of_squares() -> None:
    """The least of squared errors plus the ridge's penalty is what the weights leave over."""
    policy = policy_of("thompson", ridge=0.7)
    told, gains = play(policy, planted(), num_steps=12, noise=0.01)
    mean = policy.gains.mean()
    left_over = ((gains - told @ mean) ** 2).sum() + 0.7 * (mean**2).sum()

    shape, scale = policy.gains.noise()

    assert shape == 1 + 12 / 2
    assert scale == pytest.approx((gains**2).mean() + left_over / 2)


def test_the_noise_is_estimated_once_there_is_much_data() -> None:
    policy = policy_of("thompson")
    play(policy, planted(), num_steps=600, noise=0.03)

    shape, scale = policy.gains.noise()

    assert np.sqrt(scale / shape) == pytest.approx(0.03, rel=0.1)


def test_weights_are_drawn_from_their_posterior() -> None:
    """Each combination of weights is Student's t about the mean, with twice the shape."""
    policy = policy_of("thompson")
    play(policy, planted(), num_steps=6, noise=0.01)
    gains = policy.gains
    rng = np.random.default_rng(4)
    shape, scale = gains.noise()

    draws = np.array([gains.draw(rng) for _ in range(2000)])

    for _ in range(4):
        direction = rng.normal(size=NUM_FEATURES + 3)
        spread = np.sqrt(scale / shape * direction @ gains.unit_covariance() @ direction)
        student = stats.t(2 * shape, direction @ gains.mean(), spread)
        assert stats.kstest(draws @ direction, student.cdf).pvalue > 1e-3


def test_the_first_weights_are_drawn_from_the_prior() -> None:
    """Of each, Student's t with 2 degrees of freedom, by the prior's precision."""
    rng = np.random.default_rng(0)

    draws = np.array([LinearGain(3, ridge=4.0).draw(rng) for _ in range(1500)])

    for column in draws.T:
        assert stats.kstest(column, stats.t(2, 0, 0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("choice", ["thompson", "greedy"])
def test_the_first_picks_are_by_lot(choice: Literal["thompson", "greedy"]) -> None:
    observation = window(np.random.default_rng(1), size=6)
    observation["candidates"][:] = np.eye(6, NUM_FEATURES)
    observation["candidates"][4, :2] = observation["candidates"][5, 2:] = 0.7
    observation["selected"][:] = 0

    found = Counter(
        slot for seed in range(300) for slot in policy_of(choice, seed=seed).predict(observation)[0]
    )

    assert set(found) == set(range(6))
    assert min(found.values()) > 75  # 150 each if all slots are alike


def test_greedy_first_picks_are_uniform() -> None:
    observation = window(np.random.default_rng(1), size=6, num_slots=9)
    policy = policy_of("greedy")

    found = Counter(slot for _ in range(500) for slot in policy.predict(observation)[0].tolist())

    assert stats.chisquare([found[slot] for slot in range(6)]).pvalue > 1e-3


@given(seed=st.integers(0, 99))
def test_picks_are_the_batch_of_which_the_mean_expects_most(seed: int) -> None:
    policy = policy_of("greedy", seed=seed)
    play(policy, planted(seed), num_steps=10, noise=0.01, seed=seed)
    observation = window(np.random.default_rng(seed + 1), size=7, num_slots=10)

    action, _ = policy.predict(observation)

    batches = [np.array(batch) for batch in itertools.combinations(range(7), NUM_PICKS)]
    expected = [batch_mean(observation, batch) @ policy.gains.mean() for batch in batches]
    assert sorted(action.tolist()) == batches[int(np.argmax(expected))].tolist()


@pytest.mark.parametrize("choice", ["thompson", "greedy"])
@given(size=st.integers(NUM_PICKS, 9), padding=st.integers(0, 4), seed=st.integers(0, 99))
def test_picks_are_distinct_slots_that_are_not_masked(
    choice: Literal["thompson", "greedy"], size: int, padding: int, seed: int
) -> None:
    policy: OnlinePolicy = policy_of(choice, seed=seed)
    rng = np.random.default_rng(seed)

    for _ in range(4):
        observation = window(rng, size=size, num_slots=size + padding)
        action, _ = policy.predict(observation)
        assert action.dtype == np.int64
        assert len(set(action.tolist())) == NUM_PICKS
        assert action.max() < size
        policy.learn(observation["window"][action], float(rng.normal()))


@pytest.mark.parametrize("choice", ["thompson", "greedy"])
@pytest.mark.parametrize("seed", range(3))
def test_planted_weights_are_recovered_and_the_best_are_picked(
    choice: Literal["thompson", "greedy"], seed: int
) -> None:
    weights, policy = planted(), policy_of(choice, seed=seed)
    play(policy, weights, num_steps=400, noise=0.003, seed=seed)

    rng, shares = np.random.default_rng(seed + 50), []
    for _ in range(50):
        observation = window(rng)
        action, _ = policy.predict(observation)
        gains = [batch_mean(observation, np.array([slot])) @ weights for slot in range(8)]
        best = set(np.argsort(gains)[-NUM_PICKS:].tolist())
        shares.append(len(best & set(action.tolist())) / NUM_PICKS)

    assert policy.gains.mean()[:NUM_FEATURES] == pytest.approx(weights[:NUM_FEATURES], abs=2e-3)
    assert np.mean(shares) > 0.9


def test_thompson_regrets_little_over_time() -> None:
    weights = planted()
    learning, blind = policy_of("thompson"), np.random.default_rng(3)
    _, gains = play(learning, weights, num_steps=300, noise=0.003)
    rng, by_lot = np.random.default_rng(8), []
    for step in range(300):
        slots = blind.permutation(8)[:NUM_PICKS]
        by_lot.append(batch_mean(window(rng, spent=step / 300), slots) @ weights)

    assert gains[150:].mean() > np.mean(by_lot[150:]) + 0.005


@pytest.mark.parametrize("choice", ["thompson", "greedy"])
def test_no_pick_depends_on_the_unit_of_gains(choice: Literal["thompson", "greedy"]) -> None:
    told = [
        play(policy_of(choice), scale * planted(), num_steps=40, noise=scale * 0.01)[0]
        for scale in (1.0, 2.0**-14, 2.0**9)
    ]

    assert np.array_equal(told[0], told[1])
    assert np.array_equal(told[0], told[2])


def actions(policy: InfluencePolicy, observation: Observation) -> set[tuple[int, ...]]:
    """What 30 deterministic predictions pick."""
    found = (policy.predict(observation, deterministic=True)[0].tolist() for _ in range(30))
    return {tuple(sorted(each)) for each in found}


def test_within_its_first_episode_a_deterministic_action_explores() -> None:
    policy = policy_of("thompson")
    play(policy, planted(), num_steps=4, noise=0.05)

    assert len(actions(policy, window(np.random.default_rng(2), spent=0.8))) > 1


def test_in_a_later_episode_a_deterministic_action_takes_the_mean() -> None:
    policy = policy_of("thompson")
    play(policy, planted(), num_steps=4, noise=0.05)
    rng = np.random.default_rng(2)
    first, later = window(rng, spent=0.0), window(rng, spent=0.5)

    assert len(actions(policy, first)) == 1
    (found,) = actions(policy, later)

    scores = [
        batch_mean(later, np.array([slot])) @ policy.gains.mean()
        for slot in range(len(later["mask"]))
    ]
    assert list(found) == sorted(np.argsort(scores)[-NUM_PICKS:].tolist())


def test_in_a_later_episode_thompson_explores_where_it_is_not_asked_to_be_deterministic() -> None:
    policy = policy_of("thompson")
    play(policy, planted(), num_steps=4, noise=0.05)
    observation = window(np.random.default_rng(2), spent=0.0)

    found = {tuple(sorted(policy.predict(observation)[0].tolist())) for _ in range(30)}

    assert len(found) > 1


def test_a_gain_is_of_the_last_action_in_any_order() -> None:
    policy = policy_of("greedy")
    observation = window(np.random.default_rng(0))
    rows = observation["window"][policy.predict(observation)[0]]

    with pytest.raises(AssertionError, match="last action"):
        policy.learn(rows + 1, 0.1)
    policy.learn(rows[::-1], 0.1)
    with pytest.raises(AssertionError, match="of an action"):
        policy.learn(rows, 0.1)

    assert policy.gains.num_gains == 1


def test_other_features_than_announced_are_refused() -> None:
    observation = window(np.random.default_rng(0))
    observation["candidates"] = observation["candidates"][:, 1:]

    with pytest.raises(AssertionError, match=r"\[W, F\]"):
        policy_of("greedy").predict(observation)


def test_a_batch_of_windows_is_refused() -> None:
    observation = window(np.random.default_rng(0))
    both = {key: np.stack([part, part]) for key, part in observation.items()}

    with pytest.raises(AssertionError, match="one fine-tuning at a time"):
        policy_of("greedy").predict(both)


def test_the_state_is_passed_through() -> None:
    state = (np.array([1.0]),)

    assert policy_of("greedy").predict(window(np.random.default_rng(0)), state)[1] is state
