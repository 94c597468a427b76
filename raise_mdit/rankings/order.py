"""Ranks from keys and from orders.

A rank is a place in line: `[N]` ranks are a permutation of 0 to N - 1, and rank 0 is picked first.

Shapes: ``N`` candidates, ``K`` rankings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def lowest_first(keys_N: NDArray[Any]) -> NDArray[np.int64]:
    """[N] ranks by ascending key, ties by row."""
    return ranks_in(np.argsort(keys_N, kind="stable"))


def highest_first(keys_N: NDArray[Any]) -> NDArray[np.int64]:
    """[N] ranks by descending key, ties by row."""
    return lowest_first(-keys_N)


def ranks_in(order_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N] rank of each row.

    Args:
        order_N: Every row once, the first to be picked first.
    """
    ranks_N = np.empty(len(order_N), np.int64)
    ranks_N[order_N] = np.arange(len(order_N))
    return ranks_N


def in_turn(ranks_KN: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """[N] ranks where rankings take turns: each takes the first of its candidates that is left.

    Args:
        ranks_KN: [N] ranks of each ranking, in the order of their turns.
    """
    orders = [np.argsort(ranks_N).tolist() for ranks_N in ranks_KN]
    left = [iter(order) for order in orders]
    merged: dict[int, None] = {}
    for turn in range(len(orders[0])):
        row = next(row for row in left[turn % len(left)] if row not in merged)
        merged[row] = None
    return ranks_in(np.fromiter(merged, np.int64, len(merged)))
