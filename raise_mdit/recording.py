"""How the records of an arm reach the run directory and the tracker."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from raise_mdit import tracking
from raise_mdit.progress import Progress
from raise_mdit.runs import MetricsFile
from raise_mdit.tracking import TrackedRun, Tracker


class Recorder:
    """Sends an arm's records to the run directory and to the tracker."""

    def __init__(self, metrics: MetricsFile, tracker: Tracker) -> None:
        self._metrics = metrics
        self._tracker = tracker
        self._arm: dict[str, object] = {}
        self._summary: Mapping[str, float | int] = {}

    def start(self, run: TrackedRun) -> None:
        """Open an arm."""
        self._arm = {"policy": run.policy, "seed": run.seed}
        self._tracker.start(run)

    def log(self, record: Mapping[str, float | int]) -> None:
        """Add a record."""
        self._metrics.write({**self._arm, **{key: _plain(value) for key, value in record.items()}})
        self._tracker.log(record)

    def summarise(self, summary: Mapping[str, float | int]) -> None:
        """Add the arm's final numbers."""
        self._metrics.write({**self._arm, **{key: _plain(value) for key, value in summary.items()}})
        self._summary = summary

    def finish(self) -> None:
        """Close the arm, whose files are all written."""
        self._tracker.finish(self._summary)


@dataclass(slots=True)
class _Episode:
    """What one environment has seen of its episode."""

    total: float = 0.0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


class EpisodeRecorder(BaseCallback):
    """Records each learning episode, of one environment or of several that step together.

    The return is the improvement itself, without what a control variate takes off the rewards.

    Args:
        recorder: Given a record an episode.
        progress: Told of each.
        num_before: Episodes of the same arm that were recorded before.
    """

    def __init__(self, recorder: Recorder, progress: Progress, *, num_before: int = 0) -> None:
        super().__init__()
        self.returns: list[float] = []
        self._num_before = num_before
        self._recorder = recorder
        self._progress = progress
        self._episodes: dict[int, _Episode] = defaultdict(_Episode)

    def _on_step(self) -> bool:
        for index, info in enumerate(self.locals["infos"]):
            episode = self._episodes[index]
            episode.total += float(info["gain"])
            episode.steps += 1
            episode.tokens += info["tokens"]
            episode.seconds += info["seconds"]
            if self.locals["dones"][index]:
                self._finish(self._episodes.pop(index), info)
        return True

    def _finish(self, episode: _Episode, info: Mapping[str, Any]) -> None:
        self.returns.append(episode.total)
        self._recorder.log(
            {
                tracking.ROLLOUT_EPISODE: self._num_before + len(self.returns),
                tracking.ROLLOUT_EPISODE_RETURN: episode.total,
                tracking.ROLLOUT_EPISODE_STEPS: episode.steps,
            }
        )
        self._progress.advance(
            episode_return=episode.total,
            loss=info["validation_loss"],
            tokens_per_second=episode.tokens / episode.seconds,
        )


class Sb3Metrics(KVWriter):
    """Passes on what Stable-Baselines3 logs, under its own names."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """Record the known metrics of an update."""
        known = {key: value for key, value in key_values.items() if key in tracking.METRICS}
        self._recorder.log({tracking.SB3_TIMESTEPS: step, **known})

    def close(self) -> None:
        """Nothing to close."""


def _plain(value: float | int) -> float | int | None:
    """A number as strict JSON has it; one that is not finite becomes null."""
    number = value.item() if isinstance(value, np.generic) else value
    return number if math.isfinite(number) else None
