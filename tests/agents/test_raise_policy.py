"""RAISE as printed: what it picks, what it counts as likely, and how it is trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import reference_ppo as reference
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv

from raise_mdit.agents.ppo import load_policy, save_policy
from raise_mdit.agents.raise_policy import STAGE_SIZE, BestOfClasses, RaisePolicy, build_raise
from raise_mdit.agents.rollout_buffer import PoolRolloutBuffer
from raise_mdit.core import Observation
from raise_mdit.envs.observation import CONTEXT, DistinctSlots, observation_space
from raise_mdit.policy_config import RaiseConfig

NUM_CANDIDATES = 12
NUM_FEATURES = 4
NUM_SLOTS = 6
NUM_PICKS = 3
CLASSES = np.arange(NUM_CANDIDATES) % 2
COLUMNS = np.array([0, 2])
STEPS = 4


def chosen(
    scores: list[float], classes: list[int], *, picks: int, masked: tuple[int, ...] = ()
) -> BestOfClasses:
    """Of a single window."""
    mask = torch.ones(1, len(scores), dtype=torch.bool)
    mask[0, list(masked)] = False
    made = BestOfClasses(picks, num_classes=max(classes) + 1)
    return made.proba_distribution(torch.tensor([scores]), torch.tensor([classes]), mask)


def slowly(scores: list[float], classes: list[int], mask: list[bool], picks: int) -> set[int]:
    """Which slots are picked: one class after another, one slot after another."""
    num_classes = max(classes) + 1
    taken: list[int] = []
    for number in range(num_classes):
        quota = picks // num_classes + (number < picks % num_classes)
        own = [slot for slot in range(len(scores)) if classes[slot] == number and mask[slot]]
        taken += sorted(own, key=lambda slot: -scores[slot])[:quota]
    left = [slot for slot in range(len(scores)) if mask[slot] and slot not in taken]
    return {*taken, *sorted(left, key=lambda slot: -scores[slot])[: picks - len(taken)]}


def policy(*, hidden_size: int = 8) -> RaisePolicy:
    torch.manual_seed(0)
    return RaisePolicy(
        observation_space(NUM_SLOTS, NUM_FEATURES, NUM_CANDIDATES),
        DistinctSlots(NUM_SLOTS, NUM_PICKS),
        lambda _progress: 1e-1,
        classes=CLASSES,
        columns=COLUMNS,
        num_classes=2,
        critic_learning_rate=2e-1,
        weight_decay=1e-2,
        hidden_size=hidden_size,
    )


def observation(*, seed: int = 0, masked: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    mask = np.ones(NUM_SLOTS, np.int8)
    mask[NUM_SLOTS - masked :] = 0
    return {
        "candidates": rng.normal(size=(NUM_SLOTS, NUM_FEATURES)).astype(np.float32),
        "context": rng.normal(size=len(CONTEXT)).astype(np.float32),
        "selected": rng.integers(0, 3, NUM_SLOTS).astype(np.float32),
        "mask": mask,
        "window": rng.permutation(NUM_CANDIDATES)[:NUM_SLOTS],
    }


def changed(seen: Observation, key: str, where: Any, number: float) -> Observation:
    """An observation that differs in some numbers of one part."""
    part = seen[key].copy()
    part[where] = number
    return {**seen, key: part}


def tensors(*observations: Observation) -> dict[str, torch.Tensor]:
    return {
        key: torch.as_tensor(np.stack([one[key] for one in observations]))
        for key in observations[0]
    }


def scores_of(made: RaisePolicy, seen: Observation) -> NDArray[np.float64]:
    """[W] F of each candidate, one at a time: stage, columns, availability."""
    scores = []
    for slot in range(NUM_SLOTS):
        available = np.log1p(seen["selected"][slot])
        known = [*seen["context"][:2], *seen["candidates"][slot, COLUMNS], available]
        inputs = torch.tensor(np.array(known), dtype=torch.float32)
        scores.append(float(made.actor(inputs).detach()))
    return np.array(scores)


def class_probabilities(scores: NDArray[np.float64], seen: Observation) -> NDArray[np.float64]:
    """[W] softmax inside each class, over what is not masked."""
    weights = np.where(seen["mask"] > 0, np.exp(scores), 0.0)
    classes = CLASSES[seen["window"]]
    return np.array([weights[i] / weights[classes == classes[i]].sum() for i in range(NUM_SLOTS)])


def task(
    *, steps: int = STEPS, num_slots: int = 16, num_picks: int = 4, num_candidates: int = 40
) -> Any:
    features = np.random.default_rng(0).normal(size=(num_candidates, 3)).astype(np.float32)
    return reference.SelectionTask(features, num_slots=num_slots, num_picks=num_picks, steps=steps)


def learner(*, seed: int = 0, with_features: bool = False, **settings: Any) -> PPO:
    env = task()
    return build_raise(
        env,
        RaiseConfig(kind="raise", **{"hidden_size": 8, **settings}),
        steps_per_episode=STEPS,
        seed=seed,
        classes=np.arange(len(env.features)) % 2,
        columns=np.array([0, 1]),
        features=env.features if with_features else None,
    )


def after(ppo: PPO, *, episodes: int) -> PPO:
    return ppo.learn(episodes * STEPS, callback=CallbackList([]))


def same_weights(first: PPO, second: PPO) -> bool:
    weights = second.policy.state_dict()
    return all(torch.equal(part, weights[key]) for key, part in first.policy.state_dict().items())


def test_each_class_gives_its_best() -> None:
    """The three highest are of class 0, which owes two."""
    made = chosen([9.0, 8.0, 7.0, 1.0, 3.0, 2.0], [0, 0, 0, 1, 1, 1], picks=4)

    assert made.mode().tolist() == [[0, 1, 4, 5]]


def test_the_first_classes_give_one_more_where_classes_do_not_divide_the_batch() -> None:
    """Five of three classes: two, two and one."""
    scores = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 7.0, 8.0, 9.0]
    made = chosen(scores, [0, 0, 0, 1, 1, 1, 2, 2, 2], picks=5)

    assert set(made.mode()[0].tolist()) == {2, 1, 5, 4, 8}


def test_a_masked_slot_is_not_picked_however_high() -> None:
    made = chosen([9.0, 8.0, 7.0, 1.0, 3.0, 2.0], [0, 0, 0, 1, 1, 1], picks=4, masked=(0, 4))

    assert set(made.mode()[0].tolist()) == {1, 2, 5, 3}


def test_others_fill_up_by_score_for_a_class_that_has_too_few() -> None:
    """Class 0 owes two and has one. Of what the others do not owe, slot 5 is the highest."""
    scores = [0.5, 9.0, 8.0, 2.0, 3.0, 2.5]
    made = chosen(scores, [0, 0, 1, 1, 2, 2], picks=5, masked=(1,))

    assert set(made.mode()[0].tolist()) == {0, 2, 3, 4, 5}
    fewer = chosen(scores, [0, 0, 1, 2, 2, 2], picks=4, masked=(1,))
    assert set(fewer.mode()[0].tolist()) == {0, 2, 4, 5}


@pytest.mark.parametrize("seed", range(40))
def test_picks_are_those_of_the_slow_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picks, num_classes = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    scores = rng.permutation(12).astype(float).tolist()
    classes = [*rng.integers(0, num_classes, 11).tolist(), num_classes - 1]
    masked = tuple(rng.permutation(12)[: rng.integers(0, 12 - picks + 1)].tolist())
    mask = [slot not in masked for slot in range(12)]

    actions = chosen(scores, classes, picks=picks, masked=masked).mode()[0].tolist()

    assert len(actions) == picks
    assert set(actions) == slowly(scores, classes, mask, picks)


def test_of_equal_scores_the_earlier_slots_are_picked() -> None:
    made = chosen([0.0] * 6, [1, 0, 1, 0, 1, 0], picks=4)

    assert made.mode().tolist() == [[0, 1, 2, 3]]


def test_nothing_is_drawn() -> None:
    made, seen = policy(), tensors(*[observation(seed=seed) for seed in range(30)])

    actions, _, _ = made(seen)

    assert torch.equal(actions, made(seen)[0])
    assert torch.equal(actions, made.get_distribution(seen).sample())
    assert torch.equal(actions, made.get_distribution(seen).mode())
    assert made.get_distribution(seen).entropy().tolist() == [0.0] * 30


def test_the_logarithm_of_a_pick_is_that_of_its_share_in_its_class() -> None:
    """Weights 1, 2, 3 in class 0 and 1, 4 in class 1; a masked slot has no share.

    Slots 2, 1 and 4 have 3/6, 2/6 and 4/5.
    """
    weights = [1.0, 2.0, 3.0, 1.0, 4.0, 100.0]
    scores = [math.log(weight) for weight in weights]
    made = chosen(scores, [0, 0, 0, 1, 1, 1], picks=3, masked=(5,))

    found = made.log_prob(torch.tensor([[2, 1, 4]]))

    assert found.tolist() == pytest.approx([math.log(3 / 6 * 2 / 6 * 4 / 5)])


def test_the_order_of_picks_does_not_matter() -> None:
    made = chosen([0.3, 1.0, -2.0, 0.7], [0, 0, 1, 1], picks=2)

    assert made.log_prob(torch.tensor([[0, 3]])) == made.log_prob(torch.tensor([[3, 0]]))


@pytest.mark.parametrize("masked", [0, 2])
def test_the_ratio_is_the_product_over_picks_of_new_over_old_shares(masked: int) -> None:
    seen, old, new = observation(masked=masked), policy(), policy()
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.mul_(1.3)
    actions, _, old_log = old(tensors(seen))

    _, new_log, _ = new.evaluate_actions(tensors(seen), actions)

    picked = actions[0].tolist()
    old_shares, new_shares = (class_probabilities(scores_of(p, seen), seen) for p in (old, new))
    product = np.prod([new_shares[i] / old_shares[i] for i in picked])
    assert float((new_log - old_log).detach().exp()) == pytest.approx(float(product), rel=1e-5)
    assert abs(product - 1) > 1e-3


def test_classes_are_those_of_the_pool_rows_in_the_window() -> None:
    """The best of each class, two of class 0 and one of class 1, wherever they stand."""
    made = policy()
    for seed in range(10):
        seen = observation(seed=seed)

        actions, _ = made.predict(seen)

        classes = CLASSES[seen["window"]].tolist()
        expected = slowly(scores_of(made, seen).tolist(), classes, [True] * NUM_SLOTS, NUM_PICKS)
        assert set(actions.tolist()) == expected


def test_the_stage_is_loss_ratio_and_budget_share() -> None:
    assert CONTEXT[:STAGE_SIZE] == ("loss_ratio", "budget_share")


@pytest.mark.parametrize(
    ("key", "where"), [("context", slice(2, None)), ("candidates", (slice(None), [1, 3]))]
)
def test_what_is_no_part_of_the_state_changes_nothing(key: str, where: Any) -> None:
    made, seen = policy(), observation()

    with torch.no_grad():
        _, values, log_probs = made(tensors(seen, changed(seen, key, where, 5.0)))

    assert values[0] == values[1]
    assert log_probs[0] == log_probs[1]


@pytest.mark.parametrize(
    ("key", "where"), [("context", 0), ("context", 1), ("candidates", (0, 0)), ("selected", 0)]
)
def test_every_part_of_the_state_is_looked_at(key: str, where: Any) -> None:
    made, seen = policy(), observation()
    actions = torch.tensor([[0, 1, 2]] * 2)

    with torch.no_grad():
        values, log_probs, _ = made.evaluate_actions(
            tensors(seen, changed(seen, key, where, 5.0)), actions
        )

    assert values[0] != values[1]
    assert log_probs[0] != log_probs[1]


def test_the_critic_sees_the_stage_and_the_mean_of_unmasked_samples() -> None:
    made, seen = policy(), observation(masked=2)

    value = made.predict_values(tensors(seen))

    samples = np.column_stack([seen["candidates"][:, COLUMNS], np.log1p(seen["selected"])])
    inputs = np.array([*seen["context"][:2], *samples[:4].mean(axis=0)], np.float32)
    assert value.tolist() == pytest.approx(made.critic(torch.tensor(inputs)).tolist(), rel=1e-5)


def test_weights_hold_neither_classes_nor_columns() -> None:
    keys = set(policy().state_dict())

    assert {key.split(".")[0] for key in keys} == {"actor", "critic"}


def test_a_policy_is_built_again_from_its_own_parameters() -> None:
    made = policy(hidden_size=5)

    again = RaisePolicy(**made._get_constructor_parameters())
    again.load_state_dict(made.state_dict())

    seen = tensors(observation())
    assert torch.equal(again(seen)[0], made(seen)[0])
    assert again.get_parameter("actor.0.weight").shape == (5, 2 + len(COLUMNS) + 1)


def test_printed_settings_reach_the_algorithm() -> None:
    ppo = learner(epochs=3)

    assert (ppo.gamma, ppo.gae_lambda, ppo.ent_coef) == (0.99, 1.0, 0.0)
    assert (ppo.n_steps, ppo.batch_size, ppo.n_epochs) == (STEPS, STEPS, 3)
    assert ppo.clip_range(1.0) == 0.2  # type: ignore[operator]  # the library wraps the number
    assert ppo.normalize_advantage
    assert ppo.max_grad_norm == math.inf


def test_an_update_follows_each_episode() -> None:
    ppo = after(learner(epochs=3), episodes=5)

    assert ppo.num_timesteps == 5 * STEPS
    assert ppo._n_updates == 5 * 3


def test_both_learning_rates_and_the_decay_hold_throughout() -> None:
    ppo = after(learner(), episodes=3)

    actor, critic = ppo.policy.optimizer.param_groups
    assert (actor["lr"], critic["lr"]) == (1e-1, 2e-1)
    assert (actor["weight_decay"], critic["weight_decay"]) == (1e-2, 1e-2)
    grouped = [id(part) for group in (actor, critic) for part in group["params"]]
    assert sorted(grouped) == sorted(id(part) for part in ppo.policy.parameters())


@pytest.mark.parametrize(("network", "rate"), [("actor", 0.1), ("critic", 0.2)])
def test_the_first_update_moves_each_weight_by_its_network_s_rate(
    network: str, rate: float
) -> None:
    """AdamW's first step: the rate times the gradient's sign, and the decay."""
    ppo = learner(epochs=1)
    before = {key: part.clone() for key, part in ppo.policy.state_dict().items()}

    after(ppo, episodes=1)

    steps = []
    for name, part in ppo.policy.named_parameters():
        if name.startswith(network):
            assert part.grad is not None
            moved = part.detach() - before[name] * (1 - rate * 1e-2)
            steps.append(moved.abs()[part.grad.abs() > 1e-4])  # beside which Adam's 1e-8 is nothing
    found = torch.cat(steps)
    assert len(found) > 20
    torch.testing.assert_close(found, torch.full_like(found, rate), rtol=1e-3, atol=0)


def test_the_same_seed_trains_the_same_policy_and_another_one_another() -> None:
    first, second, other = (after(learner(seed=seed), episodes=3) for seed in (3, 3, 4))

    assert same_weights(first, second)
    assert not same_weights(first, other)


def test_a_rollout_without_features_trains_the_same_policy_to_the_bit() -> None:
    with_table, without = (after(learner(with_features=x), episodes=3) for x in (True, False))

    assert isinstance(with_table.rollout_buffer, PoolRolloutBuffer)
    assert not isinstance(without.rollout_buffer, PoolRolloutBuffer)
    assert same_weights(with_table, without)


def test_a_saved_policy_acts_as_before_when_it_is_read(tmp_path: Path) -> None:
    ppo, fresh = after(learner(), episodes=3), learner(seed=7)
    save_policy(ppo, tmp_path / "policy.safetensors")

    load_policy(fresh, tmp_path / "policy.safetensors")

    assert same_weights(fresh, ppo)


def test_an_episode_of_one_step_can_be_learned_from() -> None:
    env = task(steps=1)
    ppo = build_raise(
        env,
        RaiseConfig(kind="raise", hidden_size=8),
        steps_per_episode=1,
        seed=0,
        classes=np.zeros(len(env.features), np.int64),
        columns=np.array([0]),
    )

    ppo.learn(3)

    assert all(torch.isfinite(part).all() for part in ppo.policy.parameters())


def test_more_than_one_environment_is_refused() -> None:
    env = DummyVecEnv([task, task])

    with pytest.raises(AssertionError, match="follows each episode"):
        build_raise(
            env,
            RaiseConfig(kind="raise"),
            steps_per_episode=STEPS,
            seed=0,
            classes=np.zeros(40, np.int64),
            columns=np.array([0]),
        )


def test_more_classes_than_configured_are_refused() -> None:
    with pytest.raises(AssertionError, match="2 classes"):
        build_raise(
            task(),
            RaiseConfig(kind="raise", classes=2),
            steps_per_episode=STEPS,
            seed=0,
            classes=np.arange(40) % 3,
            columns=np.array([0]),
        )


def mean_return(ppo: PPO, env: Any) -> float:
    """Of 40 episodes of one step, the same for every policy."""
    seen, rewards = env.reset(seed=1)[0], []
    for _ in range(40):
        action, _ = ppo.predict(seen)
        rewards.append(env.step(action)[1])
        seen, _ = env.reset()
    return float(np.mean(rewards))


@pytest.mark.parametrize("seed", [2, 3])
def test_it_unlearns_a_wrong_preference_where_episodes_have_one_step(seed: int) -> None:
    """Two of eight, one of each class; the best possible return is below 0.8.

    With one step an episode the advantage is the reward less the critic's guess. In longer episodes
    a learner that never explores need not get there, and at the printed rates it does not stay.
    """
    env, held_out = (task(steps=1, num_slots=8, num_picks=2) for _ in range(2))
    config = RaiseConfig(
        kind="raise", hidden_size=8, actor_learning_rate=1e-2, critic_learning_rate=2e-2
    )
    classes, columns = np.arange(len(env.features)) % 2, np.array([0, 1])
    ppo = build_raise(env, config, steps_per_episode=1, seed=seed, classes=classes, columns=columns)
    before = mean_return(ppo, held_out)

    ppo.learn(120)

    assert before < -0.5
    assert mean_return(ppo, held_out) > 0.6


def test_printed_rates_with_a_large_batch_leave_weights_finite() -> None:
    """The product over 64 picks overflows in the update after one of these episodes."""
    env = task(steps=12, num_slots=200, num_picks=64, num_candidates=300)
    ppo = build_raise(
        env,
        RaiseConfig(kind="raise"),
        steps_per_episode=12,
        seed=0,
        classes=np.arange(300) % 2,
        columns=np.array([0, 1]),
    )

    ppo.learn(6 * 12)

    assert all(torch.isfinite(part).all() for part in ppo.policy.parameters())
