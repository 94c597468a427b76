"""Episodes without a learner: losses are dealt by hand, and all of them are exact in binary."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import pytest
from numpy.typing import NDArray

from raise_mdit.core import Budget, Cost, EncodedRow, Evaluation, UpdateStats
from raise_mdit.envs.episode import (
    FAILURE_REWARD,
    Episode,
    EpisodeRules,
    Signal,
    Step,
    TrainingPool,
)
from raise_mdit.ledger import Ledger
from raise_mdit.rewards import Targets

BASE_LOSS = 8.0
UPDATE_COST = Cost(tokens=5, padded_tokens=6, flops=32.0, seconds=0.5)
VALIDATION_COST = Cost(tokens=7, padded_tokens=9, flops=64.0, seconds=0.25)
SIGNAL_COST = Cost(tokens=11, padded_tokens=11, flops=128.0, seconds=2.0)


def row(num_tokens: int) -> EncodedRow:
    ids = np.arange(num_tokens)
    weights = np.tile(np.array([1.0, 0.0], np.float32), (num_tokens - 1, 1))
    return EncodedRow("row", ids, ids[:-1], np.stack([ids[1:]] * 2, axis=1), weights)


def pool(num_candidates: int = 6) -> TrainingPool:
    """Row i has i + 2 tokens."""
    numbers = np.arange(num_candidates)
    return TrainingPool(
        ids=[f"id-{i}" for i in numbers],
        rows=[row(int(i) + 2) for i in numbers],
        kinds=numbers % 3,
        features=np.stack([numbers, 10 * numbers], axis=1).astype(np.float32),
        strata=numbers % 3,
    )


def rules(
    *,
    candidates: TrainingPool | None = None,
    steps: int | None = None,
    tokens: int | None = None,
    window: int | None = None,
    reward_every: int = 1,
    early_stopping: bool = False,
    control: Sequence[float] | None = None,
    targets: Targets | None = None,
    ledger: Ledger | None = None,
) -> EpisodeRules:
    return EpisodeRules(
        pool=candidates or pool(),
        batch_size=2,
        budget=Budget(steps=steps, tokens=tokens),
        window=window,
        reward_every=reward_every,
        early_stopping=early_stopping,
        control=None if control is None else np.array(control, np.float32),
        targets=targets,
        ledger=ledger or Ledger(),
        training_purpose="policy_training",
        evaluation_purpose="reward_evaluation",
        signal_purpose="monitoring",
    )


def begun(episode_rules: EpisodeRules, signal: Signal | None = None, *, number: int = 0) -> Episode:
    rng = np.random.default_rng(0)
    return Episode(episode_rules, number=number, base=measured(BASE_LOSS), rng=rng, signal=signal)


def measured(loss: float) -> Evaluation:
    """On one item."""
    return Evaluation(loss, np.full(1, loss), np.zeros(1, np.bool_), VALIDATION_COST)


def take_step(episode: Episode, loss: float, *, training_loss: float = 1.0) -> Step:
    """Pick the first two slots; the validation loss after the update is given."""
    stats = UpdateStats(training_loss, UPDATE_COST)
    rows = episode.picked_rows(np.array([0, 1]))
    is_due = episode.record_update(rows, stats)
    return episode.finish_step(rows, stats, measured(loss) if is_due else None)


def fine_tune(episode_rules: EpisodeRules, losses: Sequence[float]) -> list[Step]:
    episode = begun(episode_rules)
    return [take_step(episode, loss) for loss in losses]


def rewards(steps: Sequence[Step]) -> list[float]:
    return [step[1] for step in steps]


def told(steps: Sequence[Step], name: str) -> list[Any]:
    return [step[4][name] for step in steps]


# Rewards that are not measured at every step.


def test_a_reward_comes_at_every_mth_step_and_at_the_last() -> None:
    steps = fine_tune(rules(steps=5, reward_every=2), [7, 6, 9, 4, 5])

    assert rewards(steps) == [0, 2 / 8, 0, 2 / 8, -1 / 8]
    assert told(steps, "measured") == [False, True, False, True, True]
    assert told(steps, "validation_loss") == [8, 6, 6, 4, 5]


def test_with_early_stopping_a_reward_is_the_improvement_on_the_lowest_loss_so_far() -> None:
    steps = fine_tune(rules(steps=6, early_stopping=True), [7, 9, 4, 5, 4, 3])

    assert rewards(steps) == [1 / 8, 0, 3 / 8, 0, 0, 1 / 8]
    assert told(steps, "kept_steps") == [1, 1, 3, 3, 3, 6]
    assert told(steps, "kept_loss") == [7, 7, 4, 4, 4, 3]
    assert told(steps, "validation_loss") == [7, 9, 4, 5, 4, 3]


def test_only_a_loss_that_was_measured_can_be_the_lowest() -> None:
    steps = fine_tune(rules(steps=5, reward_every=2, early_stopping=True), [1, 6, 2, 7, 8])

    assert rewards(steps) == [0, 2 / 8, 0, 0, 0]
    assert told(steps, "kept_steps") == [0, 2, 2, 2, 2]


def test_without_early_stopping_every_step_is_kept() -> None:
    steps = fine_tune(rules(steps=3, reward_every=2), [7, 6, 9])

    assert told(steps, "kept_steps") == [1, 2, 3]
    assert told(steps, "kept_loss") == [8, 6, 9]


def test_targets_tell_which_loss_is_the_lowest() -> None:
    """By tokens the second step would be; its items have weights 1 and 3."""
    targets = Targets(np.array([0, 1]), np.array([1, 3]))

    def both(first: float, second: float) -> Evaluation:
        items = np.array([first, second])
        mean = float((first + 3 * second) / 4)
        return Evaluation(mean, items, np.zeros(2, np.bool_), VALIDATION_COST)

    episode = Episode(
        rules(steps=2, early_stopping=True, targets=targets),
        number=0,
        base=both(4.0, 8.0),
        rng=np.random.default_rng(0),
        signal=None,
    )
    steps = []
    for evaluation in (both(1.0, 8.0), both(3.0, 6.0)):
        rows = episode.picked_rows(np.array([0, 1]))
        episode.record_update(rows, UpdateStats(1.0, UPDATE_COST))
        steps.append(episode.finish_step(rows, UpdateStats(1.0, UPDATE_COST), evaluation))

    assert told(steps, "kept_steps") == [1, 1]
    assert told(steps, "kept_loss") == [6.25, 6.25]
    assert told(steps, "validation_loss") == [6.25, 5.25]


def test_the_stage_keeps_the_last_measured_loss() -> None:
    steps = fine_tune(rules(steps=5, reward_every=2), [7, 6, 9, 4, 5])

    contexts = np.stack([step[0]["context"][:3] for step in steps])
    assert contexts[:, 0].tolist() == [1, 6 / 8, 6 / 8, 4 / 8, 5 / 8]
    assert contexts[:, 2].tolist() == [0, 2 / 8, 0, 2 / 8, -1 / 8]


@pytest.mark.parametrize("every", [1, 2, 3, 4, 6, 100])
@pytest.mark.parametrize(("num_steps", "tokens"), [(6, None), (None, 28)])
def test_rewards_telescope_however_rarely_they_are_measured(
    every: int, num_steps: int | None, tokens: int | None
) -> None:
    """28 tokens are spent by the sixth step of five."""
    limited = rules(steps=num_steps, tokens=tokens, reward_every=every)

    steps = fine_tune(limited, [7, 6, 9, 4, 5, 3])

    assert steps[-1][3]
    assert sum(rewards(steps)) == (BASE_LOSS - 3) / BASE_LOSS


@pytest.mark.parametrize(("every", "num_measured"), [(1, 6), (2, 3), (4, 2), (9, 1)])
def test_only_measured_steps_cost_a_validation(every: int, num_measured: int) -> None:
    ledger = Ledger()

    steps = fine_tune(rules(steps=6, reward_every=every, ledger=ledger), [7, 6, 9, 4, 5, 3])

    assert ledger.costs["reward_evaluation"].tokens == num_measured * VALIDATION_COST.tokens
    assert sum(told(steps, "flops")) == ledger.total.flops
    assert sum(told(steps, "measured")) == num_measured


def test_a_training_loss_that_is_not_finite_ends_an_episode_between_measurements() -> None:
    episode = begun(rules(steps=5, reward_every=3, control=[0.25] * 5))

    _, reward, terminated, truncated, info = take_step(episode, 7, training_loss=math.nan)

    assert (reward, terminated, truncated) == (FAILURE_REWARD, True, False)
    assert (info["validation_loss"], info["measured"]) == (BASE_LOSS, False)


def test_rewards_are_measured_at_least_sometimes() -> None:
    with pytest.raises(ValueError, match="reward_every is at least 1 step, got 0"):
        rules(steps=3, reward_every=0)


# Control variates.


def test_the_control_of_each_step_is_subtracted_from_its_reward() -> None:
    steps = fine_tune(rules(steps=3, control=[0.5, 0.25, 0.125]), [6, 7, 7])

    assert rewards(steps) == [2 / 8 - 0.5, -1 / 8 - 0.25, 0 - 0.125]
    assert told(steps, "gain") == [2 / 8, -1 / 8, 0]


def test_without_a_control_the_reward_is_the_gain() -> None:
    steps = fine_tune(rules(steps=3), [6, 7, 7])

    assert rewards(steps) == told(steps, "gain")


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 6])
def test_every_episode_loses_the_whole_control_whatever_its_length(
    every: int, num_steps: int
) -> None:
    control = [0.5, 0.25, 0.125]

    steps = fine_tune(
        rules(tokens=5 * num_steps, control=control, reward_every=every), [7.0] * num_steps
    )

    assert steps[-1][3]
    assert sum(rewards(steps)) == 1 / 8 - sum(control)


def test_steps_beyond_the_control_lose_nothing() -> None:
    steps = fine_tune(rules(steps=4, control=[0.5, 0.25]), [6, 7, 6, 6])

    assert rewards(steps)[2:] == [1 / 8, 0]


def test_the_reward_of_a_broken_model_is_not_shifted() -> None:
    _, reward, terminated, _, info = fine_tune(rules(steps=3, control=[0.5] * 3), [math.inf])[0]

    assert terminated
    assert (reward, info["gain"], info["measured"]) == (FAILURE_REWARD, FAILURE_REWARD, False)


def test_observations_do_not_show_the_control() -> None:
    """So that a policy is used as it was trained, with a control or without."""
    losses = [6.0, 7.0, 7.0]

    shifted = fine_tune(rules(steps=3, control=[0.5] * 3), losses)
    plain = fine_tune(rules(steps=3), losses)

    for one, other in zip(shifted, plain, strict=True):
        assert one[0]["context"].tolist() == other[0]["context"].tolist()


# Signals.


class LengthSignal:
    """Rates a row by its length, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.asked: list[list[int]] = []
        self._factor = factor

    def __call__(self, rows: Sequence[EncodedRow]) -> tuple[NDArray[np.float32], Cost]:
        self.asked.append([row.num_tokens for row in rows])
        return np.array(self.asked[-1], np.float32) * np.float32(self._factor), SIGNAL_COST


