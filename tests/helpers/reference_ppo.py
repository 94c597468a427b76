"""PPO's update written from its formulas, and a task small enough to run it on.

Nothing is shared with the policies under test or with Stable-Baselines3: one state, one slot and
one pick at a time, in float64, with automatic differentiation as the only help. Formulas are those
of Schulman et al. 2017 (arXiv 1707.06347, equations 7 to 12) and 2016 (arXiv 1506.02438, equation
16).

Shapes: ``S`` steps of a rollout, ``k`` picks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from raise_mdit.core import Observation
from raise_mdit.envs.observation import DistinctSlots, Picks, Stage, observation_space, observe

Weights = Mapping[str, torch.Tensor]


class Rollout(NamedTuple):
    """What one environment gave and what a learner made of it, one entry a step."""

    observations: list[Observation]
    actions: list[list[int]]
    rewards: list[float]
    dones: list[bool]
    values: list[float]
    """One more than steps: the last is that of the observation after the last step."""
    log_probs: list[float]
    """At the time of the picks."""
    advantages: list[float]
    returns: list[float]


class Settings(NamedTuple):
    """Of an update."""

    clip_range: float
    value_coefficient: float
    entropy_coefficient: float


class Update(NamedTuple):
    """One pass over a rollout in one minibatch."""

    policy_loss: float
    value_loss: float
    entropy_loss: float
    loss: float
    clip_fraction: float
    ratios: list[float]
    gradients: dict[str, torch.Tensor]


def ppo_update(weights: Weights, rollout: Rollout, settings: Settings) -> Update:
    """The losses of a rollout under new weights, and their gradient."""
    leaves = {name: weight.double().requires_grad_() for name, weight in weights.items()}
    scale = normalised(rollout.advantages)
    ratios, gains, errors, entropies = [], [], [], []
    for step, observation in enumerate(rollout.observations):
        scores, value = scores_and_value(leaves, observation)
        log_prob, entropy = plackett_luce(scores, rollout.actions[step])
        ratio = torch.exp(log_prob - rollout.log_probs[step])
        low, high = 1 - settings.clip_range, 1 + settings.clip_range
        ratios.append(ratio)
        gains.append(torch.min(ratio * scale[step], ratio.clamp(low, high) * scale[step]))
        errors.append((value - rollout.returns[step]) ** 2)
        entropies.append(entropy)
    policy_loss, value_loss, entropy_loss = -_mean(gains), _mean(errors), -_mean(entropies)
    loss = (
        policy_loss
        + settings.value_coefficient * value_loss
        + settings.entropy_coefficient * entropy_loss
    )
    clipped = [abs(float(ratio.detach()) - 1) > settings.clip_range for ratio in ratios]
    return Update(
        policy_loss=float(policy_loss.detach()),
        value_loss=float(value_loss.detach()),
        entropy_loss=float(entropy_loss.detach()),
        loss=float(loss.detach()),
        clip_fraction=sum(clipped) / len(clipped),
        ratios=[float(ratio.detach()) for ratio in ratios],
        gradients=dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)),
    )


def log_probs_of(weights: Weights, rollout: Rollout) -> list[float]:
    """[S] log-probability of what was picked."""
    pairs = zip(rollout.observations, rollout.actions, strict=True)
    found = [plackett_luce(scores_and_value(weights, seen)[0], picks)[0] for seen, picks in pairs]
    return [float(log_prob) for log_prob in found]


def values_of(weights: Weights, rollout: Rollout) -> list[float]:
    """[S] of the states in which something was picked."""
    return [float(scores_and_value(weights, seen)[1]) for seen in rollout.observations]


def generalised_advantages(rollout: Rollout, *, gamma: float, gae_lambda: float) -> list[float]:
    """[S] sums of temporal differences to the end of each episode, with nothing beyond."""
    differences = []
    for step, reward in enumerate(rollout.rewards):
        beyond = 0.0 if rollout.dones[step] else rollout.values[step + 1]
        differences.append(reward + gamma * beyond - rollout.values[step])
    advantages = []
    for start in range(len(differences)):
        total = 0.0
        for later in range(start, len(differences)):
            total += (gamma * gae_lambda) ** (later - start) * differences[later]
            if rollout.dones[later]:
                break
        advantages.append(total)
    return advantages


def plackett_luce(
    scores: Mapping[int, torch.Tensor], picks: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of picks in their order, and the sum of the entropies of their draws.

    Args:
        scores: Of each slot that holds a candidate.
        picks: Slots.
    """
    left = dict(scores)
    log_prob = entropy = torch.zeros((), dtype=torch.float64)
    for pick in picks:
        total = sum(torch.exp(score) for score in left.values())
        shares = {slot: torch.exp(score) / total for slot, score in left.items()}
        log_prob = log_prob + torch.log(shares[pick])
        entropy = entropy - sum(share * torch.log(share) for share in shares.values())
        del left[pick]
    return log_prob, entropy


