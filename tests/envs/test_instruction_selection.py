"""The environment with a learner whose loss is known by hand, and with a real one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_by_gymnasium
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as check_by_sb3

from raise_mdit.config import FullConfig, LearnerConfig, TopLayersConfig
from raise_mdit.core import Budget, Cost, EncodedRow, Evaluation, Observation, UpdateStats
from raise_mdit.envs import ENVIRONMENT_ID, InstructionSelectionEnv, TrainingPool
from raise_mdit.envs.episode import FAILURE_REWARD
from raise_mdit.learners import causal_lm
from raise_mdit.ledger import Ledger

Make = Callable[..., Any]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]

START_LOSS = 8.0
VALIDATION_COST = Cost(tokens=7, padded_tokens=9, flops=64.0, seconds=0.25)
TOP_LAYER = TopLayersConfig(kind="top_layers", layers=1)
KEYS = ("good", "bad", "good", "neutral", "bad", "neutral")
KINDS = (0, 0, 1, 1, 2, 2)
EFFECTS = {"good": -1.0, "bad": 0.5, "neutral": 0.0, "no training": 0.0, "no validation": math.nan}
"""What training on a row of each key adds to the loss; all numbers are exact in binary."""


class FakeLearner:
    """Its loss is 8 nats plus the effect of every row that it was trained on."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.progress: list[float] = []
        self.num_evaluations = 0

    def update(self, batch: Sequence[EncodedRow], *, progress: float) -> UpdateStats:
        loss = math.nan if "no training" in {row.key for row in batch} else self._loss
        self.trained += [row.key for row in batch]
        self.progress.append(progress)
        return UpdateStats(loss, update_cost(batch))

    def evaluate(self, items: Sequence[EncodedRow]) -> Evaluation:
        self.num_evaluations += 1
        return Evaluation(self._loss, np.zeros(1), np.zeros(1, np.bool_), VALIDATION_COST)

    def snapshot(self) -> object:
        return list(self.trained)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, list)
        self.trained = list(snapshot)

    @property
    def _loss(self) -> float:
        return START_LOSS + sum(EFFECTS[key] for key in self.trained)


def update_cost(batch: Sequence[EncodedRow]) -> Cost:
    lengths = [row.num_tokens for row in batch]
    padded = len(lengths) * max(lengths)
    return Cost(tokens=sum(lengths), padded_tokens=padded, flops=32.0 * padded, seconds=0.5)


def fake_row(key: str, num_tokens: int) -> EncodedRow:
    ids = np.arange(num_tokens)
    weights = np.tile(np.array([1.0, 0.0], np.float32), (num_tokens - 1, 1))
    return EncodedRow(key, ids, ids[:-1], np.stack([ids[1:]] * 2, axis=1), weights)


def fake_pool(keys: Sequence[str] = KEYS, kinds: Sequence[int] = KINDS) -> TrainingPool:
    """Row i has i + 2 tokens and the features (i, 10 i)."""
    numbers = np.arange(len(keys))
    return TrainingPool(
        ids=[f"id-{i}" for i in numbers],
        rows=[fake_row(key, i + 2) for i, key in enumerate(keys)],
        kinds=np.array(kinds),
        features=np.stack([numbers, 10 * numbers], axis=1).astype(np.float32),
        strata=np.array(kinds),
    )


def environment(
    *,
    learner: FakeLearner | None = None,
    keys: Sequence[str] = KEYS,
    steps: int | None = 3,
    tokens: int | None = None,
    batch_size: int = 2,
    window: int | None = None,
    ledger: Ledger | None = None,
    early_stopping: bool = False,
) -> InstructionSelectionEnv:
    return InstructionSelectionEnv(
        learner=learner or FakeLearner(),
        pool=fake_pool(keys, KINDS[: len(keys)]),
        reward_validation=[fake_row("validation", 7)],
        batch_size=batch_size,
        budget=Budget(steps=steps, tokens=tokens),
        window=window,
        ledger=ledger,
        early_stopping=early_stopping,
    )