def signal_of(step: Step) -> list[float]:
    return [float(value) for value in step[0]["candidates"][:, -1]]


@pytest.mark.parametrize("factor", [1.0, 1e-30, 1e30])
def test_a_signal_is_standardised_within_its_window(factor: float) -> None:
    candidates = begun(rules(steps=2), LengthSignal(factor)).observe()["candidates"]

    lengths = np.arange(2, 8)
    expected = (lengths - lengths.mean()) / lengths.std()
    np.testing.assert_allclose(candidates[:, -1], expected, rtol=1e-5)
    assert candidates[:, :-1].tolist() == pool().features.tolist()


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_signal_that_is_the_same_for_all_is_zero(factor: float) -> None:
    def same(rows: Sequence[EncodedRow]) -> tuple[NDArray[np.float32], Cost]:
        return np.full(len(rows), factor, np.float32), SIGNAL_COST

    candidates = begun(rules(steps=2), same).observe()["candidates"]

    assert candidates[:, -1].tolist() == [0.0] * 6


def test_an_outlier_of_a_signal_is_cut_off() -> None:
    def outlier(rows: Sequence[EncodedRow]) -> tuple[NDArray[np.float32], Cost]:
        return (np.arange(len(rows)) == 0).astype(np.float32), SIGNAL_COST

    episode = begun(rules(candidates=pool(60), steps=2), outlier)

    assert episode.observe()["candidates"][0, -1] == 5.0


