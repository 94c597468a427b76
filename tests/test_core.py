"""The arithmetic of costs and budgets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raise_mdit.core import Budget, Cost

counts = st.integers(0, 10**12)
costs = st.builds(Cost, counts, counts, counts.map(float), counts.map(float))


def test_costs_add_field_by_field() -> None:
    assert Cost(1, 2, 3.0, 4.0).plus(Cost(10, 20, 30.0, 40.0)) == Cost(11, 22, 33.0, 44.0)


@settings(deadline=None)
@given(costs, costs, costs)
def test_the_order_of_adding_costs_does_not_matter(a: Cost, b: Cost, c: Cost) -> None:
    assert a.plus(b) == b.plus(a)
    assert a.plus(b).plus(c) == a.plus(b.plus(c))
    assert a.plus(Cost()) == a


@pytest.mark.parametrize(
    ("budget", "share"),
    [(Budget(steps=8), 0.25), (Budget(tokens=400), 0.75)],
    ids=["steps", "tokens"],
)
def test_the_share_spent_counts_only_what_the_budget_limits(budget: Budget, share: float) -> None:
    assert budget.share_spent(steps=2, tokens=300) == share


@settings(deadline=None)
@given(st.integers(1, 1000), counts)
def test_the_share_spent_is_between_nothing_and_all(limit: int, spent: int) -> None:
    by_steps = Budget(steps=limit).share_spent(steps=spent, tokens=0)
    by_tokens = Budget(tokens=limit).share_spent(steps=0, tokens=spent)

    assert by_steps == by_tokens
    assert 0.0 <= by_steps <= 1.0
    assert (by_steps == 1.0) == (spent >= limit)


def test_a_budget_without_a_limit_is_a_fault_of_ours() -> None:
    with pytest.raises(AssertionError, match="a budget has a limit"):
        Budget().share_spent(steps=0, tokens=0)
