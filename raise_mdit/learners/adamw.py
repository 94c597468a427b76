"""The trained parameters of one learner with their AdamW: stepped, saved and restored."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from raise_mdit.config import LearnerConfig

Decay = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class LearnerSnapshot:
    """Everything that an update changes; owned by the caller."""

    parameters: list[torch.Tensor]
    optimizer: dict[str, Any]
    num_updates: int


class TunedParameters:
    """One learner's parameters and its own optimizer: steps of others have no part in it."""

    def __init__(self, parameters: list[nn.Parameter], config: LearnerConfig) -> None:
        self._parameters = parameters
        self._config = config
        self._num_updates = 0
        self._optimizer = torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    @property
    def num_trainable(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self._parameters)

    @property
    def num_updates(self) -> int:
        """Steps taken since the untuned model."""
        return self._num_updates

    def clip_gradients(self) -> torch.Tensor:
        """The gradients' norm before they are scaled down."""
        return torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)

    def step(self, progress: float) -> None:
        """Take one AdamW step.

        Args:
            progress: Share of the budget spent before it, from 0 to 1.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * decay_factor(self._config.schedule, progress)
        self._optimizer.step()
        self._num_updates += 1

    def clear_gradients(self, *, free: bool) -> None:
        """Forget the gradients.

        Args:
            free: Whether to free their memory too; not where they are views of another's.
        """
        self._optimizer.zero_grad(set_to_none=free)

    def snapshot(self) -> LearnerSnapshot:
        """Parameters and optimizer state, copied."""
        return LearnerSnapshot(
            parameters=[parameter.detach().clone() for parameter in self._parameters],
            optimizer=copy.deepcopy(self._optimizer.state_dict()),
            num_updates=self._num_updates,
        )

    @torch.no_grad()
    def restore(self, snapshot: object) -> None:
        """Return to the moment of ``snapshot``, exactly."""
        assert isinstance(snapshot, LearnerSnapshot), "a snapshot of such a learner"
        for parameter, saved in zip(self._parameters, snapshot.parameters, strict=True):
            parameter.copy_(saved)
        self._optimizer.load_state_dict(copy.deepcopy(snapshot.optimizer))
        self._num_updates = snapshot.num_updates


def decay_factor(decay: Decay, progress: float) -> float:
    """Share of the peak learning rate when ``progress`` of the budget is spent."""
    match decay:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