def test_masked_slots_have_no_signal() -> None:
    signal = LengthSignal()

    observation = begun(rules(steps=2, window=9), signal).observe()

    assert [sorted(lengths) for lengths in signal.asked] == [[2, 3, 4, 5, 6, 7]]
    assert observation["candidates"][6:, -1].tolist() == [0.0] * 3


def test_every_window_that_is_picked_from_is_asked_about_once() -> None:
    signal = LengthSignal()
    episode = begun(rules(steps=3, window=4), signal)
    windows = [episode.observe()["window"]]

    windows += [take_step(episode, 7)[0]["window"] for _ in range(3)]

    assert signal.asked == [[int(row) + 2 for row in window] for window in windows[:3]]


@pytest.mark.parametrize("loss", [7.0, math.nan])
def test_the_last_observation_has_no_signal(loss: float) -> None:
    episode = begun(rules(steps=2), LengthSignal())

    first, last = take_step(episode, 7), take_step(episode, loss)

    assert any(signal_of(first))
    assert not any(signal_of(last))


def test_signals_are_charged_to_their_purpose_and_to_the_steps_they_were_for() -> None:
    ledger = Ledger()
    episode = begun(rules(steps=3, ledger=ledger), LengthSignal())

    steps = [take_step(episode, 7) for _ in range(3)]

    one_step = UPDATE_COST.plus(VALIDATION_COST).plus(SIGNAL_COST)
    assert ledger.costs["monitoring"] == SIGNAL_COST.plus(SIGNAL_COST).plus(SIGNAL_COST)
    assert told(steps, "flops") == [one_step.flops] * 3
    assert told(steps, "seconds") == [one_step.seconds] * 3


