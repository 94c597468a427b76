"""Results of arms for tests that train nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raise_mdit.core import Cost
from raise_mdit.results import ArmResult, HeldOut

COSTS = {
    "synthesis": Cost(1, 2, 3.0, 4.0),
    "policy_training": Cost(10, 20, 30.0, 40.0),
    "final_training": Cost(100, 200, 300.0, 400.0),
}


def held_out(loss: float, **fields: Any) -> HeldOut:
    """One target, and no items unless they are given."""
    default: dict[str, Any] = {"target_losses": {"test": loss}}
    return HeldOut(loss=loss, **{**default, **fields})


def arm(policy: str, seed: int, loss: float, **fields: Any) -> ArmResult:
    """An arm whose test loss is given; its kind is its label, and each may be another.

    Args:
        policy: Its label.
        seed: Its seed.
        loss: On the test.
        fields: Of :class:`ArmResult`; besides ``target_losses`` and ``metric_value`` of the test.
    """
    targets = fields.pop("target_losses", {"test": loss})
    measured = fields.pop("metric_value", None)
    default: dict[str, Any] = {
        "kind": policy,
        "status": "complete",
        "test": HeldOut(loss=loss, target_losses=targets, metric=measured),
        "reward_validation_losses": (2.0, 1.5),
        "episode_returns": (),
        "steps": 1,
        "tokens": 10,
        "picks": ({"sort": 2, "reverse": 1},),
        "costs": COSTS,
    }
    return ArmResult(policy=policy, seed=seed, **{**default, **fields})


def arms(policy: str, *losses: float, **fields: Any) -> list[ArmResult]:
    """One arm a test loss, with seeds from 0."""
    return [arm(policy, seed, loss, **fields) for seed, loss in enumerate(losses)]


def opened(given: ArmResult) -> HeldOut:
    """What an arm reached on the test, which it has opened."""
    assert given.test is not None
    return given.test


def of_items(
    losses: Sequence[float],
    tokens: Sequence[int],
    *,
    targets: Mapping[str, Sequence[int]] | None = None,
) -> HeldOut:
    """What items make of a model: each target's loss is all losses over all tokens.

    Args:
        losses: [I] per response token.
        tokens: [I] response tokens.
        targets: Items of each target; None puts all into one.
    """
    targets = targets or {"test": range(len(losses))}
    places = {item: at for at, items in enumerate(targets.values()) for item in items}
    return HeldOut(
        loss=float(np.average(losses, weights=tokens)),
        target_losses={
            name: float(np.average(np.take(losses, items), weights=np.take(tokens, items)))
            for name, items in targets.items()
        },
        item_losses=tuple(losses),
        item_tokens=tuple(tokens),
        item_targets=tuple(places[item] for item in range(len(losses))),
    )
