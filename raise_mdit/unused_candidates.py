"""Whether the pool has enough for policies that use each candidate once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raise_mdit.errors import DataError
from raise_mdit.policy_section import PolicySection
from raise_mdit.preparation import Preparation
from raise_mdit.renewal import num_learning_episodes
from raise_mdit.selectors import allowed


def rows_to_use_once(preparation: Preparation, policy: PolicySection) -> NDArray[np.int64] | None:
    """[K] pool rows that the final fine-tuning of a policy can use; None where it may repeat some.

    Args:
        preparation: The pool.
        policy: Any.
    """
    if policy.most_uses != 1:
        return None
    training = preparation.training
    final = num_learning_episodes(preparation.config)
    rows = training.offered(training.generation(episode=final, step=0))
    of_kinds = allowed(preparation, policy)
    return rows if of_kinds is None else rows[of_kinds[rows]]


def check_unused_suffice(preparation: Preparation) -> None:
    """Find out before the first arm what would end one that comes late.

    Args:
        preparation: Of all policies.

    Raises:
        DataError: No order of the candidates that a policy may use once can spend the budget. It
            names every such policy.
    """
    faults = [
        used_up(policy, len(rows), f"before {budget}")
        for policy in preparation.config.policies
        if (rows := rows_to_use_once(preparation, policy)) is not None
        and (budget := _out_of_reach(preparation, rows)) is not None
    ]
    if faults:
        raise DataError("\n".join(faults))


def used_up(policy: PolicySection, num_candidates: int, when: str) -> str:
    """What is wrong where a policy that uses each candidate once runs out of them.

    Args:
        policy: That policy.
        num_candidates: How many there are for it.
        when: When that is, such as "before 3 steps of 2".
    """
    return (
        f"environment.budget: {policy.label} never repeats a candidate, and the pool's "
        f"{num_candidates:,} for it are used up {when}; lower the budget or enlarge data.pool or "
        "pools"
    )


def _out_of_reach(preparation: Preparation, rows: NDArray[np.int64]) -> str | None:
    """The budget in words, where these rows do not last for it however they are picked."""
    environment = preparation.config.environment
    steps, tokens = environment.budget.steps, environment.budget.tokens
    num_batches = len(rows) // environment.batch_size
    if steps is not None:
        return f"{steps:,} steps of {environment.batch_size}" if num_batches < steps else None
    assert tokens is not None, "a budget is in steps or in tokens"
    longest = np.sort(preparation.pool.num_tokens[rows])[::-1]
    most = int(longest[: num_batches * environment.batch_size].sum())
    return f"{tokens:,} tokens" if most < tokens else None
