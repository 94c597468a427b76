"""RAISE as printed, behind Stable-Baselines3's PPO, unforked (arXiv 2504.07282).

A scorer F gives every candidate a number, and of each class the highest are taken. Nothing is
drawn, in learning neither, yet the update is PPO's with the probabilities that draws would have.
It is here to be compared with; :mod:`raise_mdit.agents.ppo` draws, and knows the likelihood of what
it drew.

Printed:

- The state of a sample: stage (performance, share of the budget), difficulty (4 numbers), semantics
  (32), availability (how often it was picked).
- The batch: K-means splits the pool into C classes once; of each the k / C highest.
- The update: after each episode, PPO with the ratio ``product of p_new / p_old`` over all picks, p
  the softmax of F inside the pick's class; clip range 0.2, gamma 0.99, lambda 1; the critic's mean
  squared error; learning rates 1e-1 (actor) and 2e-1 (critic), weight decay 1e-2.

Not printed, with our choice:

- F and the critic are 64-64 tanh networks, with PyTorch's start: with all scores equal the first
  batches would be the pool's first rows.
- The critic sees the stage and the mean of all samples.
- Features are standardised once; performance is the loss as a share of the start's; availability is
  log(1 + count); advantages are normalised.
- AdamW, and one minibatch an epoch. No entropy bonus and no clipping of gradients. An update whose
  ratios come near to overflow ends early.
- Where C does not divide k, the first classes give one more. A class with too few candidates gives
  all, and the highest of the others fill up.

Shapes: ``N`` candidates of the pool, ``B`` batch, ``W`` slots, ``C`` classes, ``S`` stage,
``F`` numbers of a sample without the stage, ``k`` picks.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from raise_mdit.agents.finite_horizon import SelectionEnv, rollouts_of, with_finite_horizon
from raise_mdit.agents.subset_distribution import MASKED
from raise_mdit.policy_config import RaiseConfig

GAMMA = 0.99  # printed
GAE_LAMBDA = 1.0  # printed
CLIP_RANGE = 0.2  # printed

STAGE_SIZE = 2
"""The stage stands first in `context`: loss ratio and budget share. What follows is not RAISE's."""

LARGEST_DIVERGENCE = 1e12
"""An update ends early at 1.5 times this approximate divergence. It is no setting, but stays clear
of float32's edge: the ratio is a product over all picks, and beyond e^88 it is infinite and its
gradient not a number. At the printed rates with 64 picks of 200 candidates, two seeds of three got
there within six episodes."""


def build_raise(
    env: SelectionEnv | VecEnv,
    config: RaiseConfig,
    *,
    steps_per_episode: int,
    seed: int,
    classes: NDArray[np.int64],
    columns: NDArray[np.int64],
    features: NDArray[np.float32] | None = None,
) -> PPO:
    """A learner of RAISE's policy on ``env``.

    Args:
        env: One fine-tuning an episode; a vector holds no more than one.
        config: Hyper-parameters.
        steps_per_episode: Length of an episode, or the best guess where tokens limit it.
        seed: Of the networks' start. The library seeds the global generators with it.
        classes: [N] K-means class of each row of the pool, below ``config.classes``.
        columns: Columns of `candidates` that F sees: difficulty and semantics, without kinds.
        features: [N, features] of the pool, the first columns of `candidates`. With it a rollout
            stores rows of the pool instead of features; what is learned is the same.
    """
    vec_env = with_finite_horizon(env)
    assert vec_env.num_envs == 1, "an update follows each episode"
    assert classes.min() >= 0, "classes are counted from 0"
    assert classes.max() < config.classes, f"{config.classes} classes"
    return _TwoRates(
        RaisePolicy,
        vec_env,
        learning_rate=config.actor_learning_rate,
        n_steps=steps_per_episode,
        batch_size=steps_per_episode,
        n_epochs=config.epochs,
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        clip_range=CLIP_RANGE,
        normalize_advantage=steps_per_episode > 1,  # a single advantage has no deviation
        ent_coef=0.0,
        vf_coef=1.0,  # actor and critic share nothing, so their losses are added as they are
        max_grad_norm=math.inf,  # no clipping of gradients is printed; the library's default is 0.5
        **rollouts_of(features),
        target_kl=LARGEST_DIVERGENCE,  # none is printed
        policy_kwargs={
            "classes": classes,
            "columns": columns,
            "num_classes": config.classes,
            "critic_learning_rate": config.critic_learning_rate,
            "weight_decay": config.weight_decay,
            "hidden_size": config.hidden_size,
        },
        seed=seed,
        device="cpu",
    )


