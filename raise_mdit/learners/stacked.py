"""Several causal language models that differ in their trained part alone, and step together.

They share the frozen layers, the head and every pass; each has its own parameters, AdamW, account
and ledger entries. What a learner computes, reports and is charged is what it would be alone, up to
the rounding of batched products. One that breaks never touches another: no product mixes rows.

Shapes: ``E`` learners, ``A`` of them that take part, ``B`` rows of each, ``T`` tokens, ``H`` hidden
size, ``R`` scored positions, ``I`` items of a split.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from raise_mdit.config import FullConfig, LearnerConfig
from raise_mdit.core import Cost, EncodedRow, Evaluation, UpdateStats
from raise_mdit.errors import ModelError
from raise_mdit.learners import losses
from raise_mdit.learners.adamw import LearnerSnapshot, TunedParameters
from raise_mdit.learners.batches import collate, length_buckets, length_sorted_batches
from raise_mdit.learners.causal_lm import BUCKET_OVERHEAD, EVALUATION_TOKENS
from raise_mdit.learners.flops import PartFlops, flops_model, part_flops
from raise_mdit.learners.forward import LayeredForward, Precision
from raise_mdit.learners.parameter_stack import ParameterStack
from raise_mdit.learners.trainable import make_trainable
from raise_mdit.learners.trunk_cache import TrunkCache, trunk_cache
from raise_mdit.learners.trunk_store import SectionOf


class StackedCausalLmLearners:
    """Tunes a part of one model E times; see :class:`raise_mdit.core.StackedLearners`.

    A snapshot is that of a :class:`~raise_mdit.learners.causal_lm.CausalLmLearner`, so a learner
    goes on where any other of the same part stood.
    """

    def __init__(
        self,
        forward: LayeredForward,
        stack: ParameterStack,
        *,
        flops: PartFlops,
        cache: TrunkCache | None,
        config: LearnerConfig,
    ) -> None:
        self._forward = forward
        self._stack = stack
        self._flops = flops
        self._cache = cache
        self._config = config
        self._learners = [TunedParameters(stack.of(e), config) for e in range(stack.num_learners)]
        self._overhead = BUCKET_OVERHEAD[forward.device.type]

    @property
    def num_learners(self) -> int:
        """E, how many there are."""
        return len(self._learners)

    def open_account(self) -> None:
        """Report every learner's costs from here on as if nothing had been computed before."""
        if self._cache is not None:
            self._cache.open_account()

    def update(
        self, batches: Sequence[Sequence[EncodedRow] | None], *, progress: Sequence[float]
    ) -> list[UpdateStats | None]:
        """Take one AdamW step each; a non-finite loss or gradient leaves its learner untouched.

        Args:
            batches: What each learner trains on; None where it does not step, and nothing changes.
            progress: Share of the budget that each has spent before this step, from 0 to 1.
        """
        started = time.perf_counter()
        rows = {index: list(batch) for index, batch in enumerate(batches) if batch is not None}
        if not rows:
            return [None] * self.num_learners
        self._stack.choose(list(rows))
        losses_A = self._accumulate_gradients(list(rows.values()))
        norms_A = torch.stack([self._learners[index].clip_gradients() for index in rows])
        values_A, norms = torch.stack([losses_A, norms_A]).tolist()  # sync: the steps depend on it
        stats: list[UpdateStats | None] = [None] * self.num_learners
        for index, value, norm in zip(rows, values_A, norms, strict=True):
            finite = math.isfinite(norm)
            if finite:
                self._learners[index].step(progress[index])
            self._learners[index].clear_gradients(free=False)  # they are views of the stack's
            stats[index] = UpdateStats(value if finite else math.nan, self._step_cost(rows, index))
        return _share_seconds(stats, time.perf_counter() - started)

    @torch.no_grad()
    def evaluate(self, items: Sequence[EncodedRow], *, learners: Sequence[int]) -> list[Evaluation]:
        """Losses of some learners on a split, in the order of ``learners``; changes nothing."""
        started = time.perf_counter()
        self._stack.choose(learners)
        sums_AI = np.zeros((len(learners), len(items)))
        exact_AI = np.ones((len(learners), len(items)), np.bool_)
        groups = list(length_sorted_batches(items, max_tokens=EVALUATION_TOKENS))
        for indices in groups:
            rows = [items[i] for i in indices]
            hidden_BTH = self._enter(rows).repeat(len(learners), 1, 1)
            batch = collate(rows * len(learners), device=self._forward.device)
            scores = losses.score(self._forward, self._final(hidden_BTH), batch)
            sums = losses.row_sums(scores.losses_R, batch, len(hidden_BTH))
            exact = losses.rows_exact(scores.exact_R, batch, len(hidden_BTH))
            sums_AI[:, indices] = sums.reshape(len(learners), -1)
            exact_AI[:, indices] = exact.reshape(len(learners), -1)
        counts_I = np.array([item.num_scored for item in items])
        cost = _cost(items, groups, self._flops.forward)
        costs = [cost.plus(self._owed(items, learner)) for learner in learners]
        seconds = (time.perf_counter() - started) / len(learners)
        return [
            Evaluation(
                loss=float(sums_I.sum() / counts_I.sum()),
                item_losses=sums_I / counts_I,
                item_exact=exact_I,
                cost=own._replace(seconds=seconds),
            )
            for sums_I, exact_I, own in zip(sums_AI, exact_AI, costs, strict=True)
        ]

    def snapshot(self, index: int) -> LearnerSnapshot:
        """Parameters and optimizer state of one learner, copied."""
        return self._learners[index].snapshot()

    def restore(self, index: int, snapshot: object) -> None:
        """Return one learner to the moment of ``snapshot``, exactly."""
        self._learners[index].restore(snapshot)

    def _accumulate_gradients(self, batches: Sequence[Sequence[EncodedRow]]) -> torch.Tensor:
        """[A] mean loss of each batch; the gradients are those of each learner alone."""
        masses_A = [sum(float(row.target_weights.sum()) for row in batch) for batch in batches]
        columns = _side_by_side(batches)
        widest = [max(column, key=lambda row: row.num_tokens) for column in columns]
        losses_A = torch.zeros(len(batches), device=self._forward.device)
        for group in length_buckets(widest, overhead=self._overhead):
            losses_A += self._accumulate_group([columns[i] for i in group], masses_A)
        return losses_A

    def _accumulate_group(
        self, columns: list[tuple[EncodedRow, ...]], masses_A: list[float]
    ) -> torch.Tensor:
        rows = [row for own in zip(*columns, strict=True) for row in own]
        counts_A = [sum(row.num_scored for row in own) for own in zip(*columns, strict=True)]
        batch = collate(rows, device=self._forward.device)
        masses_R = torch.from_numpy(np.repeat(np.array(masses_A, np.float32), counts_A))
        shares_R2 = batch.weights_R2 / masses_R.to(self._forward.device)[:, None]
        losses_R = losses.backward_each(
            self._forward,
            self._final(self._enter(rows)),
            replace(batch, weights_R2=shares_R2),
            label_smoothing=self._config.label_smoothing,
        )
        return torch.stack([own.sum() for own in losses_R.split(counts_A)])

    def _enter(self, rows: list[EncodedRow]) -> torch.Tensor:
        """Hidden states [N, T, H] below the layers that are trained, charged to nobody."""
        if self._cache is None:
            return self._forward.embed(collate(rows, device=self._forward.device))
        return self._cache.read(rows)

    def _final(self, hidden_NTH: torch.Tensor) -> torch.Tensor:
        return self._forward.final(hidden_NTH, from_split=self._cache is not None)

    def _step_cost(self, rows: dict[int, list[EncodedRow]], index: int) -> Cost:
        groups = length_buckets(rows[index], overhead=self._overhead)
        cost = _cost(rows[index], groups, self._flops.update)
        return cost.plus(self._owed(rows[index], index))

    def _owed(self, rows: Sequence[EncodedRow], index: int) -> Cost:
        return Cost() if self._cache is None else self._cache.charge(rows, account=index)


