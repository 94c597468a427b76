"""Ways to run the same fine-tuning: plainly, without wasted work, and from cached states."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from raise_mdit.agents.static import random_policy
from raise_mdit.benchmarks.apart import peak_memory
from raise_mdit.benchmarks.learners import (
    Trained,
    cached_learner,
    learner_config,
    naive_learner,
    uncached_learner,
)
from raise_mdit.benchmarks.naive import NaiveLearner
from raise_mdit.benchmarks.policy_training import Overhead, train_policy
from raise_mdit.benchmarks.setting import Setting, batches, environment
from raise_mdit.core import Cost, Learner
from raise_mdit.envs import InstructionSelectionEnv
from raise_mdit.learners.causal_lm import CausalLmLearner
from raise_mdit.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run a fine-tuning."""

    name: str
    meaning: str
    layers: Literal["every", "uncached", "cached"]
    """`every`: all layers are trained and computed plainly; else frozen layers are computed at
    every pass, or once for each row."""
    trained: Trained = "lora"
    reward_every: int = 1
    """Steps between two validation passes."""

    @property
    def trains_policy(self) -> bool:
        """Whether the policy's training is run; else it follows from an episode."""
        return self.layers == "cached" and self.trained == "lora"


VARIANTS: tuple[Variant, ...] = (
    Variant(
        "naive",
        "LoRA through the whole model, padded batches in the order of their rows, logits of every "
        "position",
        "every",
    ),
    Variant(
        "uncached",
        "LoRA on the top layers, rows of similar length together, logits of scored positions alone",
        "uncached",
    ),
    Variant("cached", "as uncached, from cached states of the frozen layers", "cached"),
    Variant(
        "cached_reward_every_2",
        "as cached, with a validation pass at every second step",
        "cached",
        reward_every=2,
    ),
    Variant(
        "cached_top_layers",
        "as cached, with the top layers trained whole instead of by LoRA",
        "cached",
        trained="top_layers",
    ),
)


class Parts(NamedTuple):
    """The same quantity of each part of the work."""

    update: float
    """One update on a batch."""
    validation: float
    """One validation pass."""
    env_step: float
    """One step of an episode, its validation included: the mean of an episode."""
    episode: float
    """A reset and all steps; the base model has been measured before."""
    training: float
    """A policy's training, the first validation pass and cached states included."""


class Measured(NamedTuple):
    """What a variant takes, from cached states where it has any (but `training` begins without)."""

    seconds: Parts
    """Medians."""
    flops: Parts
    """As the ledger counts: of the learner, without optimizer and policy."""
    peak_memory_bytes: int
    overhead: Overhead | None
    """None where the policy's training was not run but follows from an episode."""


def measure(variant: Variant, setting: Setting) -> Measured:
    """Measure a variant here."""
    with _learner(variant, setting) as learner:
        training = None
        if variant.trains_policy:
            training = train_policy(learner, setting, reward_every=variant.reward_every)
        if isinstance(learner, CausalLmLearner) and learner.trunk_cache is not None:
            learner.trunk_cache.fill(setting.pool.rows, advance=lambda _: None)
        ledger = Ledger()
        env = environment(learner, setting, ledger=ledger, reward_every=variant.reward_every)
        updates, validations = time_parts(learner, setting)
        env.reset()
        # Its steps repeat each other; the yardstick's take minutes.
        repeats = setting.sizes.repeats if variant.layers == "cached" else 1
        episodes = [_time_episode(env, setting, ledger) for _ in range(repeats)]
    seconds = _medians(updates, validations, episodes, "seconds", setting)
    flops = _medians(updates, validations, episodes, "flops", setting)
    if training is not None:
        seconds = seconds._replace(training=training.seconds)
        flops = flops._replace(training=training.flops)
    return Measured(
        seconds=seconds,
        flops=flops,
        peak_memory_bytes=peak_memory(_device(setting)),
        overhead=None if training is None else training.overhead,
    )


def time_parts(learner: Learner, setting: Setting) -> tuple[list[Cost], list[Cost]]:
    """Costs of updates and of validation passes, after a round that is not counted."""
    rows = batches(setting, setting.sizes.repeats)
    for batch in rows:  # states are at hand, as in almost every step of a policy's training
        learner.update(batch, progress=0.0)
    learner.evaluate(setting.validation)
    updates = [learner.update(batch, progress=0.0).cost for batch in rows]
    validations = [learner.evaluate(setting.validation).cost for _ in rows]
    return updates, validations


class _Episode(NamedTuple):
    """What an episode cost."""

    steps: Cost
    """All of them."""
    whole: Cost
    """The reset with them."""


@contextmanager
def _learner(variant: Variant, setting: Setting) -> Iterator[NaiveLearner | CausalLmLearner]:
    match variant.layers:
        case "every":
            yield naive_learner(setting)
        case "uncached":
            yield uncached_learner(setting)
        case "cached":
            config = learner_config(variant.trained, setting.sizes.top_layers)
            with cached_learner(setting, config) as learner:
                yield learner


def _time_episode(env: InstructionSelectionEnv, setting: Setting, ledger: Ledger) -> _Episode:
    """Random picks, the same in every episode and variant."""
    sizes = setting.sizes
    policy = random_policy(np.random.default_rng(sizes.seed), num_picks=sizes.batch_size)
    flops = ledger.total.flops
    started = time.perf_counter()
    observation, _ = env.reset(seed=sizes.seed)
    begun = time.perf_counter()
    for _ in range(sizes.steps):
        action, _ = policy.predict(observation)
        observation, *_ = env.step(action)
    ended = time.perf_counter()
    flops = ledger.total.flops - flops
    return _Episode(
        steps=Cost(flops=flops, seconds=ended - begun),
        whole=Cost(flops=flops, seconds=ended - started),
    )


def _medians(
    updates: Sequence[Cost],
    validations: Sequence[Cost],
    episodes: Sequence[_Episode],
    quantity: Literal["seconds", "flops"],
    setting: Setting,
) -> Parts:
    def median(costs: Sequence[Cost]) -> float:
        return float(np.median([getattr(cost, quantity) for cost in costs]))

    validation, episode = median(validations), median([each.whole for each in episodes])
    return Parts(
        update=median(updates),
        validation=validation,
        env_step=median([each.steps for each in episodes]) / setting.sizes.steps,
        episode=episode,
        training=validation + setting.sizes.episodes * episode,
    )


def _device(setting: Setting) -> torch.device:
    return torch.device(setting.device)
