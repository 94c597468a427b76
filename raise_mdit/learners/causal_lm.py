"""A causal language model that is tuned on batches of encoded rows.

Loss is the mean over scored positions of the soft-label cross-entropy, each position weighted by
the label mass it carries; for plain rows that is the usual mean over response tokens.

Shapes: ``R`` scored positions of a batch, ``V`` vocabulary, ``I`` items of a split.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedModel

from raise_mdit.config import LearnerConfig, TopLayersConfig
from raise_mdit.core import Cost, EncodedRow, Evaluation, UpdateStats
from raise_mdit.learners.batches import Batch, collate, length_sorted_batches
from raise_mdit.learners.flops import FlopsModel, flops_model
from raise_mdit.learners.forward import LayeredForward, Precision, Scored
from raise_mdit.learners.trainable import TrainablePart, make_trainable
from raise_mdit.learners.trunk_cache import TrunkCache

EVALUATION_TOKENS = 2048
"""Padded tokens of one evaluation batch: enough to fill two cores, 200 MB of logits at most."""

GIB = 2**30

Decay = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class LearnerSnapshot:
    """Everything that an update changes; owned by the caller."""

    parameters: list[torch.Tensor]
    optimizer: dict[str, Any]
    num_updates: int


class CausalLmLearner:
    """Tunes a part of a causal language model with AdamW; see :class:`raise_mdit.core.Learner`."""

    def __init__(
        self,
        part: TrainablePart,
        *,
        flops: FlopsModel,
        cache: TrunkCache | None,
        config: LearnerConfig,
        seed: int,
    ) -> None:
        self._part = part
        self._flops = flops
        self._cache = cache
        self._decay: Decay = config.schedule
        self._learning_rate = config.learning_rate
        self._max_grad_norm = config.max_grad_norm
        self._seed = seed
        self._num_updates = 0
        self._optimizer = torch.optim.AdamW(
            part.parameters,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    @property
    def num_trainable(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self._part.parameters)

    def open_account(self) -> None:
        """Report costs from here on as if nothing had been computed before."""
        if self._cache is not None:
            self._cache.open_account()

    def update(self, batch: Sequence[EncodedRow], *, progress: float) -> UpdateStats:
        """Take one AdamW step; a non-finite loss or gradient leaves the parameters untouched.

        Args:
            batch: The rows to train on.
            progress: Share of the budget spent before this step, from 0 to 1.
        """
        started = time.perf_counter()
        rows = list(batch)
        with torch.random.fork_rng(devices=[]):  # dropout, where the model or adapters have it
            torch.manual_seed(self._seed + self._num_updates)
            scored, tensors, cost = self._score(rows, training=True)
        loss = weighted_loss(scored.logits_RV, tensors)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._part.parameters, self._max_grad_norm)
        if torch.isfinite(norm):  # sync: the step depends on it
            self._step(decay_factor(self._decay, progress))
        self._optimizer.zero_grad(set_to_none=True)
        value = loss.item() if torch.isfinite(norm) else math.nan
        seconds = time.perf_counter() - started
        return UpdateStats(value, cost._replace(seconds=seconds))

    @torch.no_grad()
    def evaluate(self, items: Sequence[EncodedRow]) -> Evaluation:
        """Loss on a split; changes nothing."""
        started = time.perf_counter()
        sums = np.zeros(len(items))
        exact = np.ones(len(items), np.bool_)
        cost = Cost()
        for indices in length_sorted_batches(items, max_tokens=EVALUATION_TOKENS):
            scored, batch, spent = self._score([items[i] for i in indices], training=False)
            sums[indices] = weighted_row_losses(scored.logits_RV, batch, len(indices))
            exact[indices] = _rows_exact(scored.logits_RV, batch, len(indices))
            cost = cost.plus(spent)
        counts = np.array([item.num_scored for item in items])
        return Evaluation(
            loss=float(sums.sum() / counts.sum()),
            item_losses=sums / counts,
            item_exact=exact,
            cost=cost._replace(seconds=time.perf_counter() - started),
        )

    def snapshot(self) -> LearnerSnapshot:
        """Parameters, optimizer state and the state of dropout, copied."""
        return LearnerSnapshot(
            parameters=[parameter.detach().clone() for parameter in self._part.parameters],
            optimizer=copy.deepcopy(self._optimizer.state_dict()),
            num_updates=self._num_updates,
        )

    @torch.no_grad()
    def restore(self, snapshot: object) -> None:
        """Return to the moment of ``snapshot``, exactly."""
        assert isinstance(snapshot, LearnerSnapshot), "a snapshot of this learner"
        for parameter, saved in zip(self._part.parameters, snapshot.parameters, strict=True):
            parameter.copy_(saved)
        self._optimizer.load_state_dict(copy.deepcopy(snapshot.optimizer))
        self._num_updates = snapshot.num_updates

    def _score(self, rows: list[EncodedRow], *, training: bool) -> tuple[Scored, Batch, Cost]:
        forward = self._part.forward
        batch = collate(rows, device=forward.device)
        forward.set_training(training)
        if self._cache is None:
            scored = forward.score(forward.embed(batch), batch, from_split=False)
            return scored, batch, self._cost(rows, batch, training=training)
        states_BTH, owed = self._cache.states(rows)
        scored = forward.score(states_BTH, batch, from_split=True)
        return scored, batch, owed.plus(self._cost(rows, batch, training=training))

    def _step(self, factor: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * factor
        self._optimizer.step()
        self._num_updates += 1

    def _cost(self, rows: list[EncodedRow], batch: Batch, *, training: bool) -> Cost:
        num_rows, length = batch.ids_BT.shape
        trained = len(self._part.forward.layers) - self._part.forward.split
        layers = self._flops.layers(rows=num_rows, length=length, num_layers=trained)
        head = self._flops.head(positions=len(batch.scored_R))
        adapters = 2.0 * self._part.adapter_weights * batch.num_padded_tokens
        backward = (
            self._part.backward_ratio * layers
            + self._part.head_backward_ratio * head
            + 2.0 * adapters
        )
        return Cost(
            tokens=sum(row.num_tokens for row in rows),
            padded_tokens=batch.num_padded_tokens,
            flops=layers + head + adapters + (backward if training else 0.0),
        )


def build_learner(
    model: PreTrainedModel, config: LearnerConfig, *, precision: Precision, seed: int
) -> CausalLmLearner:
    """A learner of ``model``, which it changes in place from here on.

    Raises:
        ModelError: The model cannot be trained as asked.
    """
    whole = LayeredForward(model, split=0, precision=precision)
    flops = flops_model(model, whole.layers)
    part = make_trainable(model, config.trainable, precision=precision, seed=seed)
    cache = None
    if isinstance(config.trainable, TopLayersConfig) and part.forward.split > 0:
        max_bytes = int(config.trainable.cache_gib * GIB)
        cache = TrunkCache(part.forward, flops, max_bytes=max_bytes)
    return CausalLmLearner(part, flops=flops, cache=cache, config=config, seed=seed)


def weighted_loss(logits_RV: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean soft-label cross-entropy by label mass.

    With weights a and b on targets i and j a position adds a CE(i) + b CE(j), which equals the
    cross-entropy against the dense soft label a e_i + b e_j (arXiv 2504.07288).
    """
    losses = _position_losses(logits_RV, batch)
    return losses.sum() / batch.weights_R2.sum()