def test_a_signal_widens_the_space_of_observations() -> None:
    episode_rules = rules(steps=2, window=4)
    space = episode_rules.observation_space(with_signal=True)

    assert space.contains(begun(episode_rules, LengthSignal()).observe())
    assert not space.contains(begun(episode_rules).observe())


@pytest.mark.parametrize(
    ("values", "message"),
    [([1.0, 2.0], "one number a candidate"), ([1.0, 2.0, 3.0, math.nan, 0.0, 0.0], "finite")],
)
def test_a_signal_of_another_form_is_a_fault_of_ours(values: list[float], message: str) -> None:
    def wrong(rows: Sequence[EncodedRow]) -> tuple[NDArray[np.float32], Cost]:
        return np.array(values, np.float32), SIGNAL_COST

    with pytest.raises(AssertionError, match=message):
        begun(rules(steps=2), wrong)


# The size of the pool.


class Endless(Sequence[Any]):
    """The same thing, as often as is asked for."""

    def __init__(self, thing: object, length: int) -> None:
        self._thing = thing
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._thing


class OnlyIndexed(np.ndarray[Any, Any]):
    """An array of which some rows may be looked up, and no function may be taken."""

    looked_up = 0

    def __getitem__(self, key: Any) -> Any:
        type(self).looked_up += np.size(key)
        return self.view(np.ndarray)[key]

    def __array_function__(self, function: Any, *arguments: Any) -> Any:
        raise AssertionError(f"{function.__name__} of all candidates")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **settings: Any) -> Any:
        raise AssertionError(f"{ufunc.__name__} of all candidates")


def large_pool(num_candidates: int) -> TrainingPool:
    return TrainingPool(
        ids=Endless("id", num_candidates),
        rows=Endless(row(3), num_candidates),
        kinds=(np.arange(num_candidates) % 3).view(OnlyIndexed),
        features=np.zeros((num_candidates, 2), np.float32).view(OnlyIndexed),
        strata=np.arange(num_candidates) % 24,
    )


def two_episodes(episode_rules: EpisodeRules) -> None:
    for _ in range(2):
        episode = begun(episode_rules, LengthSignal())
        for _ in range(10):
            take_step(episode, 7)


def test_the_memory_of_an_episode_does_not_grow_with_the_pool() -> None:
    def peak(num_candidates: int) -> int:
        episode_rules = rules(candidates=large_pool(num_candidates), steps=10, window=64)
        two_episodes(episode_rules)  # makes the sampler, which does hold the pool's strata
        tracemalloc.start()
        two_episodes(episode_rules)
        bytes_held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_held

    small, large = peak(1000), peak(1_000_000)

    assert large < 1.1 * small < 100_000


