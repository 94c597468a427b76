"""Keeps what was picked in the best episode, which a policy may never pick again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback


@dataclass(slots=True)
class PickedEpisode:
    """What was picked, and what it gave."""

    total: float = 0.0
    """Improvement over the episode."""
    batches: list[NDArray[np.int64]] = field(default_factory=list)
    """[k] pool rows of each step that counts: those beyond an early stop are left out."""


class BestEpisode(BaseCallback):
    """Remembers the learning episode that improved the model most; of equals, the first."""

    def __init__(self) -> None:
        super().__init__()
        self.best: PickedEpisode | None = None
        """None before the first episode has ended."""
        self._episodes: dict[int, PickedEpisode] = defaultdict(PickedEpisode)

    def _on_step(self) -> bool:
        for index, info in enumerate(self.locals["infos"]):
            episode = self._episodes[index]
            episode.total += float(info["gain"])
            episode.batches.append(info["rows"])
            if self.locals["dones"][index]:
                del self._episodes[index]
                episode.batches = episode.batches[: info["kept_steps"]]
                if self.best is None or episode.total > self.best.total:
                    self.best = episode
        return True
