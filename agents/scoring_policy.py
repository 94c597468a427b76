"""An actor-critic policy that scores candidates with one shared network.

The scorer sees a candidate, the stage and the mean of all candidates, never a slot's number: a
permutation of the window permutes the scores and leaves the value alone, and a policy trained on
one window size works on another (Deep Sets, Zaheer et al. 2017, arXiv 1703.06114).

Shapes: ``B`` batch, ``W`` slots, ``F`` features, ``G`` context, ``D`` hidden size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from raise_mdit.agents.pool_scoring import top_k_of_pool
from raise_mdit.agents.subset_distribution import PlackettLuceDistribution
from raise_mdit.core import Observation

STREAMED_SLOTS = 65_536
"""Larger windows are looked at in chunks where no gradient is needed: in one piece, a million
candidates take 1.1 GB of working memory."""


class CandidateScorer(nn.Module):
    """Scores [B, W] that follow a permutation of the window, and a value [B] that ignores it.

    A linear path beside the network lets a preference for a feature be learned from few episodes;
    the network adds what is not linear. Both start at zero: the first policy is uniform.
    """

    def __init__(self, num_features: int, num_context: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, 1, bias=False)
        self.encoder = nn.Sequential(
            nn.Linear(num_features + num_context, hidden_size), nn.Tanh(),
            nn.Linear(hidden_size, hidden_size), nn.Tanh(),
        )  # fmt: skip
        # Not linear in the mean of the window: what is added to every score alike has no effect.
        last = nn.Linear(hidden_size, 1, bias=False)
        self.score = nn.Sequential(nn.Linear(2 * hidden_size, hidden_size), nn.Tanh(), last)
        self.value = nn.Sequential(
            nn.Linear(hidden_size + num_context, hidden_size), nn.Tanh(),
            nn.Linear(hidden_size, 1),
        )  # fmt: skip
        for layer in (self.linear, last):
            nn.init.zeros_(layer.weight)

    def forward(
        self, candidates_BWF: torch.Tensor, context_BG: torch.Tensor, mask_BW: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and value."""
        num_slots = candidates_BWF.shape[1]
        context_BWG = context_BG[:, None].expand(-1, num_slots, -1)
        encoded_BWD = self.encoder(torch.cat([candidates_BWF, context_BWG], dim=2))
        weights_BW1 = (mask_BW / mask_BW.sum(dim=1, keepdim=True))[..., None]
        pooled_BD = (encoded_BWD * weights_BW1).sum(dim=1)
        pooled_BWD = pooled_BD[:, None].expand(-1, num_slots, -1)
        network_BW1 = self.score(torch.cat([encoded_BWD, pooled_BWD], dim=2))
        scores_BW = (network_BW1 + self.linear(candidates_BWF)).squeeze(2)
        return scores_BW, self.value(torch.cat([pooled_BD, context_BG], dim=1)).squeeze(1)


class SetScoringPolicy(ActorCriticPolicy):
    """Stable-Baselines3's actor-critic interface over :class:`CandidateScorer`.

    Observations and actions are those of ``raise_mdit/InstructionSelection-v0``; `window` is not
    looked at.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.MultiDiscrete,
        lr_schedule: Schedule,
        *,
        hidden_size: int = 64,
        **kwargs: Any,
    ) -> None:
        self._hidden_size = hidden_size
        self._num_picks = len(action_space.nvec)
        kwargs.update(features_extractor_class=_Unchanged, ortho_init=False)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions [B, k], values [B] and log-probabilities [B]."""
        distribution, values_B = self._distribution_and_values(obs)
        actions_Bk = distribution.get_actions(deterministic=deterministic)
        return actions_Bk, values_B, distribution.log_prob(actions_Bk)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Values, log-probabilities and entropies of actions taken earlier."""
        distribution, values_B = self._distribution_and_values(obs)
        return values_B, distribution.log_prob(actions), distribution.entropy()

    def predict(  # type: ignore[override]  # observations of this policy are always Dicts
        self,
        observation: Observation,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], tuple[NDArray[Any], ...] | None]:
        """Slots of k candidates of a window, or of each window of a batch."""
        if not deterministic or observation["mask"].shape[-1] <= STREAMED_SLOTS:
            return super().predict(observation, state, episode_start, deterministic)
        if observation["mask"].ndim == 1:
            return self._best_slots(observation), state
        windows = range(len(observation["mask"]))
        single = ({key: part[i] for key, part in observation.items()} for i in windows)
        return np.stack([self._best_slots(each) for each in single]), state

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """The distribution over actions."""
        return self._distribution_and_values(obs)[0]

    def predict_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Values [B]."""
        return self._distribution_and_values(obs)[1]

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.observation_space, spaces.Dict)
        features_shape = self.observation_space["candidates"].shape
        context_shape = self.observation_space["context"].shape
        assert features_shape is not None
        assert context_shape is not None
        num_features = features_shape[1] + 1  # availability: how often a candidate was picked
        self.scorer = CandidateScorer(num_features, context_shape[0], self._hidden_size)
        self.action_dist = PlackettLuceDistribution(self._num_picks)
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]  # every optimizer but the base class has it
            **self.optimizer_kwargs,
        )

    def _distribution_and_values(
        self, obs: PyTorchObs
    ) -> tuple[PlackettLuceDistribution, torch.Tensor]:
        assert isinstance(obs, dict)
        available_BW1 = torch.log1p(obs["selected"].float())[..., None]
        candidates_BWF = torch.cat([obs["candidates"].float(), available_BW1], dim=2)
        mask_BW = obs["mask"].float()
        scores_BW, values_B = self.scorer(candidates_BWF, obs["context"].float(), mask_BW)
        assert isinstance(self.action_dist, PlackettLuceDistribution)
        return self.action_dist.proba_distribution(scores_BW, mask_BW > 0), values_B

    def _best_slots(self, observation: Observation) -> NDArray[np.int64]:
        return top_k_of_pool(
            self,
            observation["candidates"],
            num_picks=self._num_picks,
            selected=observation["selected"],
            context=observation["context"],
            mask=observation["mask"],
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "hidden_size": self._hidden_size}


class _Unchanged(BaseFeaturesExtractor):
    """Leaves observations to the scorer."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, features_dim=1)

    def forward(self, observations: PyTorchObs) -> PyTorchObs:
        return observations
