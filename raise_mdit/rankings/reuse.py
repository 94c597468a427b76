"""How many candidates a budget in tokens takes where each may be used several times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def num_different(
    num_tokens: NDArray[np.int64], *, repeat: int, budget: int, batch_size: int
) -> int:
    """The fewest candidates that spend a budget when each is used `repeat` times at most.

    They are used in turn, the first ones first, in batches that hold each once; the batch that
    crosses the budget is the last.

    Args:
        num_tokens: [N] of each candidate, in the order of use.
        repeat: Uses of each.
        budget: In tokens.
        batch_size: Of a step.

    Returns:
        At least a batch; N where not even all are enough.
    """
    total = np.concatenate([[0], np.cumsum(num_tokens)])
    num = np.arange(batch_size, len(num_tokens) + 1)
    uses = num * repeat // batch_size * batch_size
    spent = uses // num * total[num] + total[uses % num]
    enough = np.flatnonzero(spent >= budget)
    return int(num[enough[0]]) if len(enough) else len(num_tokens)
