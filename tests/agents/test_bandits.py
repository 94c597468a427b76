"""Bandits over groups: plays by hand, closed forms, proven bounds of regret, and laws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from raise_mdit.agents.bandits import Bandit, Exp3, Thompson, Ucb1
from raise_mdit.agents.group_policy import (
    GroupPolicy,
    exp3_policy,
    join_small_groups,
    thompson_policy,
    ucb_policy,
)
from raise_mdit.core import Observation, OnlinePolicy

KINDS = ("exp3", "ucb", "thompson")
MAKE: dict[str, Callable[..., GroupPolicy]] = {
    "exp3": lambda *args, **kwargs: exp3_policy(*args, exploration=0.1, **kwargs),
    "ucb": lambda *args, **kwargs: ucb_policy(*args, exploration=2.0, **kwargs),
    "thompson": thompson_policy,
}


def policy_of(kind: str, groups: Sequence[int], *, num_picks: int, seed: int = 0) -> GroupPolicy:
    joined = join_small_groups(np.array(groups), num_picks=num_picks)
    return MAKE[kind](joined, num_picks=num_picks, rng=np.random.default_rng(seed))


def bandits_over(num_groups: int, seed: int = 0) -> dict[str, Bandit]:
    rng = np.random.default_rng
    return {
        "exp3": Exp3(num_groups, exploration=0.1, rng=rng(seed)),
        "ucb": Ucb1(num_groups, exploration=2.0, rng=rng(seed)),
        "thompson": Thompson(num_groups, rng=rng(seed)),
    }


def window(
    rows: Sequence[int], *, selected: Sequence[int] | None = None, num_slots: int | None = None
) -> Observation:
    """What bandits look at; slots beyond the rows are masked and repeat row 0."""
    padding = (num_slots or len(rows)) - len(rows)
    return {
        "window": np.array([*rows, *[0] * padding], np.int64),
        "selected": np.array([*(selected or [0] * len(rows)), *[0] * padding], np.float32),
        "mask": np.array([*[1] * len(rows), *[0] * padding], np.int8),
    }


def play_until(bandit: Bandit, group: int, *, num_groups: int) -> None:
    """Plays without credit leave no trace, so that a case can wait for the play it is about."""
    while bandit.play(np.ones(num_groups, bool)) != group:
        pass


class Stationary(NamedTuple):
    """A problem whose groups gain a fixed mean."""

    means: NDArray[np.float64]
    scale: float = 0.02
    """Gains are a coin's 0 or 1 times this, less a tenth of it: their range is not [0, 1]."""

    def run(self, bandit: Bandit, num_plays: int, seed: int) -> NDArray[np.int64]:
        rng = np.random.default_rng(seed)
        playable = np.ones(len(self.means), bool)
        plays = np.empty(num_plays, np.int64)
        for step in range(num_plays):
            plays[step] = group = bandit.play(playable)
            bandit.credit(group, self.scale * (float(rng.random() < self.means[group]) - 0.1))
        return plays

    def regret(self, plays: NDArray[np.int64]) -> float:
        """In coins, which lie in [0, 1] as in the papers."""
        return float((self.means.max() - self.means[plays]).sum())


COINS = Stationary(np.array([0.2, 0.3, 0.2, 0.8, 0.1]))
NUM_PLAYS = 3000


# Joining


def test_groups_that_fill_a_batch_stay_as_they_are() -> None:
    joined = join_small_groups(np.array([7, 7, 3, 3, 9, 9]), num_picks=2)

    assert joined.tolist() == [1, 1, 0, 0, 2, 2]


def test_small_groups_are_joined_with_each_other_and_not_with_the_large() -> None:
    groups = np.array([0] * 10 + [1] * 2 + [2] * 6 + [3] * 2)

    joined = join_small_groups(groups, num_picks=4)

    assert joined.tolist() == [0] * 10 + [1] * 2 + [2] * 6 + [1] * 2


def test_a_single_small_group_joins_the_smallest_other() -> None:
    joined = join_small_groups(np.array([0] * 5 + [1] * 4 + [2]), num_picks=3)

    assert joined.tolist() == [0] * 5 + [1] * 4 + [1]


def test_a_group_is_as_small_as_the_generation_that_leaves_it_fewest() -> None:
    generations = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    groups = np.array([0, 0, 1, 1, 2, 2, 1, 2, 1, 1])  # in generation 2 one of group 2 is on offer

    assert join_small_groups(groups, num_picks=2).max() == 2
    joined = join_small_groups(groups, num_picks=2, generations=generations)

    assert joined.tolist() == [0, 0, 1, 1, 0, 0, 1, 0, 1, 1]