def build_stacked_learners(
    model: PreTrainedModel,
    config: LearnerConfig,
    *,
    num_learners: int,
    precision: Precision,
    seed: int,
    store: SectionOf | None = None,
) -> StackedCausalLmLearners:
    """Learners that all start at ``model``, which they change in place from here on.

    Args:
        model: Untuned.
        config: How a batch changes each.
        num_learners: How many.
        precision: Arithmetic of the passes.
        seed: Of adapters; all learners start with the same.
        store: Where outputs of frozen layers are kept, by the number of these layers; None keeps
            them in memory alone.

    Raises:
        ModelError: The model cannot be trained as asked, or not by several learners at once.
    """
    if isinstance(config.trainable, FullConfig):
        raise ModelError(
            "learner.trainable.kind: learners that step together share the layers that are not "
            "trained, and full trains all; set parallel_episodes to 1, or take top_layers or lora"
        )
    if config.embedding_noise > 0:
        raise ModelError(
            "learner.embedding_noise: noise would be drawn for all learners at once and differ "
            "from what each draws alone; set parallel_episodes to 1, or embedding_noise to 0"
        )
    whole = LayeredForward(model, split=0, precision=precision)
    flops = flops_model(model, whole.layers)
    part = make_trainable(model, config.trainable, precision=precision, seed=seed)
    _check_without_dropout(model)
    counts = part_flops(model, part.forward)
    cache = trunk_cache(part.forward, flops, store)
    stack = ParameterStack(whole.layers, num_learners=num_learners)
    return StackedCausalLmLearners(part.forward, stack, flops=counts, cache=cache, config=config)


