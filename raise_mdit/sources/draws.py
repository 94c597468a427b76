"""Random choices one at a time, fast: numpy is asked for a block of numbers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

BLOCK = 4096
"""Numbers drawn at once: a scalar draw of numpy's costs microseconds, one of a block 50 ns."""

Option = TypeVar("Option")


class Draws:
    """Choices from one generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Draw from ``rng`` from now on, a block ahead of what is used."""
        self.uniform: Callable[[], float] = _uniforms(rng).__next__
        """A number from 0 to below 1."""

    def toss(self) -> bool:
        """True for one half."""
        return self.uniform() < 0.5

    def index(self, count: int) -> int:
        """A position among ``count``; none is preferred by more than 1 in 2**53 / count."""
        return int(self.uniform() * count)

    def pick(self, options: Sequence[Option]) -> Option:
        """One of several."""
        return options[int(self.uniform() * len(options))]

    def shuffled(self, items: Sequence[Option]) -> list[Option]:
        """All items in random order."""
        return sorted(items, key=lambda _: self.uniform())


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(BLOCK).tolist()
