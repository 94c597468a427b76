"""A causal language model that is tuned on batches of encoded rows.

Loss is the mean over scored positions of the soft-label cross-entropy, each position weighted by
the label mass it carries; for plain rows that is the usual mean over response tokens.

Shapes: ``R`` scored positions of a batch, ``V`` vocabulary, ``I`` items of a split.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel

from raise_mdit.config import LearnerConfig
from raise_mdit.core import Cost, EncodedRow, Evaluation, UpdateStats
from raise_mdit.errors import ModelError
from raise_mdit.learners import losses
from raise_mdit.learners.adamw import LearnerSnapshot, TunedParameters
from raise_mdit.learners.batches import Batch, collate, length_buckets, length_sorted_batches
from raise_mdit.learners.embedding_noise import draw_noise
from raise_mdit.learners.flops import PartFlops, flops_model, part_flops
from raise_mdit.learners.forward import LayeredForward, Precision
from raise_mdit.learners.generation import Generation, GreedyGenerator
from raise_mdit.learners.trainable import TrainablePart, make_trainable
from raise_mdit.learners.trunk_cache import TrunkCache, final_states, trunk_cache
from raise_mdit.learners.trunk_store import SectionOf

EVALUATION_TOKENS = 2048
"""Padded tokens of one evaluation batch: enough to fill two cores."""

BUCKET_OVERHEAD = {"cpu": 32, "cuda": 4096}
"""What another group of rows costs besides its tokens, in tokens: on two cores about as long as
reading the weights once more; on a GPU launches cost more than padding saves."""


class CausalLmLearner:
    """Tunes a part of a causal language model with AdamW; see :class:`raise_mdit.core.Learner`."""

    def __init__(
        self,
        part: TrainablePart,
        *,
        flops: PartFlops,
        cache: TrunkCache | None,
        config: LearnerConfig,
        seed: int,
        generator: GreedyGenerator | None = None,
    ) -> None:
        """Tune a part of a model.

        Args:
            part: What is trained.
            flops: Counts what each step computes.
            cache: Of what the frozen layers give; None computes every layer.
            config: How a batch changes the part.
            seed: Of dropout and embedding noise.
            generator: Writes with the whole model; None for a learner that is never asked to.
        """
        self._part = part
        self._flops = flops
        self._cache = cache
        self._config = config
        self._seed = seed
        self._generator = generator
        self._tuned = TunedParameters(part.parameters, config)

    @property
    def num_trainable(self) -> int:
        """Number of trained parameters."""
        return self._tuned.num_trainable

    @property
    def part(self) -> TrainablePart:
        """What is trained, and how the model is entered to train it."""
        return self._part

    @property
    def flops(self) -> PartFlops:
        """Counts what each step computes."""
        return self._flops

    @property
    def trunk_cache(self) -> TrunkCache | None:
        """Outputs of the frozen layers; None where every layer is computed at each step."""
        return self._cache

    def open_account(self) -> None:
        """Report costs from here on as if nothing had been computed before."""
        if self._cache is not None:
            self._cache.open_account()

    def update(self, batch: Sequence[EncodedRow], *, progress: float) -> UpdateStats:
        """Take one AdamW step; a non-finite loss or gradient leaves the parameters untouched.

        Rows of similar length are computed together; their gradients are those of one batch.

        Args:
            batch: The rows to train on.
            progress: Share of the budget spent before this step, from 0 to 1.
        """
        started = time.perf_counter()
        with torch.random.fork_rng(devices=[]):  # dropout, where the model or adapters have it
            torch.manual_seed(self._seed + self._tuned.num_updates)
            loss, cost = self._accumulate_gradients(list(batch))
        finite = bool(torch.isfinite(self._tuned.clip_gradients()))  # sync: the step depends on it
        if finite:
            self._tuned.step(progress)
        self._tuned.clear_gradients(free=True)
        value = loss.item() if finite else math.nan
        return UpdateStats(value, cost._replace(seconds=time.perf_counter() - started))

    @torch.no_grad()
    def evaluate(self, items: Sequence[EncodedRow]) -> Evaluation:
        """Loss on a split; changes nothing."""
        started = time.perf_counter()
        sums = np.zeros(len(items))
        exact = np.ones(len(items), np.bool_)
        cost = Cost()
        for indices in length_sorted_batches(items, max_tokens=EVALUATION_TOKENS):
            rows = [items[i] for i in indices]
            batch = collate(rows, device=self._part.forward.device)
            final_BTH, owed = self._final(rows, batch, training=False)
            scores = losses.score(self._part.forward, final_BTH, batch)
            sums[indices] = losses.row_sums(scores.losses_R, batch, len(rows))
            exact[indices] = losses.rows_exact(scores.exact_R, batch, len(rows))
            cost = cost.plus(owed).plus(_cost(rows, batch, self._flops.forward))
        counts = np.array([item.num_scored for item in items])
        return Evaluation(
            loss=float(sums.sum() / counts.sum()),
            item_losses=sums / counts,
            item_exact=exact,
            cost=cost._replace(seconds=time.perf_counter() - started),
        )

    def generate(
        self, prompts: Sequence[EncodedRow], *, max_new_tokens: int, end_ids: Sequence[int]
    ) -> Generation:
        """Greedy responses to prompts; changes nothing.

        Every layer is computed: the cache of frozen layers, which rounds, has no part in it.

        Args:
            prompts: Plain rows of prompt tokens alone.
            max_new_tokens: Longest response in tokens.
            end_ids: Tokens of which each ends a response; at least one.
        """
        assert self._generator is not None, "a learner that writes was given a generator"
        return self._generator.generate(prompts, max_new_tokens=max_new_tokens, end_ids=end_ids)

    def snapshot(self) -> LearnerSnapshot:
        """Parameters, optimizer state and the state of dropout and noise, copied."""
        return self._tuned.snapshot()

    def restore(self, snapshot: object) -> None:
        """Return to the moment of ``snapshot``, exactly."""
        self._tuned.restore(snapshot)

    def _accumulate_gradients(self, rows: list[EncodedRow]) -> tuple[torch.Tensor, Cost]:
        forward = self._part.forward
        label_mass = float(sum(row.target_weights.sum() for row in rows))
        smoothing = self._config.label_smoothing
        rng = np.random.default_rng((self._seed, self._tuned.num_updates))
        loss = torch.zeros((), device=forward.device)
        cost = Cost()
        for indices in length_buckets(rows, overhead=BUCKET_OVERHEAD[forward.device.type]):
            group = [rows[i] for i in indices]
            batch = self._noised(group, collate(group, device=forward.device), rng)
            final_BTH, owed = self._final(group, batch, training=True)
            loss += losses.backward(
                forward, final_BTH, batch, label_mass=label_mass, label_smoothing=smoothing
            )
            cost = cost.plus(owed).plus(_cost(group, batch, self._flops.update))
        return loss, cost

    def _noised(self, rows: list[EncodedRow], batch: Batch, rng: np.random.Generator) -> Batch:
        """The batch with noise of its own; the batch itself where none is asked for."""
        if self._config.embedding_noise == 0:
            return batch
        size = self._part.forward.embedding_size
        noise_BTH = draw_noise(rows, alpha=self._config.embedding_noise, size=size, rng=rng)
        return replace(batch, noise_BTH=noise_BTH.to(self._part.forward.device))

    def _final(
        self, rows: list[EncodedRow], batch: Batch, *, training: bool
    ) -> tuple[torch.Tensor, Cost]:
        """Final hidden states, and what is owed for layers below those that are trained."""
        self._part.forward.set_training(training)
        return final_states(self._part.forward, self._cache, rows, batch)


def build_learner(
    model: PreTrainedModel,
    config: LearnerConfig,
    *,
    precision: Precision,
    seed: int,
    store: SectionOf | None = None,
) -> CausalLmLearner:
    """A learner of ``model``, which it changes in place from here on.

    Args:
        model: Untuned.
        config: How a batch changes it.
        precision: Arithmetic of the passes.
        seed: Of adapters, dropout and embedding noise.
        store: Where outputs of frozen layers are kept, by the number of those layers; None keeps
            them in memory alone.

    Raises:
        ModelError: The model cannot be trained as asked.
    """
    whole = LayeredForward(model, split=0, precision=precision)
    flops = flops_model(model, whole.layers)
    part = make_trainable(model, config.trainable, precision=precision, seed=seed)
    if config.embedding_noise > 0 and part.forward.split > 0:
        raise ModelError(
            "learner.embedding_noise: noise on the input needs every layer at each step, and the "
            f"outputs of the {part.forward.split} frozen layers are computed once; write 0, or "
            "train `full` or `lora` with layers `all`"
        )
    return CausalLmLearner(
        part,
        flops=part_flops(model, part.forward),
        cache=trunk_cache(part.forward, flops, store),
        config=config,
        seed=seed,
        generator=GreedyGenerator(model, precision=precision),
    )


def _cost(rows: Sequence[EncodedRow], batch: Batch, flops: Callable[..., float]) -> Cost:
    num_rows, length = batch.ids_BT.shape
    return Cost(
        tokens=sum(row.num_tokens for row in rows),
        padded_tokens=batch.num_padded_tokens,
        flops=flops(rows=num_rows, length=length, scored=len(batch.scored_R)),
    )