@given(
    groups=st.lists(st.integers(0, 9), min_size=6, max_size=60),
    num_picks=st.integers(1, 6),
    num_generations=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_joining_keeps_groups_whole_and_every_offer_of_each_fills_a_batch(
    groups: list[int], num_picks: int, num_generations: int, seed: int
) -> None:
    labels = np.array(groups)
    # six candidates are always on offer, so that every offer fills a batch
    rest = np.random.default_rng(seed).integers(0, num_generations + 1, len(labels) - 6)
    made = np.concatenate([np.zeros(6, np.int64), rest, np.arange(num_generations + 1)])
    labels = np.concatenate([labels, np.full(num_generations + 1, 10)])
    generations = made if num_generations else None

    joined = join_small_groups(labels, num_picks=num_picks, generations=generations)

    assert sorted(set(joined.tolist())) == list(range(joined.max() + 1))
    for label in set(groups):
        assert len(set(joined[labels == label].tolist())) == 1
    shown = [
        np.isin(made, [0, each]) if num_generations else np.ones(len(made), bool)
        for each in range(1, max(1, num_generations) + 1)
    ]

    def least(members: NDArray[np.bool_]) -> int:
        return min(int((members & on_offer).sum()) for on_offer in shown)

    assert all(least(joined == group) >= num_picks for group in range(joined.max() + 1))
    grown = [
        label
        for label in set(labels.tolist())
        if least(labels == label) >= num_picks
        and (joined == joined[labels == label][0]).sum() > (labels == label).sum()
    ]
    assert len(grown) <= 1


# Picks


@pytest.mark.parametrize("kind", KINDS)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    num_picks=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_a_batch_is_distinct_unmasked_slots_of_one_group_and_the_least_used(
    kind: str, sizes: list[int], num_picks: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    num_picks = min(num_picks, len(groups))
    joined = join_small_groups(groups, num_picks=num_picks)
    policy: OnlinePolicy = policy_of(kind, groups.tolist(), num_picks=num_picks, seed=seed)

    for _ in range(6):
        rows, used = rng.permutation(len(groups)), rng.integers(0, 3, len(groups))
        observation = window(rows.tolist(), selected=used.tolist(), num_slots=len(rows) + 3)
        action, _ = policy.predict(observation)

        assert action.dtype == np.int64
        assert len(set(action.tolist())) == num_picks
        assert action.max() < len(rows)
        (group,) = set(joined[rows[action]].tolist())
        passed_over = np.setdiff1d(np.flatnonzero(joined[rows] == group), action)
        assert used[action].max() <= used[passed_over].min(initial=9)
        policy.learn(rows[action], float(rng.normal()))


@pytest.mark.parametrize("kind", KINDS)
def test_ties_within_a_group_are_broken_by_lot(kind: str) -> None:
    policy = policy_of(kind, [0] * 4, num_picks=1)

    found = Counter(int(policy.predict(window([3, 2, 1, 0]))[0][0]) for _ in range(400))

    assert stats.chisquare([found[slot] for slot in range(4)]).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_which_the_window_has_too_few_is_not_played(kind: str) -> None:
    policy = policy_of(kind, [0, 0, 0, 1, 1, 1], num_picks=2)

    for gain in np.linspace(0, 1, 20):
        action, _ = policy.predict(window([0, 3, 4], num_slots=6))
        assert sorted(action.tolist()) == [1, 2]
        policy.learn(np.array([3, 4]), gain)


def test_a_window_in_which_no_group_fills_a_batch_is_refused() -> None:
    policy = policy_of("ucb", [0, 0, 1, 1], num_picks=2)

    with pytest.raises(ValueError, match="2 candidates are on offer, and the largest has 1 among"):
        policy.predict(window([0, 2], num_slots=4))


@pytest.mark.parametrize("kind", KINDS)
def test_bandits_explore_also_where_a_deterministic_action_is_asked_for(kind: str) -> None:
    policy = policy_of(kind, list(range(5)), num_picks=1)
    observation = window(list(range(5)))

    actions = {int(policy.predict(observation, deterministic=True)[0][0]) for _ in range(60)}

    assert actions == set(range(5))


def test_the_state_is_passed_through() -> None:
    state = (np.array([1.0]),)

    assert policy_of("ucb", [0], num_picks=1).predict(window([0]), state)[1] is state


def test_a_batch_of_windows_is_refused() -> None:
    both = {key: np.stack([part, part]) for key, part in window([0, 1]).items()}

    with pytest.raises(AssertionError, match="one fine-tuning at a time"):
        policy_of("ucb", [0, 0], num_picks=1).predict(both)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_that_could_never_be_played_are_refused(kind: str) -> None:
    with pytest.raises(AssertionError, match="small groups are joined"):
        MAKE[kind](np.array([0, 0, 1]), num_picks=2, rng=np.random.default_rng(0))


def test_rows_of_two_groups_are_no_play() -> None:
    policy = policy_of("ucb", [0, 0, 1, 1], num_picks=2)

    with pytest.raises(AssertionError, match="one group"):
        policy.learn(np.array([1, 2]), 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_group_of_the_rows_is_credited(kind: str) -> None:
    groups = np.array([0, 1, 2, 0, 1, 2])
    policy = policy_of(kind, groups.tolist(), num_picks=2, seed=1)
    observation = window(list(range(6)))

    plays = []
    for _ in range(400):
        rows = policy.predict(observation)[0]
        plays.append(int(groups[rows[0]]))
        policy.learn(rows, float(plays[-1] == 1))

    assert Counter(plays[200:])[1] > 160


# Every bandit


@pytest.mark.parametrize("kind", KINDS)
def test_no_play_depends_on_the_unit_or_the_origin_of_gains(kind: str) -> None:
    gains = np.random.default_rng(5).normal(size=200)
    found = []
    for scale, shift in [(1.0, 0.0), (1e-4, 0.0), (300.0, -40.0)]:
        bandit, plays = bandits_over(4)[kind], []
        for gain in gains:
            plays.append(bandit.play(np.ones(4, bool)))
            bandit.credit(plays[-1], scale * (gain + plays[-1]) + shift)
        found.append(plays)

    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_gain_and_while_all_are_equal_no_group_is_preferred(kind: str) -> None:
    def play_after(num_plays: int, seed: int) -> int:
        bandit = bandits_over(3, seed)[kind]
        for _ in range(num_plays):
            bandit.credit(bandit.play(np.ones(3, bool)), 0.3)
        return bandit.play(np.ones(3, bool))

    for num_plays in (0, 9):
        found = Counter(play_after(num_plays, seed) for seed in range(300))
        assert stats.chisquare([found[group] for group in range(3)]).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_best_group_is_played_most_in_the_end(kind: str, seed: int) -> None:
    plays = COINS.run(bandits_over(5, seed)[kind], NUM_PLAYS, seed + 10)

    share = (plays[NUM_PLAYS // 2 :] == 3).mean()

    assert share > 0.8


def test_exp3_regrets_less_than_its_bound() -> None:
    """Auer et al. 2002, corollary 3.2, with the number of plays as the bound on the best gain."""
    num_groups = len(COINS.means)
    spread = NUM_PLAYS * num_groups * math.log(num_groups)
    exploration = math.sqrt(num_groups * math.log(num_groups) / ((math.e - 1) * NUM_PLAYS))
    bound = 2 * math.sqrt(math.e - 1) * math.sqrt(spread)

    bandits = (
        Exp3(num_groups, exploration=exploration, rng=np.random.default_rng(seed))
        for seed in range(3)
    )
    regrets = [COINS.regret(COINS.run(each, NUM_PLAYS, 20 + i)) for i, each in enumerate(bandits)]

    assert np.mean(regrets) < bound
    assert bound < COINS.regret(np.arange(NUM_PLAYS) % num_groups) / 2  # chance regrets far more


def test_ucb_regrets_less_than_its_bound() -> None:
    """Auer, Cesa-Bianchi & Fischer 2002, theorem 1."""
    gaps = COINS.means.max() - COINS.means
    worse = gaps[gaps > 0]
    bound = 8 * (math.log(NUM_PLAYS) / worse).sum() + (1 + math.pi**2 / 3) * worse.sum()

    regrets = [
        COINS.regret(COINS.run(bandits_over(5, seed)["ucb"], NUM_PLAYS, 30 + seed))
        for seed in range(3)
    ]

    assert np.mean(regrets) < bound
    assert bound < COINS.regret(np.arange(NUM_PLAYS) % 5) / 2


def test_exp3_follows_the_best_group_when_it_changes() -> None:
    bandit = Exp3(3, exploration=0.2, rng=np.random.default_rng(0))
    first, then = Stationary(np.array([0.9, 0.1, 0.1])), Stationary(np.array([0.1, 0.1, 0.9]))

    early, late = first.run(bandit, 500, 1), then.run(bandit, 2000, 2)

    assert (early[250:] == 0).mean() > 0.7
    assert (late[1500:] == 2).mean() > 0.7


# Exp3


def test_exp3_plays_by_the_weights_of_three_plays_by_hand() -> None:
    bandit = Exp3(2, exploration=0.5, rng=np.random.default_rng(0))
    both = np.ones(2, bool)

    assert bandit.probabilities(both) == pytest.approx([0.5, 0.5])
    play_until(bandit, 0, num_groups=2)
    bandit.credit(0, 3.0)  # all gains are equal: half of the range, so X_0 = 0.5 / 0.5 = 1
    share = math.exp(0.25) / (math.exp(0.25) + 1)
    second = 0.5 * share + 0.25
    assert bandit.probabilities(both) == pytest.approx([second, 1 - second])

    play_until(bandit, 1, num_groups=2)
    bandit.credit(1, 1.0)  # the range is 1 to 3: X_0 = 1 / 0.5 = 2, X_1 = 0
    share = math.exp(0.5) / (math.exp(0.5) + 1)
    third = 0.5 * share + 0.25
    assert bandit.probabilities(both) == pytest.approx([third, 1 - third])

    play_until(bandit, 0, num_groups=2)
    bandit.credit(0, 2.0)  # half of the range
    weight = math.exp(0.25 * (2 + 0.5 / third))
    fourth = 0.5 * weight / (weight + 1) + 0.25
    assert bandit.probabilities(both) == pytest.approx([fourth, 1 - fourth])


def test_a_gain_that_widens_the_range_scales_the_earlier_anew() -> None:
    bandit = Exp3(2, exploration=0.5, rng=np.random.default_rng(0))
    only_first, both = np.array([True, False]), np.ones(2, bool)
    for gain in (1.0, 2.0, 5.0):  # certain plays: with the range 1 to 5, X_0 = 0 + 1/4 + 1
        bandit.play(only_first)
        bandit.credit(0, gain)

    weight = math.exp(0.25 * 1.25)

    assert bandit.probabilities(both)[0] == pytest.approx(0.5 * weight / (weight + 1) + 0.25)


def test_exp3_shares_its_chances_among_the_groups_on_offer() -> None:
    bandit = Exp3(4, exploration=0.4, rng=np.random.default_rng(0))

    found = bandit.probabilities(np.array([True, False, True, False]))

    assert found == pytest.approx([0.5, 0, 0.5, 0])


def test_exp3_draws_by_its_probabilities() -> None:
    bandit = Exp3(3, exploration=0.3, rng=np.random.default_rng(2))
    playable = np.ones(3, bool)
    for group, gain in [(0, 0.0), (1, 1.0), (2, 0.5), (1, 1.0)]:
        play_until(bandit, group, num_groups=3)
        bandit.credit(group, gain)

    found = Counter(bandit.play(playable) for _ in range(3000))

    expected = 3000 * bandit.probabilities(playable)
    assert expected.max() > 1.3 * expected.min()
    assert stats.chisquare([found[group] for group in range(3)], expected).pvalue > 1e-3


def test_exp3_has_no_weights_too_large_for_a_number() -> None:
    bandit = Exp3(2, exploration=0.5, rng=np.random.default_rng(0))
    for gain in [0.0, *[1.0] * 4000]:
        bandit.play(np.array([True, False]))
        bandit.credit(0, gain)

    found = bandit.probabilities(np.ones(2, bool))

    assert found == pytest.approx([0.75, 0.25])


def test_exp3_refuses_credit_without_a_play() -> None:
    bandit = Exp3(2, exploration=0.5, rng=np.random.default_rng(0))
    play_until(bandit, 0, num_groups=2)
    bandit.credit(0, 1.0)

    with pytest.raises(AssertionError, match="credit is for a play"):
        bandit.credit(0, 1.0)


# UCB1


def test_ucb_has_the_bounds_of_four_plays_by_hand() -> None:
    bandit = Ucb1(3, exploration=2.0, rng=np.random.default_rng(0))
    for group, gain in [(0, 10.0), (0, 20.0), (1, 30.0), (0, 15.0)]:
        bandit.credit(group, gain)

    bounds = bandit.bounds()

    assert bounds[0] == pytest.approx(0.25 + math.sqrt(2 * math.log(4) / 3))
    assert bounds[1] == pytest.approx(1.0 + math.sqrt(2 * math.log(4)))
    assert bounds[2] == math.inf


def test_ucb_plays_each_group_once_before_any_twice() -> None:
    for seed in range(5):
        bandit = Ucb1(6, exploration=2.0, rng=np.random.default_rng(seed))
        plays = []
        for gain in range(6):
            plays.append(bandit.play(np.ones(6, bool)))
            bandit.credit(plays[-1], -float(gain))

        assert sorted(plays) == list(range(6))


def test_ucb_plays_the_highest_bound_on_offer() -> None:
    bandit = Ucb1(3, exploration=2.0, rng=np.random.default_rng(0))
    for group, gain in [(0, 0.0), (1, 0.5), (2, 1.0)]:
        bandit.credit(group, gain)

    assert bandit.play(np.ones(3, bool)) == 2
    assert bandit.play(np.array([True, True, False])) == 1


def test_more_exploration_widens_the_bounds() -> None:
    narrow, wide = (Ucb1(2, exploration=c, rng=np.random.default_rng(0)) for c in (0.5, 8.0))
    for bandit in (narrow, wide):
        bandit.credit(0, 0.0)
        bandit.credit(1, 1.0)

    spread = wide.bounds() - narrow.bounds()

    assert spread == pytest.approx((math.sqrt(8) - math.sqrt(0.5)) * math.sqrt(math.log(2)))


# Thompson sampling

GAINS = {0: [0.1, 0.4, 0.25], 1: [-0.2], 2: []}


def sampled() -> Thompson:
    bandit = Thompson(3, rng=np.random.default_rng(3))
    for group, gains in GAINS.items():
        for gain in gains:
            bandit.credit(group, gain)
    return bandit


def test_the_posterior_is_the_closed_form_by_hand() -> None:
    everything = [0.1, 0.4, 0.25, -0.2]
    mean, variance = np.mean(everything), np.var(everything)

    found = sampled().posterior()

    assert found.counts.tolist() == [4, 2, 1]
    assert found.shapes.tolist() == [2.5, 1.5, 1]
    assert found.means == pytest.approx([(mean + 0.75) / 4, (mean - 0.2) / 2, mean])
    within = 0.15**2 + 0.15**2
    assert found.scales == pytest.approx(
        [
            variance + within / 2 + 3 * (0.25 - mean) ** 2 / 8,
            variance + (-0.2 - mean) ** 2 / 4,
            variance,
        ]
    )


def test_the_posterior_is_prior_times_likelihood() -> None:
    everything = [0.1, 0.4, 0.25, -0.2]
    mean, variance = float(np.mean(everything)), float(np.var(everything))
    means = np.linspace(-1.5, 2.0, 701)[:, None]
    variances = np.geomspace(1e-3, 60, 900)[None, :]
    density = stats.invgamma.pdf(variances, 1.0, scale=variance)
    density = density * stats.norm.pdf(means, mean, np.sqrt(variances))
    for gain in GAINS[0]:
        density = density * stats.norm.pdf(gain, means, np.sqrt(variances))
    density = density * variances  # steps of the grid are equal in the logarithm
    density /= density.sum()

    found = sampled().posterior()

    by_grid = float((density * means).sum())
    assert by_grid == pytest.approx(found.means[0], abs=1e-4)
    spread = float((density * (means - by_grid) ** 2).sum())
    assert spread == pytest.approx(found.scales[0] / (found.shapes[0] - 1) / found.counts[0], 0.01)
    noise = float((density * variances).sum())
    assert noise == pytest.approx(found.scales[0] / (found.shapes[0] - 1), rel=0.01)


def test_means_are_drawn_from_students_distribution() -> None:
    """The marginal of a normal-inverse-gamma: Student's t with twice the shape."""
    bandit = sampled()
    belief = bandit.posterior()

    draws = np.array([bandit.draw() for _ in range(2000)])

    for group in range(3):
        spread = math.sqrt(belief.scales[group] / belief.shapes[group] / belief.counts[group])
        student = stats.t(2 * belief.shapes[group], belief.means[group], spread)
        assert stats.kstest(draws[:, group], student.cdf).pvalue > 1e-3


def test_a_group_is_played_as_often_as_its_mean_is_likely_the_highest() -> None:
    bandit = sampled()

    draws = np.array([bandit.draw() for _ in range(3000)])
    expected = np.bincount(np.where(draws[:, 0] > draws[:, 2], 0, 2), minlength=3)[[0, 2]]
    found = Counter(bandit.play(np.array([True, False, True])) for _ in range(3000))

    assert stats.chi2_contingency([expected, [found[0], found[2]]]).pvalue > 1e-3
    assert found[1] == 0


def test_equal_gains_leave_every_mean_at_the_gain_and_the_prior_scale_at_one() -> None:
    bandit = Thompson(3, rng=np.random.default_rng(0))
    for group in range(3):
        bandit.credit(group, 0.1)  # three times which is not 0.3 by a rounding

    belief = bandit.posterior()

    assert belief.scales == pytest.approx([1, 1, 1])
    assert belief.means == pytest.approx([0.1, 0.1, 0.1])
