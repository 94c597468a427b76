"""The rows of a bundle as a learner takes them, each with what its step needs to know.

Shapes: ``T`` tokens of a row, ``H`` embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from raise_mdit.core import EncodedRow, Message
from raise_mdit.encoding import ChatEncoder, mixed_row, plain_row
from raise_mdit.errors import RunError
from raise_mdit.learners.batches import length_buckets
from raise_mdit.learners.embedding_noise import draw_noise
from raise_mdit.schedules.bundle import Bundle


class ReplayRow(NamedTuple):
    """One row of one step."""

    step: int
    row: EncodedRow
    step_mass: float
    """Label mass of the whole step, on all ranks and micro-batches: what its loss is a mean of."""
    noise_TH: torch.Tensor | None
    """Added to its input embeddings, where the recipe asks for noise."""


class NoiseRecipe(NamedTuple):
    """How the run drew noise on input embeddings; see :mod:`...learners.embedding_noise`."""

    alpha: float
    """0 draws none."""
    size: int
    """H."""
    overhead: int
    """Of the length buckets, in whose order rows draw."""
    seed: int
    """Of the learner."""


class ReplayRows(Dataset[ReplayRow]):
    """The rows of a schedule in the order of training."""

    def __init__(self, rows: Sequence[EncodedRow], *, batch_size: int, noise: NoiseRecipe) -> None:
        """Take the rows of whole steps.

        Args:
            rows: In the order of training.
            batch_size: Rows of a step.
            noise: What is added to their embeddings.
        """
        self._rows = rows
        self._batch_size = batch_size
        self._noise = noise
        starts = range(0, len(rows), batch_size)
        self._masses = [
            float(sum(row.target_weights.sum() for row in rows[start : start + batch_size]))
            for start in starts
        ]
        self._drawn: tuple[int, list[torch.Tensor]] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ReplayRow:
        step, slot = divmod(index, self._batch_size)
        noise_TH = self._noise_of(step)[slot] if self._noise.alpha else None
        return ReplayRow(step, self._rows[index], self._masses[step], noise_TH)

    def _noise_of(self, step: int) -> list[torch.Tensor]:
        """[T, H] of each row of a step, drawn as the learner draws them; the last is kept."""
        if self._drawn is None or self._drawn[0] != step:
            self._drawn = (step, self._draw(step))
        return self._drawn[1]

    def _draw(self, step: int) -> list[torch.Tensor]:
        start = step * self._batch_size
        rows = self._rows[start : start + self._batch_size]
        rng = np.random.default_rng((self._noise.seed, step))
        drawn: dict[int, torch.Tensor] = {}
        for indices in length_buckets(rows, overhead=self._noise.overhead):
            group = [rows[index] for index in indices]
            noise_BTH = draw_noise(group, alpha=self._noise.alpha, size=self._noise.size, rng=rng)
            for index, noise_TH in zip(indices, noise_BTH, strict=True):
                drawn[index] = noise_TH[: rows[index].num_tokens]
        return [drawn[index] for index in range(len(rows))]


def encoded_rows(bundle: Bundle, encoder: ChatEncoder, *, pad: int) -> list[EncodedRow]:
    """Every row of a schedule as token ids, interpolations with both parents.

    Args:
        bundle: A sound one.
        encoder: Of the model's tokenizer, with the recipe's system prompt.
        pad: Id of the pad token.

    Raises:
        RunError: Cut to the recipe's length, a row has no token left that carries loss.
    """
    ids = list(bundle.conversations)
    conversations: list[tuple[Message, ...]] = [bundle.conversations[each] for each in ids]
    length = bundle.recipe["max_length"]
    texts = {
        each: text.truncated(length)
        for each, text in zip(ids, encoder.encode(conversations), strict=True)
    }
    silent = [each for each, text in texts.items() if not text.num_response_tokens]
    if silent:
        raise RunError(
            f"pool.parquet: conversation {silent[0]} has no response within {length} tokens of "
            "this tokenizer; replay with the model that the manifest names"
        )
    rows = []
    for row in bundle.rows:
        parts = [texts[each] for each in row.ids]
        if row.kind == "mdit":
            weight = row.weights[0]
            rows.append(mixed_row(row.candidate, *parts, weight=weight, pad=pad))
        else:
            rows.append(plain_row(row.candidate, parts[0]))
    return rows
