"""How the records of an arm reach the run directory and the tracker."""

from __future__ import annotations

import math
from collections.abc import Mapping
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

    def start(self, run: TrackedRun) -> None:
        """Open an arm."""
        self._arm = {"policy": run.policy, "seed": run.seed}
        self._tracker.start(run)

    def log(self, record: Mapping[str, float | int]) -> None:
        """Add a record."""
        self._metrics.write({**self._arm, **{key: _plain(value) for key, value in record.items()}})
        self._tracker.log(record)

    def finish(self, summary: Mapping[str, float | int]) -> None:
        """Close the arm with its final numbers."""
        self._metrics.write({**self._arm, **{key: _plain(value) for key, value in summary.items()}})
        self._tracker.finish(summary)


class EpisodeRecorder(BaseCallback):
    """Records each learning episode."""

    def __init__(self, recorder: Recorder, progress: Progress) -> None:
        super().__init__()
        self.returns: list[float] = []
        self._recorder = recorder
        self._progress = progress
        self._return = 0.0
        self._steps = 0
        self._tokens = 0
        self._seconds = 0.0

    def _on_step(self) -> bool:
        info = self.locals["infos"][0]
        self._return += float(self.locals["rewards"][0])
        self._steps += 1
        self._tokens += info["tokens"]
        self._seconds += info["seconds"]
        if self.locals["dones"][0]:
            self._finish_episode(info)
        return True

    def _finish_episode(self, info: Mapping[str, Any]) -> None:
        self.returns.append(self._return)
        self._recorder.log(
            {
                tracking.ROLLOUT_EPISODE: len(self.returns),
                tracking.ROLLOUT_EPISODE_RETURN: self._return,
                tracking.ROLLOUT_EPISODE_STEPS: self._steps,
            }
        )
        self._progress.advance(
            episode_return=self._return,
            loss=info["validation_loss"],
            tokens_per_second=self._tokens / self._seconds,
        )
        self._return, self._steps, self._tokens, self._seconds = 0.0, 0, 0, 0.0


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
