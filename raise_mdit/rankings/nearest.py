"""Rankings by nearness to target data, in embeddings or in gradients.

Shapes: ``N`` candidates, ``Q`` target items, ``H`` hidden size, ``C`` checkpoints, ``D`` dimensions
of a projected gradient, ``S`` subtasks of the target data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raise_mdit.features import unit_rows
from raise_mdit.rankings.order import highest_first

CHUNK = 256
"""Places looked at together for a candidate that is left. Targets that are near to each other want
the same candidates: with 200 such and 50,000 x 576 candidates, place by place took 26 s on one core
and this takes 4 s, of which 3 s are sorting."""

DECIMALS = 9
"""Of similarities, whose errors in double precision are below 1e-14."""


def nearest_first(
    candidates: NDArray[np.float32], targets: NDArray[np.float32]
) -> NDArray[np.int64]:
    """[N] rank of each candidate, 0 for the first pick of RDS+ (arXiv 2503.01807).

    The targets take turns; at its turn a target takes the nearest candidate that is left, by cosine
    similarity, ties by row.

    Args:
        candidates: [N, H] unit embeddings.
        targets: [Q, H] unit embeddings of the target data.
    """
    # A mosaic of one example has the embedding of that example, and where a row stands decides its
    # last digits in a product: rounded, ties are ties, on any number of threads.
    similarities_QN = np.round(
        targets.astype(np.float64) @ candidates.astype(np.float64).T, DECIMALS
    )
    orders_QN = np.argsort(-similarities_QN, axis=1, kind="stable")
    ranks_N = np.full(len(candidates), -1, np.int64)
    places_Q = np.zeros(len(targets), np.int64)
    for rank in range(len(candidates)):
        target = rank % len(targets)
        place = _first_left(orders_QN[target], ranks_N, start=int(places_Q[target]))
        ranks_N[orders_QN[target, place]] = rank
        places_Q[target] = place + 1
    return ranks_N


def by_less(
    candidate_features_CND: NDArray[np.float32],
    target_features_CQD: NDArray[np.float32],
    *,
    learning_rates_C: NDArray[np.float64],
    tasks_Q: NDArray[np.int64],
) -> NDArray[np.int64]:
    """[N] ranks of LESS by influence on the target data, highest first, ties by row.

    The influence of a candidate on a subtask is the cosine similarity of its gradient with the mean
    gradient of the subtask, times the learning rate, summed over checkpoints; its influence is that
    on the subtask it helps most (arXiv 2402.04333, eq. 3 and section 4).

    Args:
        candidate_features_CND: Projected gradients of the candidates, with Adam's correction; a
            gradient of zeros is like none.
        target_features_CQD: Projected gradients of the target items.
        learning_rates_C: Of the training at each checkpoint.
        tasks_Q: Subtask of each target item.
    """
    influence_SN = sum(
        # The paper's formula; the authors' code leaves the mean as long as it is.
        learning_rate * (unit_rows(_task_means(targets_QD, tasks_Q)) @ unit_rows(features_ND).T)
        for learning_rate, features_ND, targets_QD in zip(
            learning_rates_C, candidate_features_CND, target_features_CQD, strict=True
        )
    )
    return highest_first(np.max(influence_SN, axis=0))


def _first_left(order_N: NDArray[np.int64], ranks_N: NDArray[np.int64], *, start: int) -> int:
    """The first place of an order, from ``start`` on, whose candidate has no rank; there is one."""
    while True:
        left = ranks_N[order_N[start : start + CHUNK]] < 0
        first = int(np.argmax(left))
        if left[first]:
            return start + first
        start += CHUNK


def _task_means(
    features_QD: NDArray[np.float32], tasks_Q: NDArray[np.int64]
) -> NDArray[np.float32]:
    """[S, D] mean feature of each subtask."""
    return np.stack([features_QD[tasks_Q == task].mean(axis=0) for task in np.unique(tasks_Q)])
