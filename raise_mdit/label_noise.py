"""Label noise: some examples are given each other's responses (Zhang et al., arXiv 1611.03530).

Such an example looks like the others by its prompt, and by its response it does; only the two do
not go together. With some of them in a pool one sees which policies tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raise_mdit.candidates import make_example
from raise_mdit.core import Example, Message


def with_label_noise(
    examples: Sequence[Example], share: float, rng: np.random.Generator
) -> tuple[Example, ...]:
    """The examples in their order, some with the response of another.

    Those that are drawn hand their responses round in one circle, so that none keeps its own. One
    whose response another of them has word for word may come out as it was.

    Args:
        examples: All of them.
        share: How many change, between 0 and 1, rounded to whole examples; one alone has nobody to
            change with, so then none do.
        rng: Draws who changes.
    """
    drawn = rng.permutation(len(examples))[: round(share * len(examples))]
    changed = list(examples)
    for at, giver in zip(drawn, np.roll(drawn, 1), strict=True):
        changed[at] = _with_response(examples[at], examples[giver].response)
    return tuple(changed)


def _with_response(example: Example, response: str) -> Example:
    last = example.messages[-1]
    turns = (*example.messages[:-1], Message(last.role, response))
    return make_example(example.source, turns, task=example.task)
