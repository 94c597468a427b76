"""How many candidates a budget in tokens takes, against fine-tunings played to their end."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raise_mdit.rankings.reuse import num_different


def most_uses(num_tokens: list[int], *, budget: int, batch_size: int) -> int:
    """How often one of the candidates is used until the budget is spent."""
    uses, spent = np.zeros(len(num_tokens), int), 0
    while spent < budget:
        batch = np.lexsort([np.arange(len(num_tokens)), uses])[:batch_size]
        uses[batch] += 1
        spent += sum(num_tokens[row] for row in batch)
    return int(uses.max())


@given(
    num_tokens=st.lists(st.integers(1, 30), min_size=4, max_size=20),
    repeat=st.integers(1, 4),
    budget=st.integers(1, 1000),
    batch_size=st.integers(1, 4),
)
def test_no_fewer_would_do(
    num_tokens: list[int], repeat: int, budget: int, batch_size: int
) -> None:
    found = num_different(np.array(num_tokens), repeat=repeat, budget=budget, batch_size=batch_size)

    fit = [
        num
        for num in range(batch_size, len(num_tokens) + 1)
        if most_uses(num_tokens[:num], budget=budget, batch_size=batch_size) <= repeat
    ]
    assert found == (fit[0] if fit else len(num_tokens))


def test_by_hand() -> None:
    """Of 5, 3, 2 twice: 5 + 3 and again; of the first two 16 tokens in two steps of two."""
    num_tokens = np.array([5, 3, 2])

    assert num_different(num_tokens, repeat=2, budget=16, batch_size=2) == 2
    assert num_different(num_tokens, repeat=2, budget=17, batch_size=2) == 3
    assert num_different(num_tokens, repeat=2, budget=21, batch_size=2) == 3
