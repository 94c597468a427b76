"""How many instructions a mosaic is to take (arXiv 2405.13326).

The paper names its distributions and gives no parameters. Ours are here: the four that pile up near
the largest number fall short of it by a draw, so that most mosaics are large and all sizes occur.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from raise_mdit.config import SizeDistribution

BLOCK = 1024
"""Sizes drawn at once."""

SPREAD = 0.2
"""How far below the largest number a mosaic typically is, as a share of it: 2 of 10. Enough for
variety, and still four fifths of the samples that the largest mosaics would save."""

PARETO_SHAPE = 1.16  # Pareto's own 80 to 20
"""Of the distance below the largest number: half of the mosaics have none, a few fall to 1."""

LOG_NORMAL_SIGMA = 0.75
"""Of the logarithm of the distance: the middle two thirds lie between half and twice the median."""


def mosaic_sizes(
    distribution: SizeDistribution, *, largest: int, rng: np.random.Generator
) -> Iterator[int | None]:
    """Sizes from 1 to ``largest`` without end; None for as many instructions as fit.

    Args:
        distribution: Name of the distribution.
        largest: Largest size; without effect on ``fill``.
        rng: Source of the sizes, read a block ahead of what is used.
    """
    while True:
        match distribution:
            case "fill":
                yield None
            case "fixed":
                yield largest
            case "uniform":
                yield from rng.integers(1, largest, BLOCK, endpoint=True).tolist()
            case _:
                draws = np.floor(_distances(distribution, largest, rng))
                yield from np.clip(largest + 1 - draws, 1, largest).astype(np.int64).tolist()


def _distances(
    distribution: SizeDistribution, largest: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """[BLOCK] draws; 1 to below 2 makes a mosaic of the largest size, 2 to below 3 one less."""
    typical = max(1.0, SPREAD * largest)
    match distribution:
        case "exponential":
            return 1 + rng.exponential(typical, BLOCK)
        case "pareto":
            return 1 + rng.pareto(PARETO_SHAPE, BLOCK)
        case "log_normal":
            return rng.lognormal(np.log(typical), LOG_NORMAL_SIGMA, BLOCK)
    assert distribution == "logistic", distribution
    return rng.logistic(typical, typical / 2, BLOCK)