class BestOfClasses(Distribution):
    """The highest scores of each class, with the likelihood that RAISE gives them.

    What is picked is certain. ``log_prob`` is no logarithm of a probability of that: it is the sum
    over picks of log softmax inside the pick's class, so that the difference of two is the
    logarithm of the printed ratio.
    """

    def __init__(self, num_picks: int, num_classes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_picks = num_picks
        self.num_classes = num_classes
        each, more = divmod(num_picks, num_classes)
        self._quotas_C = torch.full((num_classes,), each)
        self._quotas_C[:more] += 1
        self._scores_BW = torch.empty(0)
        self._classes_BW = torch.empty(0, dtype=torch.int64)
        self._mask_BW = torch.empty(0, dtype=torch.bool)

    def proba_distribution_net(self, *_args: Any, **_kwargs: Any) -> Any:
        """Not offered: scores come from a network shared over candidates, which the policy owns."""
        raise NotImplementedError("the policy's actor gives the scores")

    def proba_distribution(
        self, scores_BW: torch.Tensor, classes_BW: torch.Tensor, mask_BW: torch.Tensor
    ) -> Self:
        """Set the parameters.

        Args:
            scores_BW: Of F.
            classes_BW: Class of each slot's candidate.
            mask_BW: Bool; at least ``num_picks`` of each row are true.
        """
        self._scores_BW = scores_BW.masked_fill(~mask_BW, MASKED)
        self._classes_BW = classes_BW
        self._mask_BW = mask_BW
        return self

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """[B] sum over picks of log softmax of the scores inside the pick's class."""
        picked_Bk = actions.long().reshape(-1, self.num_picks)
        log_totals_BC = torch.stack([self._log_total(c) for c in range(self.num_classes)], dim=1)
        classes_Bk = self._classes_BW.gather(1, picked_Bk)
        log_p_Bk = self._scores_BW.gather(1, picked_Bk) - log_totals_BC.gather(1, classes_Bk)
        return log_p_Bk.sum(dim=1)

    def entropy(self) -> torch.Tensor:
        """[B] zeros: nothing is drawn."""
        return torch.zeros(len(self._scores_BW), device=self._scores_BW.device)

    def sample(self) -> torch.Tensor:
        """[B, k] the mode: RAISE does not explore."""
        return self.mode()

    def mode(self) -> torch.Tensor:
        """[B, k] what the classes owe by score, then what fills up by score.

        Of equal scores the earlier slot comes first.
        """
        order_BW = self._scores_BW.argsort(dim=1, descending=True, stable=True)
        classes_BW = self._classes_BW.gather(1, order_BW)
        so_far_BWC = nn.functional.one_hot(classes_BW, self.num_classes).cumsum(dim=1)
        place_BW = so_far_BWC.gather(2, classes_BW[..., None]).squeeze(2)
        owed_BW = (place_BW <= self._quotas_C[classes_BW]) & self._mask_BW.gather(1, order_BW)
        owed_first_BW = owed_BW.int().argsort(dim=1, descending=True, stable=True)
        return order_BW.gather(1, owed_first_BW[:, : self.num_picks])

    def actions_from_params(
        self,
        scores_BW: torch.Tensor,
        classes_BW: torch.Tensor,
        mask_BW: torch.Tensor,
        deterministic: bool = False,
    ) -> torch.Tensor:
        """Picks under the given parameters."""
        chosen = self.proba_distribution(scores_BW, classes_BW, mask_BW)
        return chosen.get_actions(deterministic)

    def log_prob_from_params(
        self, scores_BW: torch.Tensor, classes_BW: torch.Tensor, mask_BW: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Picks under the given parameters, with their :meth:`log_prob`."""
        actions = self.actions_from_params(scores_BW, classes_BW, mask_BW)
        return actions, self.log_prob(actions)

    def _log_total(self, number: int) -> torch.Tensor:
        """[B] log of the total weight of a class."""
        inside_BW = self._scores_BW.masked_fill(self._classes_BW != number, MASKED)
        return inside_BW.logsumexp(dim=1)


class RaisePolicy(ActorCriticPolicy):
    """Stable-Baselines3's actor-critic interface over RAISE's scorer and critic.

    Observations and actions are those of ``raise_mdit/InstructionSelection-v0``. Classes and
    columns belong to a pool, not to what is learned: they are no part of the weights.

    Args:
        observation_space: Of the environment.
        action_space: Of the environment.
        lr_schedule: Its first value is the actor's learning rate, kept throughout.
        classes: [N] class of each row of the pool.
        columns: Columns of `candidates` that are looked at.
        num_classes: C.
        critic_learning_rate: Kept throughout.
        weight_decay: Of both networks.
        hidden_size: Width of both networks.
        **kwargs: Those of the library's policy.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.MultiDiscrete,
        lr_schedule: Schedule,
        *,
        classes: NDArray[np.int64],
        columns: NDArray[np.int64],
        num_classes: int,
        critic_learning_rate: float,
        weight_decay: float,
        hidden_size: int = 64,
        **kwargs: Any,
    ) -> None:
        self._own_parameters: dict[str, Any] = {  # what the constructor was given
            "classes": classes,
            "columns": columns,
            "num_classes": num_classes,
            "critic_learning_rate": critic_learning_rate,
            "weight_decay": weight_decay,
            "hidden_size": hidden_size,
        }
        self._num_picks = len(action_space.nvec)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def forward(
        self,
        obs: PyTorchObs,
        deterministic: bool = False,  # it always is
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions [B, k], values [B] and the logarithms [B] that ratios are made of."""
        chosen = self.get_distribution(obs)
        actions_Bk = chosen.mode()
        return actions_Bk, self.predict_values(obs), chosen.log_prob(actions_Bk)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Values, logarithms that ratios are made of, and entropies, which are 0."""
        chosen = self.get_distribution(obs)
        return self.predict_values(obs), chosen.log_prob(actions), chosen.entropy()

    def get_distribution(self, obs: PyTorchObs) -> BestOfClasses:
        """What is picked, and how likely it is by RAISE's account."""
        assert isinstance(obs, dict)
        samples_BWF = self._samples(obs)
        stage_BWS = _stage(obs)[:, None].expand(-1, samples_BWF.shape[1], -1)
        scores_BW = self.actor(torch.cat([stage_BWS, samples_BWF], dim=2)).squeeze(2)
        classes_BW = self.classes_N[obs["window"].long()]
        assert isinstance(self.action_dist, BestOfClasses)
        return self.action_dist.proba_distribution(scores_BW, classes_BW, obs["mask"] > 0)

    def predict_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Values [B]."""
        assert isinstance(obs, dict)
        mask_BW = obs["mask"].float()
        weights_BW1 = (mask_BW / mask_BW.sum(dim=1, keepdim=True))[..., None]
        mean_BF = (self._samples(obs) * weights_BW1).sum(dim=1)
        values_B1: torch.Tensor = self.critic(torch.cat([_stage(obs), mean_BF], dim=1))
        return values_B1.squeeze(1)

    def _build(self, lr_schedule: Schedule) -> None:
        own = self._own_parameters
        num_inputs = STAGE_SIZE + len(own["columns"]) + 1  # the last one is the availability
        self.classes_N: torch.Tensor
        self.columns: torch.Tensor
        self.register_buffer("classes_N", torch.as_tensor(own["classes"]), persistent=False)
        self.register_buffer("columns", torch.as_tensor(own["columns"]), persistent=False)
        self.actor = _network(num_inputs, own["hidden_size"])
        self.critic = _network(num_inputs, own["hidden_size"])
        self.action_dist = BestOfClasses(self._num_picks, own["num_classes"])
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.actor.parameters()), "lr": lr_schedule(1)},
                {"params": list(self.critic.parameters()), "lr": own["critic_learning_rate"]},
            ],
            weight_decay=own["weight_decay"],
        )

    def _samples(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B, W, F] what is known of each candidate beside the stage."""
        available_BW1 = torch.log1p(obs["selected"].float())[..., None]
        return torch.cat([obs["candidates"][..., self.columns].float(), available_BW1], dim=2)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self._own_parameters}


class _TwoRates(PPO):
    """Leaves the actor's and the critic's learning rate alone; the library sets one for both."""

    def _update_learning_rate(self, _optimizers: Any) -> None:
        self.logger.record(
            "train/learning_rate", self.lr_schedule(self._current_progress_remaining)
        )


def _stage(obs: dict[str, torch.Tensor]) -> torch.Tensor:
    """[B, S] loss ratio and budget share."""
    return obs["context"][:, :STAGE_SIZE].float()


def _network(num_inputs: int, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_inputs, hidden_size), nn.Tanh(),
        nn.Linear(hidden_size, hidden_size), nn.Tanh(),
        nn.Linear(hidden_size, 1),
    )  # fmt: skip