def test_an_episode_looks_up_no_more_of_a_larger_pool() -> None:
    def looked_up(num_candidates: int) -> int:
        episode_rules = rules(candidates=large_pool(num_candidates), steps=10, window=64)
        OnlyIndexed.looked_up = 0
        two_episodes(episode_rules)
        return OnlyIndexed.looked_up

    picks, windows = 2 * 10 * 2, 2 * 10 * 64

    assert looked_up(1000) == looked_up(100_000) == picks + windows


# Several targets that count alike. The first has one item, the second two, the last with most
# tokens; at first their losses are 8 and (4 + 3 x 8) / 4 = 7.

SCORED = np.array([1, 1, 3])
TWO_TARGETS = Targets(np.array([0, 1, 1]), SCORED)
ONE_TARGET = Targets(np.zeros(3, np.int64), SCORED)
ITEM_LOSSES = ((8.0, 4.0, 8.0), (4.0, 4.0, 8.0), (4.0, 2.0, 4.0), (6.0, 4.0, 8.0))


def on_items(item_losses: Sequence[float]) -> Evaluation:
    loss = float(np.average(item_losses, weights=SCORED))
    return Evaluation(loss, np.array(item_losses), np.zeros(3, np.bool_), VALIDATION_COST)


def fine_tune_on_items(episode_rules: EpisodeRules) -> list[Step]:
    """Through the losses of the items, one step after the other."""
    base, *others = map(on_items, ITEM_LOSSES)
    rng = np.random.default_rng(0)
    episode = Episode(episode_rules, number=0, base=base, rng=rng, signal=None)
    steps = []
    for evaluation in others:
        stats = UpdateStats(1.0, UPDATE_COST)
        rows = episode.picked_rows(np.array([0, 1]))
        is_due = episode.record_update(rows, stats)
        steps.append(episode.finish_step(rows, stats, evaluation if is_due else None))
    return steps


def test_targets_count_alike_whatever_their_tokens() -> None:
    steps = fine_tune_on_items(rules(steps=3, targets=TWO_TARGETS))

    shares = [1.0, (4 / 8 + 1) / 2, (4 / 8 + 3.5 / 7) / 2, (6 / 8 + 1) / 2]
    assert rewards(steps) == pytest.approx([0.25, 0.25, -0.375])
    assert [step[0]["context"][0] for step in steps] == pytest.approx(shares[1:])
    assert told(steps, "validation_loss") == [on_items(each).loss for each in ITEM_LOSSES[1:]]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_rewards_of_targets_telescope(every: int) -> None:
    steps = fine_tune_on_items(rules(steps=3, targets=TWO_TARGETS, reward_every=every))

    assert sum(rewards(steps)) == pytest.approx(1 - (6 / 8 + 1) / 2)


def test_one_target_is_rewarded_as_its_tokens_are() -> None:
    by_target = fine_tune_on_items(rules(steps=3, targets=ONE_TARGET))
    by_token = fine_tune_on_items(rules(steps=3))

    assert rewards(by_target) == pytest.approx(rewards(by_token))
    for one, other in zip(by_target, by_token, strict=True):
        assert one[0]["context"] == pytest.approx(other[0]["context"])


def test_the_control_is_subtracted_from_rewards_of_targets() -> None:
    steps = fine_tune_on_items(rules(steps=3, targets=TWO_TARGETS, control=[0.5, 0.25, 0.125]))

    assert rewards(steps) == pytest.approx([-0.25, 0.0, -0.5])
    assert told(steps, "gain") == pytest.approx([0.25, 0.25, -0.375])


def test_a_broken_model_stands_at_the_level_of_its_targets_before_training() -> None:
    base = on_items(ITEM_LOSSES[0])
    rng = np.random.default_rng(0)
    limited = rules(steps=3, targets=TWO_TARGETS)
    episode = Episode(limited, number=0, base=base, rng=rng, signal=None)
    rows, stats = episode.picked_rows(np.array([0, 1])), UpdateStats(math.nan, UPDATE_COST)

    assert not episode.record_update(rows, stats)
    observation, reward, terminated, _, info = episode.finish_step(rows, stats, None)

    assert (reward, terminated, info["validation_loss"]) == (FAILURE_REWARD, True, base.loss)
    assert observation["context"][0] == 1.0
