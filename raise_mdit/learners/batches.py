"""Rows of different lengths as rectangular tensors.

Rows are padded on the right and attention is causal, so no real token ever attends to padding and
no mask is needed.

Shapes: ``B`` rows, ``T`` longest row, ``R`` scored positions of all rows, ``H`` embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raise_mdit.core import EncodedRow


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Encoded rows as tensors on one device."""

    ids_BT: torch.Tensor
    """Token ids of the first parents, int64."""
    partner_ids_BT: torch.Tensor | None
    """Token ids of the second parents; None when every row is plain."""
    mix_B: torch.Tensor
    """Share of the first parent in each row, float32."""
    scored_R: torch.Tensor
    """Scored positions in the flattened [B * T] grid, rows in order."""
    row_R: torch.Tensor
    """The row of each scored position."""
    targets_R2: torch.Tensor
    """Both parents' next tokens."""
    weights_R2: torch.Tensor
    """Share of each target in the label, float32."""
    noise_BTH: torch.Tensor | None = None
    """Added to the input embeddings, float32; None for nothing."""

    @property
    def num_padded_tokens(self) -> int:
        """Tokens computed, padding included."""
        return self.ids_BT.numel()


def collate(rows: Sequence[EncodedRow], *, device: torch.device) -> Batch:
    """Rows as one batch, padded on the right with token 0, which nothing attends to."""
    width = max(row.num_tokens for row in rows)
    ids = np.zeros((2, len(rows), width), np.int64)
    for index, row in enumerate(rows):
        ids[0, index, : row.num_tokens] = row.ids
        ids[1, index, : row.num_tokens] = row.ids if row.partner_ids is None else row.partner_ids
    any_mixed = not all(row.is_plain for row in rows)
    first, second = (torch.from_numpy(part).to(device) for part in ids)
    return Batch(
        ids_BT=first,
        partner_ids_BT=second if any_mixed else None,
        mix_B=torch.tensor([row.mix for row in rows], dtype=torch.float32, device=device),
        scored_R=_on(device, [index * width + row.scored for index, row in enumerate(rows)]),
        row_R=_on(device, [np.full(row.num_scored, index) for index, row in enumerate(rows)]),
        targets_R2=_on(device, [row.targets for row in rows]),
        weights_R2=_on(device, [row.target_weights for row in rows]),
    )


def length_sorted_batches(rows: Sequence[EncodedRow], *, max_tokens: int) -> Iterator[list[int]]:
    """Indices of rows of similar length, at most ``max_tokens`` padded tokens a batch.

    The batches depend on the rows alone, so that a repeated pass repeats every rounding.
    """
    order = sorted(range(len(rows)), key=lambda index: (rows[index].num_tokens, index))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * rows[index].num_tokens > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def length_buckets(rows: Sequence[EncodedRow], *, overhead: int) -> list[list[int]]:
    """Indices of rows in groups of similar length: the cheapest cut of the sorted rows.

    Args:
        rows: The rows of one optimizer step.
        overhead: What a group costs besides its padded tokens, in tokens.
    """
    order = sorted(range(len(rows)), key=lambda index: (rows[index].num_tokens, index))
    lengths = [rows[index].num_tokens for index in order]
    cheapest, starts = [0], [0]  # of the first n rows: the cost, and where the last group starts
    for end in range(1, len(rows) + 1):
        costs = [
            cheapest[start] + (end - start) * lengths[end - 1] + overhead for start in range(end)
        ]
        starts.append(int(np.argmin(costs)))
        cheapest.append(costs[starts[-1]])
    groups: list[list[int]] = []
    end = len(rows)
    while end > 0:
        groups.insert(0, order[starts[end] : end])
        end = starts[end]
    return groups


def _on(device: torch.device, parts: Sequence[NDArray[np.generic]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(device)