def slots(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def play(
    env: InstructionSelectionEnv, actions: Sequence[NDArray[np.int64]], *, seed: int = 0
) -> list[Step]:
    env.reset(seed=seed)
    return [env.step(action) for action in actions]


@pytest.fixture
def real_environment(random_llama: Make, random_rows: Make) -> Callable[..., Any]:
    """Makes an environment of twelve random rows and a learner of a small random model."""

    def make(
        trainable: FullConfig | TopLayersConfig = TOP_LAYER, *, window: int | None = 5
    ) -> InstructionSelectionEnv:
        rows = random_rows(12)
        config = LearnerConfig(trainable=trainable, learning_rate=1e-2)
        pool = TrainingPool(
            ids=[row.key for row in rows],
            rows=rows,
            kinds=np.arange(12) % 3,
            features=np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32),
            strata=np.arange(12) % 3,
        )
        return InstructionSelectionEnv(
            learner=causal_lm.build_learner(random_llama(), config, precision="float32", seed=0),
            pool=pool,
            reward_validation=random_rows(6, seed=1),
            batch_size=2,
            budget=Budget(steps=4),
            window=window,
        )

    return make


def assert_same_steps(first: Sequence[Step], second: Sequence[Step]) -> None:
    """Equal to the last bit but for the time that they took."""
    for one, other in zip(first, second, strict=True):
        for key, part in one[0].items():
            np.testing.assert_array_equal(part, other[0][key])
        assert one[1:4] == other[1:4]
        for name in ("loss", "validation_loss", "ids", "tokens", "termination_reason"):
            assert one[4][name] == other[4][name]


# Contracts of the libraries.


def on_purpose(test: Make) -> Make:
    """Features are a matrix, and like context and counts unbounded; the checkers ask to be sure."""
    for message in (
        ".*A Box observation space minimum value is -infinity",
        ".*A Box observation space maximum value is infinity",
        "Your observation candidates has an unconventional shape",
    ):
        test = pytest.mark.filterwarnings(f"ignore:{message}:UserWarning")(test)
    return test


@on_purpose
@pytest.mark.parametrize("window", [4, None])
def test_the_checkers_of_both_libraries_accept_a_fake_learner(window: int | None) -> None:
    check_by_gymnasium(environment(window=window), skip_render_check=True)
    check_by_sb3(environment(window=window))


