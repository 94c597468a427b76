"""How much is learned, and how fast, with more or fewer layers trained."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from raise_mdit.benchmarks.learners import Trained, cached_learner, learner_config
from raise_mdit.benchmarks.setting import Setting, batches
from raise_mdit.benchmarks.variants import time_parts

DEPTHS = (2, 4, 8)
NUM_UPDATES = 30


class Depth(NamedTuple):
    """A number of trained layers, from cached states of those below."""

    trained: Trained
    layers: int
    update_seconds: float
    """Median."""
    validation_seconds: float
    """Median."""
    gain: float
    """Fall of the validation loss after :data:`NUM_UPDATES` updates, as a share of its start."""


def measure_depth(setting: Setting, trained: Trained, layers: int) -> Depth:
    """Measure one number of layers."""
    with cached_learner(setting, learner_config(trained, layers)) as learner:
        start = learner.snapshot()
        updates, validations = time_parts(learner, setting)
        learner.restore(start)
        before = learner.evaluate(setting.validation).loss
        for batch in batches(setting, NUM_UPDATES):
            learner.update(batch, progress=0.0)
        after = learner.evaluate(setting.validation).loss
    return Depth(
        trained=trained,
        layers=layers,
        update_seconds=float(np.median([cost.seconds for cost in updates])),
        validation_seconds=float(np.median([cost.seconds for cost in validations])),
        gain=(before - after) / before,
    )
