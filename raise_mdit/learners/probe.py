"""What the untuned model knows of each example: how likely its response is, and its embedding.

These are the measurements behind RAISE's difficulty and semantic state (arXiv 2504.07282) and the
embedding of RDS+ (arXiv 2503.01807). One pass reads prompt and response, a second, for difficulty
alone, the response without its prompt. Passes are cached by content, one file for a set of rows.

Shapes: ``N`` rows, ``B`` rows of a batch, ``T`` tokens, ``H`` hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from raise_mdit.core import Cost, EncodedRow
from raise_mdit.encoding import TextRow, plain_row
from raise_mdit.features import ExampleFeatures
from raise_mdit.learners.batches import Batch, collate, length_sorted_batches
from raise_mdit.learners.causal_lm import EVALUATION_TOKENS
from raise_mdit.learners.flops import flops_model
from raise_mdit.learners.forward import LayeredForward, Precision
from raise_mdit.learners.losses import row_sums, score
from raise_mdit.learners.measurement_file import MeasurementFile, measurement_key
from raise_mdit.learners.pretrained import Tokenizer

DIFFICULTY = ("conditional_log_prob", "response_log_prob")
"""RAISE's log P(response given prompt) and log P(response), means over the response's tokens."""

PROBE_VERSION = "2"
"""Raised when the meaning of a cached number changes."""


class Reading(NamedTuple):
    """What the untuned model makes of each row."""

    log_probs: NDArray[np.float64]
    """[N] mean over the scored tokens, in nats."""
    embeddings: NDArray[np.float32]
    """[N, H] unit length."""
    cost: Cost


def measure(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    *,
    digest: str,
    start_token: int,
    precision: Precision,
    cache: Path,
    advance: Callable[[int], None],
) -> ExampleFeatures:
    """RAISE's difficulty and the embedding of every row, by two passes.

    Args:
        model: Untuned.
        rows: Plain rows.
        digest: Hash of the model's weights.
        start_token: Stands in the prompt's place when a response is read alone.
        precision: Arithmetic of the passes.
        cache: Folder of cached results.
        advance: Called with the number of rows done.
    """
    whole = read(model, rows, digest=digest, precision=precision, cache=cache, advance=advance)
    alone = read(
        model,
        without_prompts(rows, start_token),
        digest=digest,
        precision=precision,
        cache=cache,
        advance=lambda _done: None,
    )
    return ExampleFeatures(
        names=DIFFICULTY,
        columns=np.stack([whole.log_probs, alone.log_probs], axis=1),
        embeddings=whole.embeddings,
        cost=whole.cost.plus(alone.cost),
    )


def read(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    *,
    digest: str,
    precision: Precision,
    cache: Path,
    advance: Callable[[int], None],
) -> Reading:
    """What the model as it is makes of every row, by one pass.

    A cached result reports the cost of making it, so that a ledger does not depend on the cache.

    Args:
        model: Untuned.
        rows: Plain rows.
        digest: Hash of the model's weights.
        precision: Arithmetic of the pass.
        cache: Folder of cached results.
        advance: Called with the number of rows done.
    """
    file = MeasurementFile(cache, _key(rows, digest, precision))
    found = file.read()
    if found is not None:
        advance(len(rows))
        return Reading(**found.arrays, cost=found.cost)
    reading = _Probe(model, precision).read(rows, advance)
    file.write({"log_probs": reading.log_probs, "embeddings": reading.embeddings}, reading.cost)
    return reading


def start_token(tokenizer: Tokenizer) -> int:
    """What stands before a response that is read alone."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return int(eos if bos is None else bos)


def without_prompts(rows: Sequence[EncodedRow], start_token: int) -> list[EncodedRow]:
    """The responses of plain rows alone, each behind a start token."""
    return [_without_prompt(row, start_token) for row in rows]


class _Probe:
    """Reads rows in length-sorted batches and adds up what that costs."""

    def __init__(self, model: PreTrainedModel, precision: Precision) -> None:
        self._forward = LayeredForward(model, split=0, precision=precision)
        self._flops = flops_model(model, self._forward.layers)
        self._cost = Cost()

    @torch.no_grad()
    def read(self, rows: Sequence[EncodedRow], advance: Callable[[int], None]) -> Reading:
        """Every row, in the order given."""
        self._forward.set_training(False)
        losses: list[NDArray[np.float64]] = []
        embeddings: list[NDArray[np.float32]] = []
        order: list[int] = []
        for indices in length_sorted_batches(rows, max_tokens=EVALUATION_TOKENS):
            batch_losses, batch_embeddings = self._read_batch([rows[i] for i in indices])
            losses.append(batch_losses)
            embeddings.append(batch_embeddings)
            order += indices
            advance(len(indices))
        back = np.argsort(order)
        return Reading(-np.concatenate(losses)[back], np.concatenate(embeddings)[back], self._cost)

    def _read_batch(
        self, rows: list[EncodedRow]
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        started = time.perf_counter()
        batch = collate(rows, device=self._forward.device)
        final_BTH = self._forward.final(self._forward.embed(batch), from_split=False)
        counts = np.array([row.num_scored for row in rows])
        scores = score(self._forward, final_BTH, batch)
        losses = row_sums(scores.losses_R, batch, len(rows)) / counts
        embeddings = position_weighted_mean(
            final_BTH.float(), torch.tensor([row.num_tokens for row in rows])
        )
        self._cost = self._cost.plus(self._batch_cost(rows, batch, time.perf_counter() - started))
        return losses, embeddings.cpu().numpy()

    def _batch_cost(self, rows: list[EncodedRow], batch: Batch, seconds: float) -> Cost:
        num_rows, length = batch.ids_BT.shape
        depth = len(self._forward.layers)
        layers = self._flops.layers(rows=num_rows, length=length, num_layers=depth)
        head = self._flops.head(positions=len(batch.scored_R))
        tokens = sum(row.num_tokens for row in rows)
        return Cost(tokens, batch.num_padded_tokens, layers + head, seconds)


def position_weighted_mean(hidden_BTH: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Unit embeddings [B, H]: position i has weight i, later ones having read more (2503.01807)."""
    positions_T = torch.arange(1, hidden_BTH.shape[1] + 1, device=hidden_BTH.device)
    lengths_B1 = lengths_B.to(hidden_BTH.device)[:, None]
    weights_BT = positions_T * (positions_T <= lengths_B1)
    weights_BT = weights_BT / weights_BT.sum(dim=1, keepdim=True)
    mean_BH = torch.einsum("bt,bth->bh", weights_BT.to(hidden_BTH.dtype), hidden_BTH)
    return torch.nn.functional.normalize(mean_BH, dim=1)


def _without_prompt(row: EncodedRow, start_token: int) -> EncodedRow:
    """The response alone, behind a start token."""
    response = row.targets[:, 0]
    ids = np.concatenate([[start_token], response])
    in_response = np.arange(len(ids)) > 0
    return plain_row(row.key, TextRow(ids, in_response))


def _key(rows: Sequence[EncodedRow], digest: str, precision: str) -> str:
    parts = (part for row in rows for part in (row.ids, row.scored))
    return measurement_key(f"{PROBE_VERSION} {digest} {precision}", parts)