@on_purpose
@pytest.mark.parametrize("window", [5, None])
def test_the_checkers_of_both_libraries_accept_a_real_learner(
    window: int | None, real_environment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose information is deterministic but for the clock, and for what a cache saves."""
    monkeypatch.setattr(causal_lm, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    uncached = FullConfig(kind="full")

    check_by_gymnasium(real_environment(uncached, window=window), skip_render_check=True)
    check_by_sb3(real_environment(uncached, window=window))


def test_it_is_made_by_its_name() -> None:
    env = gymnasium.make(
        ENVIRONMENT_ID,
        learner=FakeLearner(),
        pool=fake_pool(),
        reward_validation=[fake_row("validation", 7)],
        batch_size=2,
        budget=Budget(steps=1),
    )

    env.reset(seed=0)
    _, reward, _, truncated, _ = env.step(slots(0, 2))

    assert isinstance(env.unwrapped, InstructionSelectionEnv)
    assert (reward, truncated) == (2 / 8, True)


@pytest.mark.parametrize("window", [4, None, 9])
def test_every_observation_is_of_its_space(window: int | None) -> None:
    env = environment(window=window)

    first, _ = env.reset(seed=0)
    observations = [first, *(env.step(slots(0, 3))[0] for _ in range(3))]

    assert all(observation in env.observation_space for observation in observations)


# Rewards.


def test_a_reward_is_the_improvement_as_a_share_of_the_first_loss() -> None:
    steps = play(environment(), [slots(0, 2), slots(1, 4), slots(0, 1)])

    assert [step[1] for step in steps] == [2 / 8, -1 / 8, 0.5 / 8]
    assert [step[4]["validation_loss"] for step in steps] == [6.0, 7.0, 6.5]


def test_rewards_telescope_to_the_improvement_of_the_episode() -> None:
    rng = np.random.default_rng(0)
    actions = [rng.permutation(6)[:2] for _ in range(20)]

    steps = play(environment(steps=20), actions)

    last = steps[-1][4]["validation_loss"]
    assert sum(step[1] for step in steps) == (START_LOSS - last) / START_LOSS


def test_rewards_of_a_real_learner_telescope(real_environment: Make) -> None:
    env = real_environment()
    _, info = env.reset(seed=0)

    steps = [env.step(slots(0, 3)) for _ in range(4)]

    first, last = info["validation_loss"], steps[-1][4]["validation_loss"]
    assert sum(step[1] for step in steps) == pytest.approx((first - last) / first, abs=1e-12)
    assert first != last


# Starting state.


def test_reset_returns_the_learner_to_its_base_model() -> None:
    learner = FakeLearner()
    env = environment(learner=learner)
    play(env, [slots(0, 2)])

    _, info = env.reset()

    assert learner.trained == []
    assert info == {"validation_loss": START_LOSS}


def test_reset_repeats_an_episode_of_a_real_learner_exactly(real_environment: Make) -> None:
    env, actions = real_environment(), [slots(0, 3), slots(4, 1), slots(2, 0), slots(1, 2)]
    first = play(env, actions)

    assert_same_steps(play(env, actions), first)
    assert_same_steps(play(real_environment(), actions), first)


GOOD, BAD, NEUTRAL = [0, 2], [1, 4], [3, 5]
"""Slots of rows that lower the loss, raise it, and leave it as it is."""


@pytest.mark.parametrize(
    ("batches", "num_kept"),
    [
        ([GOOD, GOOD, BAD], 2),
        ([GOOD, BAD, GOOD], 3),
        ([BAD, BAD, BAD], 0),
        ([GOOD, NEUTRAL, BAD], 1),
    ],
    ids=["the last step harms", "the last step is best", "nothing helps", "of equals the first"],
)
def test_with_early_stopping_an_episode_ends_with_its_best_weights(
    batches: list[list[int]], num_kept: int
) -> None:
    learner = FakeLearner()
    env = environment(learner=learner, early_stopping=True)

    for _ in range(2):  # the second episode knows nothing of the first
        steps = play(env, [slots(*batch) for batch in batches])

        assert learner.trained == [KEYS[slot] for batch in batches[:num_kept] for slot in batch]
        assert steps[-1][4]["kept_steps"] == num_kept
        assert sum(step[1] for step in steps) == (START_LOSS - learner._loss) / START_LOSS


def test_a_broken_model_is_the_base_model_again_with_early_stopping_too() -> None:
    learner = FakeLearner()
    env = environment(
        learner=learner, keys=["good", "good", "no training", "good"], early_stopping=True
    )

    play(env, [slots(0, 1), slots(2, 3)])

    assert learner.trained == []


def test_a_learner_that_was_tuned_before_starts_from_there() -> None:
    learner = FakeLearner()
    learner.trained = ["good", "good"]
    env = environment(learner=learner)
    play(env, [slots(0, 2)])

    _, info = env.reset()

    assert info["validation_loss"] == START_LOSS - 2


def test_the_base_model_is_measured_once() -> None:
    learner = FakeLearner()
    env = environment(learner=learner)

    for _ in range(3):
        env.reset()
        env.step(slots(0, 1))

    assert learner.num_evaluations == 1 + 3


def test_options_of_reset_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown options \['window'\]"):
        environment().reset(options={"window": 3})


# Windows.


def test_without_a_window_the_pool_is_offered_in_its_order() -> None:
    env = environment(window=None)

    observation, _ = env.reset(seed=0)
    later = env.step(slots(5, 0))[0]

    assert observation["window"].tolist() == later["window"].tolist() == list(range(6))
    assert observation["mask"].all()


def test_the_same_seed_offers_the_same_windows() -> None:
    def windows(seed: int) -> list[list[int]]:
        env = environment(window=4, steps=10)
        first, _ = env.reset(seed=seed)
        observations = [first, *(env.step(slots(0, 1))[0] for _ in range(10))]
        return [observation["window"].tolist() for observation in observations]

    assert windows(1) == windows(1)
    assert windows(1) != windows(2)
    assert len({tuple(window) for window in windows(1)}) > 5


def test_later_episodes_without_a_seed_see_other_windows() -> None:
    env = environment(window=4)

    seeds = [0, None, None, None]
    windows = {tuple(env.reset(seed=seed)[0]["window"].tolist()) for seed in seeds}

    assert len(windows) > 1


def test_a_window_is_even_over_strata() -> None:
    observation, _ = environment(window=3).reset(seed=0)

    assert sorted(KINDS[row] for row in observation["window"]) == [0, 1, 2]


def test_picks_are_slots_of_the_window() -> None:
    env = environment(window=4)
    observation, _ = env.reset(seed=3)

    info = env.step(slots(2, 0))[4]

    rows = observation["window"][[2, 0]].tolist()
    assert info["rows"].tolist() == rows
    assert info["ids"] == [f"id-{row}" for row in rows]


def test_a_window_larger_than_the_pool_is_masked() -> None:
    observation, _ = environment(window=9).reset(seed=0)

    assert observation["mask"].tolist() == [1] * 6 + [0] * 3
    assert sorted(observation["window"][:6].tolist()) == list(range(6))


def test_a_batch_larger_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size 5 is more than the 4 candidates"):
        environment(batch_size=5, window=4)


def test_a_batch_larger_than_the_pool_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size 7 is more than the 6 .*window 9, on offer 6"):
        environment(batch_size=7, window=9)


# Observations.


def test_an_episode_starts_with_nothing_picked() -> None:
    env = environment()
    play(env, [slots(0, 2)])

    observation, _ = env.reset()

    assert observation["context"].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert observation["selected"].tolist() == [0] * 6


def test_an_observation_says_what_was_picked_and_where_training_stands() -> None:
    """Rows 0 and 2 are good, 0 and 1 originals, 2 a mosaic: 3 of 4 picks are originals."""
    steps = play(environment(steps=4), [slots(0, 2), slots(1, 0)])

    observation = steps[-1][0]

    assert observation["selected"].tolist() == [2, 1, 1, 0, 0, 0]
    assert observation["context"].tolist() == [5.5 / 8, 2 / 4, 0.5 / 8, 3 / 4, 1 / 4, 0, 0]
    assert observation["candidates"].tolist() == [[i, 10 * i] for i in range(6)]


def test_a_budget_in_tokens_is_observed_as_a_share() -> None:
    """Rows 0 and 1 have 2 and 3 tokens."""
    observation = play(environment(steps=None, tokens=20), [slots(0, 1)])[0][0]

    assert observation["context"][1] == np.float32(5 / 20)


def test_the_learner_is_told_the_share_spent_before_each_step() -> None:
    learner = FakeLearner()

    play(environment(learner=learner, steps=4), [slots(0, 1)] * 4)

    assert learner.progress == [0, 1 / 4, 2 / 4, 3 / 4]


# Episode end.


def test_the_last_step_of_the_budget_truncates() -> None:
    steps = play(environment(steps=3), [slots(0, 1)] * 3)

    assert [step[2] for step in steps] == [False] * 3
    assert [step[3] for step in steps] == [False, False, True]
    assert steps[-1][4]["budget_share"] == 1.0
    assert steps[-1][4]["termination_reason"] is None


@pytest.mark.parametrize(("tokens", "num_steps"), [(10, 2), (11, 3), (1, 1)])
def test_the_step_that_crosses_the_token_budget_is_the_last(tokens: int, num_steps: int) -> None:
    """Rows 0 and 1 have five tokens together; padding does not count."""
    steps = play(environment(steps=None, tokens=tokens), [slots(0, 1)] * num_steps)

    assert [step[3] for step in steps] == [False] * (num_steps - 1) + [True]
    assert [step[4]["tokens"] for step in steps] == [5] * num_steps
    assert steps[-1][4]["budget_share"] == 1.0


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("no training", "the training loss or its gradient is not finite at step 2"),
        ("no validation", "the validation loss is not finite after step 2"),
    ],
)
def test_a_broken_model_terminates_with_its_reason(key: str, reason: str) -> None:
    env = environment(keys=["good", "good", "neutral", key])

    steps = play(env, [slots(0, 1), slots(2, 3)])

    observation, reward, terminated, truncated, info = steps[-1]
    assert (reward, terminated, truncated) == (FAILURE_REWARD, True, False)
    assert info["termination_reason"] == reason
    assert observation in env.observation_space
    assert np.isfinite(observation["context"]).all()


@pytest.mark.parametrize("key", ["no training", "no validation"])
def test_a_broken_model_is_the_base_model_again(key: str) -> None:
    learner = FakeLearner()
    env = environment(learner=learner, keys=["good", "good", "neutral", key])

    steps = play(env, [slots(0, 1), slots(2, 3)])

    assert learner.trained == []
    assert steps[-1][4]["validation_loss"] == START_LOSS


@pytest.mark.parametrize("key", ["no training", "no validation"])
def test_an_episode_after_a_broken_one_is_as_any_other(key: str) -> None:
    env = environment(keys=["good", "good", "neutral", key])
    whole = play(env, [slots(0, 1)] * 3)
    play(env, [slots(0, 1), slots(2, 3)])

    assert_same_steps(play(env, [slots(0, 1)] * 3), whole)


def test_a_step_without_a_training_loss_is_not_validated() -> None:
    learner = FakeLearner()

    play(environment(learner=learner, keys=["good", "no training"]), [slots(0, 1)])

    assert learner.num_evaluations == 1


def test_a_real_learner_that_breaks_is_restored_exactly(
    real_environment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, actions = real_environment(), [slots(0, 3), slots(4, 1)]
    whole = play(env, actions)
    evaluate = env._learner.evaluate
    broken = [lambda items: evaluate(items)._replace(loss=math.inf)]
    monkeypatch.setattr(env._learner, "evaluate", lambda items: broken.pop()(items))

    failed = play(env, actions[:1])

    monkeypatch.undo()
    assert failed[0][2]
    assert_same_steps(play(env, actions), whole)


# Faults of the caller.


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0, 0], r"a slot is picked twice in one action: \[0, 0\]"),
        ([0, 9], r"slots are 0 to 8, got \[0, 9\]"),
        ([-1, 0], r"slots are 0 to 8, got \[-1, 0\]"),
        ([0, 7], r"a masked slot is picked: \[0, 7\]; see observation\['mask'\]"),
        ([0], r"an action is 2 slots, got shape \(1,\)"),
        ([0, 1, 2], r"an action is 2 slots, got shape \(3,\)"),
        ([[0, 1]], r"an action is 2 slots, got shape \(1, 2\)"),
        ([0.0, 1.5], r"slots are whole numbers, got float64: \[0.0, 1.5\]"),
        ([True, False], r"slots are whole numbers, got bool: \[True, False\]"),
    ],
)
def test_an_action_outside_of_the_space_is_refused(action: list[Any], message: str) -> None:
    learner = FakeLearner()
    env = environment(learner=learner, window=9)
    env.reset(seed=0)

    with pytest.raises(ValueError, match=message):
        env.step(np.array(action))

    assert learner.trained == []


def test_a_refused_action_does_not_end_the_episode() -> None:
    env = environment()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="twice"):
        env.step(slots(1, 1))

    reward = env.step(slots(0, 2))[1]

    assert reward == 2 / 8


def test_a_step_before_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"call reset\(\) before step\(\)"):
        environment().step(slots(0, 1))


@pytest.mark.parametrize("keys", [KEYS, ("good", "no training")])
def test_a_step_after_the_end_is_refused(keys: Sequence[str]) -> None:
    env = environment(keys=keys, steps=1)
    play(env, [slots(0, 1)])

    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step(slots(0, 1))


# Costs.


def test_the_ledger_holds_exactly_what_the_learner_reports() -> None:
    ledger, pool = Ledger(), fake_pool()
    env = environment(ledger=ledger)

    play(env, [slots(0, 1), slots(2, 5)])
    env.reset()

    updates = update_cost(pool.rows[:2]).plus(update_cost([pool.rows[2], pool.rows[5]]))
    validations = VALIDATION_COST.plus(VALIDATION_COST).plus(VALIDATION_COST)
    spent = {name: cost for name, cost in ledger.costs.items() if cost != Cost()}
    assert spent == {"policy_training": updates, "reward_evaluation": validations}


def test_the_ledger_is_told_the_purposes_it_was_made_for() -> None:
    ledger = Ledger()
    env = InstructionSelectionEnv(
        learner=FakeLearner(),
        pool=fake_pool(),
        reward_validation=[fake_row("validation", 7)],
        batch_size=2,
        budget=Budget(steps=1),
        ledger=ledger,
        training_purpose="final_training",
        evaluation_purpose="final_evaluation",
    )

    play(env, [slots(0, 1)])

    spent = {name for name, cost in ledger.costs.items() if cost != Cost()}
    assert spent == {"final_training", "final_evaluation"}


def test_a_step_reports_its_own_cost_with_its_validation() -> None:
    pool, env = fake_pool(), environment()

    info = play(env, [slots(0, 1), slots(2, 5)])[-1][4]

    update = update_cost([pool.rows[2], pool.rows[5]])
    assert info["tokens"] == update.tokens == 4 + 7
    assert info["flops"] == update.flops + VALIDATION_COST.flops
    assert info["seconds"] == update.seconds + VALIDATION_COST.seconds


def test_a_broken_step_is_paid_for() -> None:
    ledger, pool = Ledger(), fake_pool(["good", "no training"], [0, 0])

    play(environment(keys=["good", "no training"], ledger=ledger), [slots(0, 1)])

    assert ledger.costs["policy_training"] == update_cost(pool.rows)


def test_rewards_of_targets_are_those_of_the_real_losses(
    random_llama: Make, random_rows: Make
) -> None:
    rows, items = random_rows(12), random_rows(5, seed=1)
    config = LearnerConfig(trainable=TOP_LAYER, learning_rate=1e-2)
    learner = causal_lm.build_learner(random_llama(), config, precision="float32", seed=0)
    targets = np.array([0, 1, 0, 1, 1])
    env = InstructionSelectionEnv(
        learner=learner,
        pool=TrainingPool(
            ids=[row.key for row in rows],
            rows=rows,
            kinds=np.zeros(12, np.int64),
            features=np.zeros((12, 0), np.float32),
            strata=np.zeros(12, np.int64),
        ),
        reward_validation=items,
        batch_size=2,
        budget=Budget(steps=2),
        targets=targets,
    )

    def of_targets() -> list[float]:
        return [
            learner.evaluate([items[i] for i in np.flatnonzero(targets == target)]).loss
            for target in (0, 1)
        ]

    env.reset(seed=0)
    before = of_targets()
    levels = [1.0]
    for step in range(2):
        observation, reward, *_ = env.step(slots(step, step + 5))
        shares = [now / then for now, then in zip(of_targets(), before, strict=True)]
        levels.append(sum(shares) / 2)
        assert reward == pytest.approx(levels[-2] - levels[-1], abs=1e-6)
        assert observation["context"][0] == pytest.approx(levels[-1], abs=1e-6)