def weighted_row_losses(
    logits_RV: torch.Tensor, batch: Batch, num_rows: int
) -> NDArray[np.float64]:
    """[B] sum of the weighted losses of each row's scored positions."""
    losses = _position_losses(logits_RV, batch).double().cpu().numpy()
    sums = np.bincount(batch.row_R.cpu().numpy(), weights=losses, minlength=num_rows)
    return np.asarray(sums, np.float64)


def decay_factor(decay: Decay, progress: float) -> float:
    """Share of the peak learning rate when ``progress`` of the budget is spent."""
    match decay:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))


def _position_losses(logits_RV: torch.Tensor, batch: Batch) -> torch.Tensor:
    first = functional.cross_entropy(logits_RV, batch.targets_R2[:, 0], reduction="none")
    losses = batch.weights_R2[:, 0] * first
    if batch.partner_ids_BT is None:
        return losses
    second = functional.cross_entropy(logits_RV, batch.targets_R2[:, 1], reduction="none")
    return losses + batch.weights_R2[:, 1] * second


def _rows_exact(logits_RV: torch.Tensor, batch: Batch, num_rows: int) -> NDArray[np.bool_]:
    """[B] whether every scored token is the likeliest: exactly then greedy decoding gives it."""
    wrong = logits_RV.argmax(dim=-1) != batch.targets_R2[:, 0]
    errors = np.bincount(batch.row_R[wrong].cpu().numpy(), minlength=num_rows)
    return np.asarray(errors == 0, np.bool_)
