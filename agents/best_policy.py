"""Keeps a policy where it was best: updates may also lose what was found.

When returns saturate, the advantages of an update are small and mostly noise, and normalising makes
them as large as any: a policy near the optimum can lose it in one update.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback


class BestPolicy(BaseCallback):
    """Remembers the weights that collected the best episodes between two updates.

    Args:
        num_before: Episodes that the policy had learned from before these.
    """

    def __init__(self, *, num_before: int = 0) -> None:
        super().__init__()
        self.best_return = -np.inf
        """Mean improvement over the episodes that those weights collected."""
        self.num_episodes = 0
        """Episodes that the policy had learned from when it had them."""
        self.num_updates = 0
        """Updates behind them; none are those that it began with."""
        self._weights: dict[str, torch.Tensor] = {}
        self._num_seen = num_before
        self._num_rollouts = 0
        self._returns: list[float] = []
        self._gains: dict[int, float] = defaultdict(float)

    def take_best(self) -> None:
        """Give the policy the remembered weights; nothing before the first episode has ended.

        Those after the last update have collected nothing, and are never the best.
        """
        if self._weights:
            self.model.policy.load_state_dict(self._weights)

    def _on_rollout_start(self) -> None:
        self._returns = []

    def _on_step(self) -> bool:
        for index, info in enumerate(self.locals["infos"]):
            self._gains[index] += float(info["gain"])
            if self.locals["dones"][index]:
                self._returns.append(self._gains.pop(index))
        return True

    def _on_rollout_end(self) -> None:
        mean = float(np.mean(self._returns)) if self._returns else -np.inf
        if mean > self.best_return:
            self.best_return, self.num_episodes = mean, self._num_seen
            self.num_updates = self._num_rollouts
            weights = self.model.policy.state_dict()
            self._weights = {name: weight.clone() for name, weight in weights.items()}
        self._num_seen += len(self._returns)
        self._num_rollouts += 1
