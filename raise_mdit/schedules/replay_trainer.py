"""The Hugging Face Trainer on the rows of a bundle, interpolations included.

The Trainer gives order, accumulation, ranks, clipping, optimizer and schedule. What it has no word
for is here: a batch of rows with two parents, embeddings mixed by their shares, and the soft-label
loss. Each micro-batch is cut into the learner's own groups of similar length and computed by the
learner's own functions, so that on one rank without accumulation every sum is the learner's sum.

Scaling: a micro-batch gives its part of the mean over the whole step (:attr:`ReplayRow.step_mass`
counts all ranks and micro-batches), so parts are summed, over micro-batches by accumulation and
over ranks by a sum of gradients. A Trainer's usual loss is a mean over ranks instead: there, an own
loss has to be multiplied by the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from raise_mdit.config import LearnerConfig
from raise_mdit.learners import losses
from raise_mdit.learners.batches import Batch, collate, length_buckets
from raise_mdit.learners.causal_lm import BUCKET_OVERHEAD
from raise_mdit.learners.trainable import TrainablePart
from raise_mdit.learners.trunk_cache import TrunkCache, final_states
from raise_mdit.schedules.replay_rows import ReplayRow


def collate_rows(rows: Sequence[ReplayRow]) -> dict[str, list[ReplayRow]]:
    """The rows of one micro-batch as they are, since groups of them are padded apart."""
    return {"rows": list(rows)}


class ReplayTrainer(Trainer):
    """Trains a part of a model on the rows of a schedule, and keeps the loss of every step."""

    step_losses: list[float]
    """Loss of each step so far: mean per scored token over all ranks, in nats."""

    def __init__(
        self,
        part: TrainablePart,
        cache: TrunkCache | None,
        config: LearnerConfig,
        *,
        seed: int,
        **options: Any,
    ) -> None:
        """Prepare to train.

        Args:
            part: What is trained.
            cache: Of the layers below; None where none is frozen.
            config: How a batch changes the model.
            seed: Of dropout.
            options: The Trainer's own.
        """
        super().__init__(data_collator=collate_rows, **options)
        self.step_losses = []
        self._part = part
        self._cache = cache
        self._label_smoothing = config.label_smoothing
        self._seed = seed
        self._loss_so_far = torch.zeros(())

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Add a micro-batch's gradients, and at the end of a step those of all ranks."""
        rows: list[ReplayRow] = inputs["rows"]
        step = self.state.global_step
        assert {row.step for row in rows} == {step}, f"rows of another step than {step}"
        with torch.random.fork_rng(devices=[]):  # dropout, where the model or adapters have it
            torch.manual_seed(self._seed + step)
            loss = self._backward(rows)
        self._loss_so_far = self._loss_so_far.to(loss.device) + loss
        if self.accelerator.sync_gradients:
            self._end_step()
        return loss

    def floating_point_ops(self, inputs: object) -> int:
        """Not counted: the Trainer's count knows nothing of frozen layers."""
        return 0

    def _backward(self, rows: Sequence[ReplayRow]) -> torch.Tensor:
        """Gradients of the rows' part of the step's loss; what that part is."""
        forward = self._part.forward
        encoded = [row.row for row in rows]
        loss = torch.zeros((), device=forward.device)
        for indices in length_buckets(encoded, overhead=BUCKET_OVERHEAD[forward.device.type]):
            group = [encoded[index] for index in indices]
            batch = collate(group, device=forward.device)
            batch = _noised(batch, [rows[index] for index in indices])
            forward.set_training(True)
            final_BTH, _ = final_states(forward, self._cache, group, batch)
            loss += losses.backward(
                forward,
                final_BTH,
                batch,
                label_mass=rows[0].step_mass,
                label_smoothing=self._label_smoothing,
            )
        return loss

    def _end_step(self) -> None:
        """Sum what ranks have; alone there is nothing to sum."""
        if self.accelerator.num_processes > 1:
            for parameter in self._part.parameters:
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="sum")
            self._loss_so_far = self.accelerator.reduce(self._loss_so_far, reduction="sum")
        self.step_losses.append(self._loss_so_far.item())
        self._loss_so_far = torch.zeros(())


def _noised(batch: Batch, rows: Sequence[ReplayRow]) -> Batch:
    noise = [row.noise_TH for row in rows if row.noise_TH is not None]
    if not noise:
        return batch
    noise_BTH = nn.utils.rnn.pad_sequence(noise, batch_first=True)
    return replace(batch, noise_BTH=noise_BTH.to(batch.ids_BT.device))
