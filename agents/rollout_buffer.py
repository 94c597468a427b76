"""A rollout that remembers which candidates were offered instead of what they look like.

Stable-Baselines3's buffer stores every feature of every offered candidate at every step: with the
whole pool offered, RAISE's O(N x 39 x T). Nearly all of it repeats one table of the pool, which is
kept once and read again when a minibatch is made.

Shapes: ``N`` candidates of the pool, ``S`` static features, ``F`` features, ``B`` minibatch,
``W`` slots.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from raise_mdit.core import Observation


class PoolRolloutBuffer(DictRolloutBuffer):
    """Stores `window` for the static columns of `candidates`, and gives both back.

    Static columns come first; what a step adds behind them is stored as it was seen. A masked slot
    has the features of the row that its `window` names, as the environment fills it.

    Args:
        buffer_size: Steps of each environment.
        observation_space: Of the environment.
        action_space: Of the environment.
        features: [N, S] static features of the pool; referred to, not copied.
        **settings: Those of Stable-Baselines3's buffer.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict[Any],
        action_space: spaces.Space[Any],
        *,
        features: NDArray[np.float32],
        **settings: Any,
    ) -> None:
        self.features_NS = features
        candidates_shape = observation_space["candidates"].shape
        assert candidates_shape is not None
        num_slots, num_features = candidates_shape
        num_dynamic = num_features - features.shape[1]
        assert num_dynamic >= 0, f"{features.shape[1]} static features of {num_features}"
        dynamic = spaces.Box(-np.inf, np.inf, (num_slots, num_dynamic), np.float32)
        stored = spaces.Dict({**observation_space.spaces, "candidates": dynamic})
        super().__init__(buffer_size, stored, action_space, **settings)

    def add(  # type: ignore[override]  # the library's own Dict buffer narrows it in the same way
        self, obs: Observation, *step: Any
    ) -> None:
        """Store a step without the static features of what it offered."""
        dynamic = obs["candidates"][..., self.features_NS.shape[1] :]
        super().add({**obs, "candidates": dynamic}, *step)

    def _get_samples(  # type: ignore[override]  # as there
        self, batch_inds: NDArray[np.int64], env: VecNormalize | None = None
    ) -> DictRolloutBufferSamples:
        samples = super()._get_samples(batch_inds, env)
        static_BWS = self.features_NS[self.observations["window"][batch_inds]]
        dynamic = samples.observations["candidates"]
        candidates_BWF = torch.cat([self.to_torch(static_BWS, copy=False), dynamic], dim=2)
        return samples._replace(observations={**samples.observations, "candidates": candidates_BWF})