def scores_and_value(
    weights: Weights, observation: Observation
) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """The scorer's network: a score for each slot that holds a candidate, and the state's value."""
    context = torch.tensor(observation["context"], dtype=torch.float64)
    seen = {
        slot: torch.tensor(
            [*observation["candidates"][slot], np.log1p(observation["selected"][slot])],
            dtype=torch.float64,
        )
        for slot in np.flatnonzero(observation["mask"]).tolist()
    }
    encoded = {}
    for slot, candidate in seen.items():
        hidden = torch.tanh(_layer(weights, "encoder.0", torch.cat([candidate, context])))
        encoded[slot] = torch.tanh(_layer(weights, "encoder.2", hidden))
    mean = _mean(list(encoded.values()))
    scores = {}
    for slot, code in encoded.items():
        hidden = torch.tanh(_layer(weights, "score.0", torch.cat([code, mean])))
        straight = weights["scorer.linear.weight"][0] @ seen[slot]
        scores[slot] = weights["scorer.score.2.weight"][0] @ hidden + straight
    hidden = torch.tanh(_layer(weights, "value.0", torch.cat([mean, context])))
    return scores, _layer(weights, "value.2", hidden)[0]


def normalised(numbers: Sequence[float]) -> list[float]:
    """With mean 0 and sample standard deviation 1, up to the usual 1e-8."""
    mean = sum(numbers) / len(numbers)
    variance = sum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1)
    return [(number - mean) / (variance**0.5 + 1e-8) for number in numbers]


def _layer(weights: Weights, name: str, inputs: torch.Tensor) -> torch.Tensor:
    return weights[f"scorer.{name}.weight"] @ inputs + weights[f"scorer.{name}.bias"]


def _mean(numbers: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(numbers)).mean(dim=0)


class SelectionTask(gymnasium.Env[Observation, NDArray[np.int64]]):
    """Picks are good if their first feature is positive, and bad if not: nothing is trained.

    The reward is the share of good picks less that of bad ones, over the number of steps. Of the
    window's slots the last ``masked`` are empty.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        *,
        num_slots: int,
        num_picks: int,
        steps: int,
        masked: int = 0,
    ) -> None:
        self.features = features
        self.observation_space = observation_space(  # type: ignore[assignment]  # Dict is a Mapping
            num_slots, features.shape[1], len(features)
        )
        self.action_space = DistinctSlots(num_slots, num_picks)
        self._num_slots, self._num_offered, self._steps = num_slots, num_slots - masked, steps

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._picks = Picks(np.zeros(len(self.features), np.int64))
        self._rewards: list[float] = []
        return self._offer(), {}

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        rows = self._window[action]
        self._picks.add(rows)
        self._rewards.append(float(np.sign(self.features[rows, 0]).mean()) / self._steps)
        over = len(self._rewards) == self._steps
        return self._offer(), self._rewards[-1], False, over, {}

    def _offer(self) -> Observation:
        self._window = self.np_random.permutation(len(self.features))[: self._num_offered]
        last = self._rewards[-1] if self._rewards else 0.0
        stage = Stage(1 - sum(self._rewards), len(self._rewards) / self._steps, last)
        return observe(
            self._window,
            num_slots=self._num_slots,
            features=self.features,
            picks=self._picks,
            stage=stage,
        )
