"""What everything cost, by purpose: a result without its total cost is not a result."""

from __future__ import annotations

from typing import Literal, get_args

from raise_mdit.core import Cost

Purpose = Literal[
    "synthesis",
    "features",
    "proxy_check",
    "policy_training",
    "reward_evaluation",
    "final_training",
    "final_evaluation",
    "monitoring",
]

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
"""Synthesis of candidates; what a policy sees of them, passes over the pool and gradients included;
the probe of a proxy learner; model updates while a policy learns; validation passes that a policy
sees; updates of the final fine-tuning; the sealed test; validation passes for curves that no policy
sees."""

CHOOSING: tuple[Purpose, ...] = (
    "features",
    "proxy_check",
    "policy_training",
    "reward_evaluation",
)
"""What it costs to learn what to train on, outputs of frozen layers included: each purpose pays for
those that it needed first."""

MONITORING: Purpose = "monitoring"
"""Kept, but no part of what a policy costs: it would choose the same without."""

FINAL_EVALUATION: Purpose = "final_evaluation"
"""The sealed test."""


class Ledger:
    """Costs added up by purpose."""

    def __init__(self) -> None:
        self._costs: dict[Purpose, Cost] = {purpose: Cost() for purpose in PURPOSES}

    def charge(self, purpose: Purpose, cost: Cost) -> None:
        """Add a cost."""
        self._costs[purpose] = self._costs[purpose].plus(cost)

    @property
    def costs(self) -> dict[str, Cost]:
        """Every purpose with what it cost so far, zero where nothing was spent."""
        return {str(purpose): cost for purpose, cost in self._costs.items()}

    @property
    def total(self) -> Cost:
        """The sum over purposes."""
        total = Cost()
        for cost in self._costs.values():
            total = total.plus(cost)
        return total
