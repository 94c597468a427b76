"""An actor-critic policy that scores candidates with one shared network.

The scorer sees a candidate, the stage and the mean of all candidates, never a slot's number: a
permutation of the window permutes the scores and leaves the value alone, and a policy trained on
one window size works on another (Deep Sets, Zaheer et al. 2017, arXiv 1703.06114).

Shapes: ``B`` batch, ``W`` slots, ``F`` features, ``G`` context, ``D`` hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    the network adds what is not linear. Both start at zero, and the first policy is uniform, unless
    the linear path is given weights to begin with.
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
        self.register_buffer("first_linear", torch.zeros(1, num_features))

    first_linear: torch.Tensor
    """[1, F] weights of the linear path when learning began; the network added nothing then."""

    @torch.no_grad()
    def begin_as(self, weights: NDArray[np.float32]) -> None:
        """Begin with these weights of the linear path.

        Args:
            weights: [F], see :mod:`raise_mdit.agents.first_weights`.
        """
        self.linear.weight.copy_(torch.from_numpy(weights))
        self.first_linear.copy_(self.linear.weight)

    def ignore(self, features: Sequence[int], *, context: bool = False) -> None:
        """Leave features out of scores and value, now and in all learning that follows.

        Args:
            features: Positions of columns, as of F.
            context: Whether the stage is left out, too.
        """
        encoder, value = self.encoder[0], self.value[0]
        assert isinstance(encoder, nn.Linear)
        assert isinstance(value, nn.Linear)
        num_features, hidden_size = self.linear.in_features, encoder.out_features
        stage = range(num_features, encoder.in_features) if context else ()
        _hold_at_zero(self.linear.weight, features)
        _hold_at_zero(encoder.weight, [*features, *stage])
        _hold_at_zero(value.weight, range(hidden_size, value.in_features) if context else ())
        self.first_linear[:, list(features)] = 0

    def first_scores(self, candidates_BWF: torch.Tensor) -> torch.Tensor:
        """Scores [B, W] as they were when learning began."""
        return (candidates_BWF @ self.first_linear.T).squeeze(2)

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
        first_weights: NDArray[np.float32] | None = None,
        **kwargs: Any,
    ) -> None:
        self._hidden_size = hidden_size
        self._first_weights = first_weights
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
        """Values, log-probabilities and entropies of actions taken earlier.

        Where the policy was given something to begin as, minus the divergence from that stands for
        the entropy: Stable-Baselines3's entropy bonus then holds the policy near where it began.
        """
        distribution, values_B = self._distribution_and_values(obs)
        assert isinstance(distribution, PlackettLuceDistribution)
        log_prob_B = distribution.log_prob(actions)
        return values_B, log_prob_B, self._regularity(distribution, obs)

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
        if self._first_weights is not None:
            self.scorer.begin_as(self._first_weights)
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
        mask_BW = obs["mask"].float()
        scores_BW, values_B = self.scorer(_features(obs), obs["context"].float(), mask_BW)
        assert isinstance(self.action_dist, PlackettLuceDistribution)
        return self.action_dist.proba_distribution(scores_BW, mask_BW > 0), values_B

    def _regularity(self, distribution: PlackettLuceDistribution, obs: PyTorchObs) -> torch.Tensor:
        """[B] what the entropy coefficient weighs."""
        if self._first_weights is None:
            return distribution.entropy()
        assert isinstance(obs, dict)
        return -distribution.divergence(self.scorer.first_scores(_features(obs)))

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
        return {
            **super()._get_constructor_parameters(),
            "hidden_size": self._hidden_size,
            "first_weights": self._first_weights,
        }


def _features(obs: dict[str, torch.Tensor]) -> torch.Tensor:
    """[B, W, F] candidates with their availability behind: how often each was picked."""
    available_BW1 = torch.log1p(obs["selected"].float())[..., None]
    return torch.cat([obs["candidates"].float(), available_BW1], dim=2)


def _hold_at_zero(weight: torch.Tensor, columns: Iterable[int]) -> None:
    """Give columns of a weight no effect, and no gradient that would bring it back."""
    held = torch.zeros(weight.shape[1], dtype=torch.bool)
    held[list(columns)] = True
    with torch.no_grad():
        weight.masked_fill_(held, 0.0)
    weight.register_hook(lambda gradient: gradient.masked_fill(held, 0.0))


class _Unchanged(BaseFeaturesExtractor):
    """Leaves observations to the scorer."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, features_dim=1)

    def forward(self, observations: PyTorchObs) -> PyTorchObs:
        return observations
