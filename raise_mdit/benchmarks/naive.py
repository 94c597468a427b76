"""Fine-tuning as it is usually written: the yardstick of the benchmark.

LoRA by peft through the whole model, batches padded to their longest row, logits of every position,
and a validation pass after each step. It satisfies :class:`raise_mdit.core.Learner`, so the same
environment and the same policies run on it.

Shapes: ``B`` rows, ``T`` tokens of the longest.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import peft
import torch
from transformers import PreTrainedModel

from raise_mdit.core import Cost, EncodedRow, Evaluation, UpdateStats
from raise_mdit.learners.flops import part_flops
from raise_mdit.learners.forward import LayeredForward, Precision

IGNORED = -100
"""Label of a position that carries no loss, by the convention of transformers."""

VALIDATION_ROWS = 8
"""Rows of a validation batch, in the order in which they come."""


class NaiveLearner:
    """LoRA on every linear layer of a causal language model, with AdamW."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        rank: int,
        alpha: float,
        learning_rate: float,
        precision: Precision,
        seed: int,
    ) -> None:
        self._model: Any = _with_adapters(model, rank=rank, alpha=alpha, seed=seed)
        self._device = model.device
        self._autocast = precision == "bfloat16"
        self._flops = part_flops(model, LayeredForward(model, split=0, precision=precision))
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=0.0)

    def update(self, batch: Sequence[EncodedRow], *, progress: float) -> UpdateStats:
        """Take one AdamW step at a constant learning rate."""
        started = time.perf_counter()
        self._model.train()
        padded = _pad(batch, self._device)
        loss = self._loss(padded)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        value = loss.item()  # sync
        cost = _cost(batch, padded, self._flops.update)
        return UpdateStats(value, cost._replace(seconds=time.perf_counter() - started))

    @torch.no_grad()
    def evaluate(self, items: Sequence[EncodedRow]) -> Evaluation:
        """Mean loss per scored token; what single items gave is not known."""
        started = time.perf_counter()
        self._model.eval()
        total, count, cost = 0.0, 0, Cost()
        for start in range(0, len(items), VALIDATION_ROWS):
            rows = items[start : start + VALIDATION_ROWS]
            padded = _pad(rows, self._device)
            scored = sum(row.num_scored for row in rows)
            total += self._loss(padded).item() * scored  # sync
            count += scored
            cost = cost.plus(_cost(rows, padded, self._flops.forward))
        unknown = np.full(len(items), math.nan)
        seconds = time.perf_counter() - started
        return Evaluation(
            total / count, unknown, np.zeros(len(items), np.bool_), cost._replace(seconds=seconds)
        )

    def snapshot(self) -> object:
        """Adapters and optimizer state."""
        parameters = [parameter.detach().clone() for parameter in self._parameters]
        return parameters, copy.deepcopy(self._optimizer.state_dict())

    @torch.no_grad()
    def restore(self, snapshot: object) -> None:
        """Return to ``snapshot``."""
        assert isinstance(snapshot, tuple)
        for parameter, saved in zip(self._parameters, snapshot[0], strict=True):
            parameter.copy_(saved)
        self._optimizer.load_state_dict(copy.deepcopy(snapshot[1]))

    def _loss(self, padded: _Padded) -> torch.Tensor:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            loss: torch.Tensor = self._model(
                input_ids=padded.ids_BT, attention_mask=padded.mask_BT, labels=padded.labels_BT
            ).loss
        return loss


def _with_adapters(model: PreTrainedModel, *, rank: int, alpha: float, seed: int) -> peft.PeftModel:
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # it is only divided by r
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft 0.21
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


class _Padded(NamedTuple):
    """A batch as transformers takes it."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    labels_BT: torch.Tensor


def _pad(rows: Sequence[EncodedRow], device: torch.device) -> _Padded:
    width = max(row.num_tokens for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for index, row in enumerate(rows):
        ids[index, : row.num_tokens] = torch.from_numpy(row.ids)
        mask[index, : row.num_tokens] = 1
        labels[index, row.scored + 1] = torch.from_numpy(row.targets[:, 0])
    return _Padded(ids.to(device), mask.to(device), labels.to(device))


def _cost(rows: Sequence[EncodedRow], padded: _Padded, flops: Callable[..., float]) -> Cost:
    """Padding is computed as any token is, and the head scores every position."""
    num_rows, length = padded.ids_BT.shape
    return Cost(
        tokens=sum(row.num_tokens for row in rows),
        padded_tokens=num_rows * length,
        flops=flops(rows=num_rows, length=length, scored=num_rows * length),
    )
