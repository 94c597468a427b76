"""Uniform noise on input embeddings in training (NEFTune, Jain et al. 2023, arXiv 2310.05914).

A control for MDIT: embeddings that are blurred at random rather than by those of another example.

Shapes: ``B`` rows, ``T`` longest row, ``L`` tokens of one row, ``H`` embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from raise_mdit.core import EncodedRow


def draw_noise(
    rows: Sequence[EncodedRow], *, alpha: float, size: int, rng: np.random.Generator
) -> torch.Tensor:
    """Noise [B, T, H], float32, on the CPU: Uniform(-1, 1) alpha / sqrt(L H), 0 at padding.

    L is the row's own length, as in the authors' training code, so that a row's noise does not
    depend on who it is padded with. Rows draw one after another, so that it does not depend either
    on how they are cut into batches.

    Args:
        rows: Plain or interpolated; noise goes on top of the interpolation.
        alpha: The paper's; it tries 5, 10 and 15.
        size: H.
        rng: Advanced by the tokens of the rows times ``size`` draws.
    """
    noise_BTH = torch.zeros(len(rows), max(row.num_tokens for row in rows), size)
    for noise_TH, row in zip(noise_BTH, rows, strict=True):
        bound = alpha / math.sqrt(row.num_tokens * size)
        drawn_LH = 2.0 * rng.random((row.num_tokens, size), np.float32) - 1.0
        noise_TH[: row.num_tokens] = torch.from_numpy(bound * drawn_LH)
    return noise_BTH
