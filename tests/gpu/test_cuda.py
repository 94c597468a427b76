"""On a GPU everything is computed as on a CPU, up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from raise_mdit.config import LearnerConfig, LoraConfig
from raise_mdit.core import EncodedRow
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.stacked import build_stacked_learners

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]

CONFIG = LearnerConfig(trainable=LoraConfig(kind="lora", layers=2), learning_rate=1e-2)
TOLERANCE = 2e-3  # hidden states are kept in bfloat16

Rows = Callable[..., Sequence[EncodedRow]]


def learner(model: Any, device: str) -> CausalLmLearner:
    return build_learner(model.to(device), CONFIG, precision="float32", seed=0)


def test_losses_from_cached_states_are_those_of_a_cpu(
    random_llama: Callable[..., Any], random_rows: Rows
) -> None:
    on_cpu, on_gpu = (learner(random_llama(), device) for device in ("cpu", "cuda"))
    rows = random_rows(8)
    for step in range(4):
        batch = rows[step : step + 4]
        expected = on_cpu.update(batch, progress=0.0).loss
        assert on_gpu.update(batch, progress=0.0).loss == pytest.approx(expected, rel=TOLERANCE)
    expected = on_cpu.evaluate(rows).loss
    assert on_gpu.evaluate(rows).loss == pytest.approx(expected, rel=TOLERANCE)


def test_learners_at_once_learn_what_each_learns_alone(
    random_llama: Callable[..., Any], random_rows: Rows
) -> None:
    stacked = build_stacked_learners(
        random_llama().to("cuda"), CONFIG, num_learners=3, precision="float32", seed=0
    )
    items = random_rows(6, seed=9)
    batches = [random_rows(4, seed=seed) for seed in range(3)]
    for _ in range(3):
        stacked.update(batches, progress=[0.0] * 3)
    together = [each.loss for each in stacked.evaluate(items, learners=range(3))]
    for batch, loss in zip(batches, together, strict=True):
        alone = learner(random_llama(), "cuda")
        for _ in range(3):
            alone.update(batch, progress=0.0)
        assert loss == pytest.approx(alone.evaluate(items).loss, rel=TOLERANCE)