def _check_without_dropout(model: PreTrainedModel) -> None:
    """One draw for all learners would not be what each draws alone, nor repeat after restoring."""
    modules = list(model.modules())
    shares = [module.p for module in modules if isinstance(module, nn.Dropout)]
    of_attention = [getattr(module, "attention_dropout", None) for module in modules]
    shares += [share for share in of_attention if isinstance(share, float)]
    if max(shares, default=0.0) > 0:
        raise ModelError(
            f"learner.trainable: dropout of {max(shares)} would be drawn for all learners at once "
            "and differ from what each draws alone; set parallel_episodes to 1, or "
            "learner.trainable.dropout to 0 if the model itself has none"
        )


def _side_by_side(batches: Sequence[Sequence[EncodedRow]]) -> list[tuple[EncodedRow, ...]]:
    """[B][A] each batch's rows from short to long, so that those computed together are alike.

    Where a batch has fewer rows than the largest, doubles of its shortest are computed, unscored.
    """
    num_rows = max(len(batch) for batch in batches)
    filled = []
    for batch in batches:
        own = sorted(batch, key=lambda row: row.num_tokens)
        filled.append([_unscored(own[0])] * (num_rows - len(own)) + own)
    return list(zip(*filled, strict=True))


def _unscored(row: EncodedRow) -> EncodedRow:
    return replace(
        row,
        scored=row.scored[:0],
        targets=row.targets[:0],
        target_weights=row.target_weights[:0],
    )


def _cost(
    rows: Sequence[EncodedRow], groups: Sequence[Sequence[int]], flops: Callable[..., float]
) -> Cost:
    """What one learner alone would compute; padding to another's rows is nobody's cost."""
    padded, operations = 0, 0.0
    for group in groups:
        length = max(rows[i].num_tokens for i in group)
        padded += len(group) * length
        scored = sum(rows[i].num_scored for i in group)
        operations += flops(rows=len(group), length=length, scored=scored)
    return Cost(sum(row.num_tokens for row in rows), padded, operations)


def _share_seconds(stats: list[UpdateStats | None], seconds: float) -> list[UpdateStats | None]:
    share = seconds / sum(one is not None for one in stats)
    return [one and one._replace(cost=one.cost._replace(seconds=share)) for one in stats]
