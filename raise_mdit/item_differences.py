"""What each held-out item adds to what policies are compared by.

Seeds say how a comparison would come out with other draws of the same experiment. Whether it would
with other test items, only the items say: two policies that draw nothing differ by the same number
on every seed, and still by luck of the test.

Shapes: ``I`` held-out items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from raise_mdit.results import ArmResult, HeldOut, HeldOutSplit

ByItem = Mapping[tuple[str, int], NDArray[np.float64]]
"""[I] values by policy and seed; their mean over items is what the arm is compared by."""


def values_by_item(arms: Sequence[ArmResult], split: HeldOutSplit) -> ByItem:
    """For each arm, values whose mean is what it is compared by and whose spread is the items'.

    A loss over items is a ratio, all losses over all tokens, and with several targets a mean of
    such ratios, each over that of the base model. An item's value is the arm's number plus the
    item's influence on it (the infinitesimal jackknife of Jaeckel 1972), so that means of resampled
    values vary as the number itself would with other items, on which the base model has another
    loss, too.

    Args:
        arms: Finished arms.
        split: What they are measured on.

    Returns:
        Nothing for arms whose results have no items, or losses that are not finite; nothing at all
        where several targets have no arm ``base`` to be compared with.
    """
    measured = {
        (arm.policy, arm.seed): held_out
        for arm in arms
        if (held_out := arm.held_out(split)) is not None and _has_items(held_out)
    }
    several = any(len(held_out.target_losses) > 1 for held_out in measured.values())
    base = next((measured.get((arm.policy, arm.seed)) for arm in arms if arm.kind == "base"), None)
    if several and base is None:
        return {}
    return {
        key: _values(held_out, _yardstick(base if several else None, len(held_out.item_losses)))
        for key, held_out in measured.items()
    }


def _has_items(held_out: HeldOut) -> bool:
    return len(held_out.item_losses) > 1 and bool(np.isfinite(held_out.item_losses).all())


def _yardstick(base: HeldOut | None, num_items: int) -> NDArray[np.float64]:
    """[I] losses over whose mean on each target a loss is taken; ones leave it in nats."""
    return np.ones(num_items) if base is None else np.array(base.item_losses)


def _values(held_out: HeldOut, yardstick: NDArray[np.float64]) -> NDArray[np.float64]:
    losses, tokens = np.array(held_out.item_losses), np.array(held_out.item_tokens, np.float64)
    targets, num_targets = np.array(held_out.item_targets), len(held_out.target_losses)
    all_tokens = np.bincount(targets, tokens, num_targets)
    scales = np.bincount(targets, tokens * yardstick, num_targets) / all_tokens
    ratios = np.bincount(targets, tokens * losses, num_targets) / all_tokens / scales
    share = tokens / all_tokens[targets] / num_targets
    # The derivative of a ratio of sums by the weight of one item, times the number of items.
    influence = share * (losses - ratios[targets] * yardstick) / scales[targets]
    return np.asarray(ratios.mean() + len(losses) * influence)
