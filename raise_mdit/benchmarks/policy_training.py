"""A policy's training, taken apart: the learner, the policy's own updates, and all the rest."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger

from raise_mdit.agents.ppo import build_ppo, learn
from raise_mdit.benchmarks.setting import Setting, environment
from raise_mdit.core import Learner
from raise_mdit.ledger import Ledger
from raise_mdit.policy_config import PpoConfig
from raise_mdit.progress import Silent
from raise_mdit.recording import EpisodeRecorder, Recorder, Sb3Metrics
from raise_mdit.runs import MetricsFile
from raise_mdit.tracking import NullTracker, TrackedRun

EPISODES_PER_UPDATE = 4


class Overhead(NamedTuple):
    """What a training does besides updates and validation passes of the learner.

    Medians over the training's rollouts, in the later of which nearly all states are at hand.
    """

    step_share: float
    """Of a step: window, observation, policy, environment, buffer, recording, the learner's return
    to its base model. The learner's updates and validation passes are the rest."""
    step_seconds: float
    """The same."""
    policy_update_seconds: float
    """One update of the policy."""
    policy_update_share: float
    """The policy's updates for each second that the episodes took which they learn from."""


class PolicyTraining(NamedTuple):
    """What a policy's training took."""

    seconds: float
    """From an environment that has measured nothing to the last update of the policy."""
    flops: float
    """By the ledger: of the learner."""
    overhead: Overhead


def train_policy(learner: Learner, setting: Setting, *, reward_every: int) -> PolicyTraining:
    """Train a policy as an experiment does, records included.

    Args:
        learner: At its base model.
        setting: Sizes and rows.
        reward_every: Steps between two validation passes.
    """
    sizes, ledger = setting.sizes, Ledger()
    env = environment(learner, setting, ledger=ledger, reward_every=reward_every)
    group = min(EPISODES_PER_UPDATE, sizes.episodes)
    config = PpoConfig(kind="ppo", episodes=sizes.episodes, episodes_per_update=group)
    ppo = build_ppo(
        env,
        config,
        steps_per_episode=sizes.steps,
        seed=sizes.seed,
        features=setting.pool.features,
    )
    metrics = MetricsFile(setting.scratch / "metrics.jsonl")
    recorder = Recorder(metrics, NullTracker())
    folder = setting.scratch
    recorder.start(TrackedRun(policy="ppo", kind="ppo", seed=sizes.seed, config={}, folder=folder))
    ppo.set_logger(Logger(folder=None, output_formats=[Sb3Metrics(recorder)]))
    watch = _Watch(ledger)
    callbacks = CallbackList([watch, EpisodeRecorder(recorder, Silent())])
    started = time.perf_counter()
    learn(ppo, episodes=sizes.episodes, steps_per_episode=sizes.steps, callback=callbacks)
    seconds = time.perf_counter() - started
    metrics.close()
    overhead = watch.overhead(steps_per_rollout=group * sizes.steps)
    return PolicyTraining(seconds, ledger.total.flops, overhead)


class _Watch(BaseCallback):
    """Takes the time of every rollout and of every update between them."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._rollouts: list[float] = []
        self._learner: list[float] = []
        self._updates: list[float] = []
        self._changed = 0.0
        self._charged = 0.0

    def overhead(self, *, steps_per_rollout: int) -> Overhead:
        """What the rollouts say."""
        rollouts, learner = np.array(self._rollouts), np.array(self._learner)
        rest = rollouts - learner
        update = float(np.median(self._updates))
        return Overhead(
            step_share=float(np.median(rest / rollouts)),
            step_seconds=float(np.median(rest)) / steps_per_rollout,
            policy_update_seconds=update,
            policy_update_share=float(np.median(np.array(self._updates) / rollouts)),
        )

    def _on_rollout_start(self) -> None:
        if self._rollouts:
            self._updates.append(self._since())
        self._charged = self._ledger.total.seconds
        self._changed = time.perf_counter()

    def _on_rollout_end(self) -> None:
        self._rollouts.append(self._since())
        self._learner.append(self._ledger.total.seconds - self._charged)
        self._changed = time.perf_counter()

    def _on_training_end(self) -> None:
        self._updates.append(self._since())

    def _on_step(self) -> bool:
        return True

    def _since(self) -> float:
        return time.perf_counter() - self._changed
