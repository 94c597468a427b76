"""The soft-label cross-entropy, in chunks of positions: logits never stand in memory as a whole.

With weights a and b on targets i and j a position costs a CE(i) + b CE(j), which equals the
cross-entropy against the dense soft label a e_i + b e_j (MDIT, arXiv 2504.07288). In training a
share of that label may go to all words evenly, the rest staying where it was (label smoothing,
Szegedy et al. 2016, arXiv 1512.00567, sec. 7): the label keeps its mass a + b.

Shapes: ``B`` rows, ``T`` tokens, ``R`` scored positions, ``H`` hidden size, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from raise_mdit.learners.batches import Batch
from raise_mdit.learners.forward import LayeredForward

CHUNK_LOGITS = 2**23
"""Logits computed at once: 32 MiB in float32, whatever the vocabulary and the batch."""


class PositionScores(NamedTuple):
    """What the head says of each scored position."""

    losses_R: torch.Tensor
    """Weighted cross-entropy, float32."""
    exact_R: torch.Tensor
    """Bool: whether the first target is the likeliest token."""


@torch.no_grad()
def score(forward: LayeredForward, final_BTH: torch.Tensor, batch: Batch) -> PositionScores:
    """Losses of the scored positions."""
    hidden_RH = final_BTH.flatten(0, 1)[batch.scored_R]
    losses: list[torch.Tensor] = []
    exact: list[torch.Tensor] = []
    for part in _chunks(forward, len(hidden_RH)):
        logits_CV = forward.logits(hidden_RH[part])
        losses.append(_losses(logits_CV, batch, part, label_smoothing=0.0))
        exact.append(logits_CV.argmax(dim=-1) == batch.targets_R2[part, 0])
    return PositionScores(torch.cat(losses), torch.cat(exact))


def backward(
    forward: LayeredForward,
    final_BTH: torch.Tensor,
    batch: Batch,
    *,
    label_mass: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Sum of the scored positions' losses over ``label_mass``; its gradients are accumulated."""
    shares = replace(batch, weights_R2=batch.weights_R2 / label_mass)
    return backward_each(forward, final_BTH, shares, label_smoothing=label_smoothing).sum()


def backward_each(
    forward: LayeredForward,
    final_BTH: torch.Tensor,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """[R] loss of each scored position; the gradients of their sum are accumulated.

    Each chunk goes forth and back through the head before the next is begun, and the layers below
    get the gradient of all chunks at once.

    Args:
        forward: Whose head scores.
        final_BTH: What the head is given.
        batch: Where they were collated.
        label_smoothing: Share of each label that goes to the whole vocabulary evenly.
    """
    hidden_RH = final_BTH.flatten(0, 1)[batch.scored_R]
    gradients: list[torch.Tensor] = []
    losses: list[torch.Tensor] = []
    for part in _chunks(forward, len(hidden_RH)):
        leaf_CH = hidden_RH[part].detach().requires_grad_()
        losses_C = _losses(forward.logits(leaf_CH), batch, part, label_smoothing=label_smoothing)
        losses_C.sum().backward()
        assert leaf_CH.grad is not None
        gradients.append(leaf_CH.grad)
        losses.append(losses_C.detach())
    hidden_RH.backward(torch.cat(gradients))
    return torch.cat(losses)


def row_sums(losses_R: torch.Tensor, batch: Batch, num_rows: int) -> NDArray[np.float64]:
    """[B] sum of the losses of each row's scored positions."""
    losses = losses_R.double().cpu().numpy()
    sums = np.bincount(batch.row_R.cpu().numpy(), weights=losses, minlength=num_rows)
    return np.asarray(sums, np.float64)


def rows_exact(exact_R: torch.Tensor, batch: Batch, num_rows: int) -> NDArray[np.bool_]:
    """[B] whether every scored token is the likeliest: exactly then greedy decoding gives it."""
    wrong = batch.row_R[~exact_R].cpu().numpy()
    return np.asarray(np.bincount(wrong, minlength=num_rows) == 0, np.bool_)


def _chunks(forward: LayeredForward, num_positions: int) -> list[slice]:
    size = max(1, CHUNK_LOGITS // forward.vocabulary_size)
    return [slice(start, start + size) for start in range(0, num_positions, size)]


def _losses(
    logits_CV: torch.Tensor, batch: Batch, part: slice, *, label_smoothing: float
) -> torch.Tensor:
    log_probs_CV = logits_CV.log_softmax(dim=-1)
    weights_C2 = batch.weights_R2[part]
    losses_C = -(weights_C2 * log_probs_CV.gather(1, batch.targets_R2[part])).sum(dim=-1)
    if label_smoothing == 0.0:
        return losses_C
    even_C = -weights_C2.sum(dim=-1) * log_probs_CV.mean(dim=-1)
    return (1.0 - label_smoothing) * losses_C + label_smoothing * even_C
