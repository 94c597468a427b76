"""Whether the pool has enough for policies that use each candidate once."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from raise_mdit.errors import DataError
from raise_mdit.policy_section import PolicySection
from raise_mdit.preparation import Preparation
from raise_mdit.renewal import num_learning_episodes
from raise_mdit.selectors import allowed


def rows_to_use_once(preparation: Preparation, policy: PolicySection) -> NDArray[np.int64]:
    """[K] pool rows that are on offer to a policy at some step of its final fine-tuning.

    Args:
        preparation: The pool.
        policy: One that uses each candidate once.
    """
    own = [own for own, _ in _own_rows(preparation, policy)]
    return np.concatenate([_rows_always(preparation, policy), *own])


def check_unused_suffice(preparation: Preparation) -> None:
    """Find out before the first arm what would end one that comes late.

    Args:
        preparation: Of all policies.

    Raises:
        DataError: No order of the candidates that a policy may use once can spend the budget. It
            names every such policy.
    """
    faults = [
        used_up(policy, len(rows_to_use_once(preparation, policy)), f"before {budget}")
        for policy in preparation.config.policies
        if policy.most_uses == 1 and (budget := _out_of_reach(preparation, policy)) is not None
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


def _out_of_reach(preparation: Preparation, policy: PolicySection) -> str | None:
    """The budget in words, where candidates do not last for it however they are picked."""
    environment = preparation.config.environment
    steps, tokens = environment.budget.steps, environment.budget.tokens
    batch_size = environment.batch_size
    if steps is not None:
        parts = _own_rows(preparation, policy)
        lacking = sum(max(0, num_steps * batch_size - len(own)) for own, num_steps in parts)
        reached = lacking <= len(_rows_always(preparation, policy))
        return None if reached else f"{steps:,} steps of {batch_size}"
    assert tokens is not None, "a budget is in steps or in tokens"
    rows = rows_to_use_once(preparation, policy)
    longest = np.sort(preparation.pool.num_tokens[rows])[::-1]
    most = int(longest[: len(rows) // batch_size * batch_size].sum())
    return f"{tokens:,} tokens" if most < tokens else None


def _rows_always(preparation: Preparation, policy: PolicySection) -> NDArray[np.int64]:
    """Rows for a policy that are on offer at every step."""
    return _for(preparation, policy, np.flatnonzero(_is_always(preparation)))


def _own_rows(
    preparation: Preparation, policy: PolicySection
) -> list[tuple[NDArray[np.int64], int]]:
    """What each generation of its final fine-tuning adds to those, and for how many steps.

    Where nothing is renewed there is one generation, which adds nothing.
    """
    training, episode = preparation.training, num_learning_episodes(preparation.config)
    num_steps = preparation.config.environment.budget.steps or 1
    met = Counter(training.generation(episode=episode, step=step) for step in range(num_steps))
    is_always = _is_always(preparation)
    own = []
    for generation, steps in met.items():
        rows = training.offered(generation)
        own.append((_for(preparation, policy, rows[~is_always[rows]]), steps))
    return own


def _is_always(preparation: Preparation) -> NDArray[np.bool_]:
    """[N] which candidates are on offer at every step."""
    renewal = preparation.training.renewal
    if renewal is None:
        return np.ones(len(preparation.training), bool)
    return np.asarray(renewal.generations == 0)


def _for(
    preparation: Preparation, policy: PolicySection, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Those of the rows that a policy may pick."""
    of_kinds = allowed(preparation, policy)
    return rows if of_kinds is None else rows[of_kinds[rows]]
