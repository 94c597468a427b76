"""What a step of several learners together costs each of them, and what it costs apart."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch

from raise_mdit.benchmarks.learners import cached_learner, learner_config, stacked_learners
from raise_mdit.benchmarks.setting import Setting, batches

LEARNERS = {"cpu": (1, 2, 4), "cuda": (1, 8, 32, 64)}
NUM_ALONE = 8
"""Batches over which a learner alone is averaged: lengths differ."""


class AtOnce(NamedTuple):
    """E learners that step together."""

    learners: int
    """E."""
    seconds: float | None
    """Update and validation, for each learner; median. None where memory did not suffice."""
    separate_seconds: float
    """The same of learners that run one after another."""


def measure_alone(setting: Setting) -> float:
    """Seconds of an update and a validation pass of one learner."""
    rows = batches(setting, NUM_ALONE)
    config = learner_config("lora", setting.sizes.top_layers)
    seconds = []
    with cached_learner(setting, config) as learner:
        for _ in range(1 + setting.sizes.repeats):
            started = time.perf_counter()
            for batch in rows:
                learner.update(batch, progress=0.0)
                learner.evaluate(setting.validation)
            seconds.append((time.perf_counter() - started) / len(rows))
    return float(np.median(seconds[1:]))  # the first computes the states


def measure_together(setting: Setting, num_learners: int) -> float | None:
    """Seconds of the same for each of several; None where the device's memory does not suffice."""
    rows = batches(setting, num_learners)
    progress = [0.0] * num_learners
    seconds = []
    try:
        learners = stacked_learners(setting, num_learners)
        for _ in range(1 + setting.sizes.repeats):
            started = time.perf_counter()
            learners.update(rows, progress=progress)
            learners.evaluate(setting.validation, learners=range(num_learners))
            seconds.append((time.perf_counter() - started) / num_learners)
    except torch.OutOfMemoryError:
        return None
    return float(np.median(seconds[1:]))
