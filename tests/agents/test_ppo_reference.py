"""Stable-Baselines3's PPO with our policy, against PPO written from its formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import reference_ppo as reference
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples

from raise_mdit.agents.finite_horizon import FiniteHorizon
from raise_mdit.agents.ppo import build_ppo, learn
from raise_mdit.agents.subset_distribution import PlackettLuceDistribution
from raise_mdit.policy_config import PpoConfig

STEPS = 4
GAMMA = 0.9
GAE_LAMBDA = 0.7
SETTINGS = reference.Settings(clip_range=0.05, value_coefficient=0.5, entropy_coefficient=0.01)
TOLERANCE = 1e-6
"""The policy calculates in float32, the reference in float64."""

Bug = Callable[[PPO, pytest.MonkeyPatch], None]


class Learned(NamedTuple):
    """A rollout, and the one pass that the algorithm under test made over it."""

    rollout: reference.Rollout
    picking_weights: dict[str, torch.Tensor]
    updated_weights: dict[str, torch.Tensor]
    """With which the pass began."""
    logged: dict[str, float]
    ratios: list[float]
    gradients: dict[str, torch.Tensor]


class Recorder(BaseCallback):
    """Keeps a rollout, and moves the policy before the update so that ratios are not all one."""

    def __init__(self) -> None:
        super().__init__()
        self._rewards: list[float] = []
        self._dones: list[bool] = []

    def _on_step(self) -> bool:
        self._rewards.append(float(self.locals["rewards"][0]))
        self._dones.append(bool(self.locals["dones"][0]))
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, PPO)
        buffer: Any = self.model.rollout_buffer
        steps = range(buffer.buffer_size)
        last_value = float(self.locals["values"][0])
        self.rollout = reference.Rollout(
            observations=[
                {key: part[step, 0].copy() for key, part in buffer.observations.items()}
                for step in steps
            ],
            actions=buffer.actions[:, 0].tolist(),
            rewards=self._rewards,
            dones=self._dones,
            values=[*buffer.values[:, 0].tolist(), last_value],
            log_probs=buffer.log_probs[:, 0].tolist(),
            advantages=buffer.advantages[:, 0].tolist(),
            returns=buffer.returns[:, 0].tolist(),
        )
        self.picking_weights = weights_of(self.model)
        disturb(self.model, scale=0.2, seed=1)
        self.updated_weights = weights_of(self.model)


def weights_of(ppo: PPO) -> dict[str, torch.Tensor]:
    return {name: part.detach().clone().double() for name, part in ppo.policy.named_parameters()}


@torch.no_grad()
def disturb(ppo: PPO, *, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in ppo.policy.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def learned(patch: pytest.MonkeyPatch, bug: Bug | None = None, *, seed: int = 0) -> Learned:
    """Three episodes of four steps, with one empty slot in each window of six."""
    features = np.random.default_rng(seed).normal(size=(20, 3)).astype(np.float32)
    env = reference.SelectionTask(features, num_slots=6, num_picks=3, steps=STEPS, masked=1)
    config = PpoConfig(
        kind="ppo",
        epochs=1,
        minibatches=1,
        episodes_per_update=3,
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        clip_range=SETTINGS.clip_range,
        entropy_coefficient=SETTINGS.entropy_coefficient,
        target_kl=None,
        hidden_size=5,
    )
    ppo = build_ppo(env, config, steps_per_episode=STEPS, seed=seed)
    ppo.max_grad_norm = math.inf  # gradients are compared as they are
    disturb(ppo, scale=0.3, seed=0)
    if bug is not None:
        bug(ppo, patch)
    ratios: list[float] = []
    record_ratios(ppo, ratios)
    recorder = Recorder()
    learn(ppo, episodes=3, steps_per_episode=STEPS, callback=recorder)
    logged = {key.removeprefix("train/"): part for key, part in ppo.logger.name_to_value.items()}
    return Learned(
        rollout=recorder.rollout,
        picking_weights=recorder.picking_weights,
        updated_weights=recorder.updated_weights,
        logged=logged,
        ratios=ratios,
        gradients={
            name: part.grad.double()
            for name, part in ppo.policy.named_parameters()
            if part.grad is not None
        },
    )


def record_ratios(ppo: PPO, ratios: list[float]) -> None:
    """Keep the ratios of a training pass: what the policy says of a minibatch over what was."""
    buffer: Any = ppo.rollout_buffer
    get_samples = buffer._get_samples

    def watched(*given: Any) -> DictRolloutBufferSamples:
        samples: DictRolloutBufferSamples = get_samples(*given)
        with torch.no_grad():
            _, log_probs, _ = ppo.policy.evaluate_actions(samples.observations, samples.actions)
        ratios.extend((log_probs - samples.old_log_prob).exp().tolist())
        return samples

    buffer._get_samples = watched


def compare(found: Learned) -> None:
    """Everything that the reference calculates.

    Raises:
        AssertionError: Something differs.
    """
    rollout = found.rollout
    assert rollout.log_probs == near(reference.log_probs_of(found.picking_weights, rollout))
    assert rollout.values[:-1] == near(reference.values_of(found.picking_weights, rollout))
    advantages = reference.generalised_advantages(rollout, gamma=GAMMA, gae_lambda=GAE_LAMBDA)
    assert rollout.advantages == near(advantages)
    returns = [sum(pair) for pair in zip(advantages, rollout.values[:-1], strict=True)]
    assert rollout.returns == near(returns)
    expected = reference.ppo_update(found.updated_weights, rollout, SETTINGS)
    assert sorted(found.ratios) == near(sorted(expected.ratios))
    assert found.logged["policy_gradient_loss"] == near(expected.policy_loss)
    assert found.logged["value_loss"] == near(expected.value_loss)
    assert found.logged["entropy_loss"] == near(expected.entropy_loss)
    assert found.logged["loss"] == near(expected.loss)
    assert found.logged["clip_fraction"] == near(expected.clip_fraction)
    assert set(found.gradients) == set(expected.gradients)
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(found.gradients[name], gradient, rtol=0, atol=TOLERANCE)


def near(expected: Any) -> Any:
    return pytest.approx(expected, rel=0, abs=TOLERANCE)


def wrong_sign(ppo: PPO, patch: pytest.MonkeyPatch) -> None:
    get_samples = DictRolloutBuffer._get_samples

    def negated(self: DictRolloutBuffer, *given: Any) -> DictRolloutBufferSamples:
        samples = get_samples(self, *given)
        return samples._replace(advantages=-samples.advantages)

    patch.setattr(DictRolloutBuffer, "_get_samples", negated)


def unmasked_softmax(ppo: PPO, patch: pytest.MonkeyPatch) -> None:
    """Empty slots are never picked, but take their share in the likelihood."""
    set_parameters = PlackettLuceDistribution.proba_distribution
    log_prob = PlackettLuceDistribution.log_prob
    unmasked: dict[int, torch.Tensor] = {}

    def remember(
        self: PlackettLuceDistribution, scores: torch.Tensor, mask: torch.Tensor
    ) -> PlackettLuceDistribution:
        unmasked[id(self)] = scores
        return set_parameters(self, scores, mask)

    def of_all(self: PlackettLuceDistribution, actions: torch.Tensor) -> torch.Tensor:
        self._scores_BN = unmasked[id(self)]
        return log_prob(self, actions)

    patch.setattr(PlackettLuceDistribution, "proba_distribution", remember)
    patch.setattr(PlackettLuceDistribution, "log_prob", of_all)


def picks_are_never_taken_away(ppo: PPO, patch: pytest.MonkeyPatch) -> None:
    """Each pick has its softmax over all candidates, also those that were picked before."""

    def log_of_all(self: PlackettLuceDistribution) -> torch.Tensor:
        return self._scores_BN.logsumexp(dim=1, keepdim=True).expand(-1, self.num_picks)

    patch.setattr(PlackettLuceDistribution, "_log_left", log_of_all)


def credit_beyond_the_budget(ppo: PPO, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FiniteHorizon, "step_wait", lambda self: self.venv.step_wait())


def advantages_as_they_are(ppo: PPO, patch: pytest.MonkeyPatch) -> None:
    ppo.normalize_advantage = False


def no_clipping(ppo: PPO, patch: pytest.MonkeyPatch) -> None:
    ppo.clip_range = lambda _progress: 1e9


def another_lambda(ppo: PPO, patch: pytest.MonkeyPatch) -> None:
    ppo.rollout_buffer.gae_lambda = 1.0


def value_counted_fully(ppo: PPO, patch: pytest.MonkeyPatch) -> None:
    ppo.vf_coef = 1.0


def no_entropy_bonus(ppo: PPO, patch: pytest.MonkeyPatch) -> None:
    ppo.ent_coef = 0.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_losses_ratios_and_gradients_are_those_of_the_formulas(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = learned(monkeypatch, seed=seed)

    compare(found)
    assert 0 < found.logged["clip_fraction"] < 1  # else a branch would go untested
    assert found.rollout.dones == [False, False, False, True] * 3


@pytest.mark.parametrize(
    "bug",
    [
        wrong_sign,
        unmasked_softmax,
        picks_are_never_taken_away,
        credit_beyond_the_budget,
        advantages_as_they_are,
        no_clipping,
        another_lambda,
        value_counted_fully,
        no_entropy_bonus,
    ],
)
def test_a_planted_bug_shows(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    found = learned(monkeypatch, bug)

    with pytest.raises(AssertionError):
        compare(found)


def test_the_reference_knows_a_plackett_luce_probability_by_hand() -> None:
    """Weights 1, 2 and 3; first the second, then the third: 2/6 of all, then 3/4 of the rest."""
    scores = {slot: torch.tensor(math.log(slot + 1.0)).double() for slot in range(3)}

    log_prob, entropy = reference.plackett_luce(scores, [1, 2])

    first = -sum(share * math.log(share) for share in (1 / 6, 2 / 6, 3 / 6))
    second = -sum(share * math.log(share) for share in (1 / 4, 3 / 4))
    assert float(log_prob) == pytest.approx(math.log(2 / 6 * 3 / 4))
    assert float(entropy) == pytest.approx(first + second)
