"""The ledger: what everything cost, by purpose."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from raise_mdit.core import Cost
from raise_mdit.ledger import PURPOSES, Ledger

counts = st.integers(0, 10**9)
costs = st.builds(Cost, counts, counts, counts.map(float), counts.map(float))


def test_every_purpose_is_present_before_anything_is_spent() -> None:
    assert Ledger().costs == {
        "synthesis": Cost(),
        "features": Cost(),
        "proxy_check": Cost(),
        "policy_training": Cost(),
        "reward_evaluation": Cost(),
        "final_training": Cost(),
        "final_evaluation": Cost(),
        "monitoring": Cost(),
    }


def test_charges_of_a_purpose_add_up_and_leave_the_others() -> None:
    ledger = Ledger()

    ledger.charge("features", Cost(1, 2, 3.0, 4.0))
    ledger.charge("synthesis", Cost(seconds=7.0))
    ledger.charge("features", Cost(10, 20, 30.0, 40.0))

    spent = {purpose: cost for purpose, cost in ledger.costs.items() if cost != Cost()}
    assert spent == {"features": Cost(11, 22, 33.0, 44.0), "synthesis": Cost(seconds=7.0)}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PURPOSES), costs)))
def test_the_total_is_the_sum_of_all_charges(charges: list[tuple[str, Cost]]) -> None:
    ledger = Ledger()
    for purpose, cost in charges:
        ledger.charge(purpose, cost)  # type: ignore[arg-type]  # drawn from the purposes

    assert ledger.total == Cost(
        sum(cost.tokens for _, cost in charges),
        sum(cost.padded_tokens for _, cost in charges),
        sum(cost.flops for _, cost in charges),
        sum(cost.seconds for _, cost in charges),
    )


def test_costs_that_were_given_out_do_not_change_later() -> None:
    ledger = Ledger()
    before = ledger.costs

    ledger.charge("features", Cost(tokens=1))

    assert before["features"] == Cost()
