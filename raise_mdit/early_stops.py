"""What is said of fine-tunings that went back to the weights of their lowest loss."""

from __future__ import annotations

from collections.abc import Sequence

from raise_mdit.results import ArmResult, by_policy


def early_stop_sentences(arms: Sequence[ArmResult]) -> list[str]:
    """How many steps of each policy count, in a sentence; none where nothing stops early.

    Args:
        arms: Finished ones. Those that train on nothing have no steps to keep.
    """
    kept = {
        policy: sorted({arm.kept_steps for arm in group if arm.kept_steps is not None})
        for policy, group in by_policy(arm for arm in arms if arm.steps > 0).items()
    }
    told = [f"{_range(steps)} of {policy}" for policy, steps in kept.items() if steps]
    if not told:
        return []
    return [f"Early stopping on reward-validation kept these steps: {', '.join(told)}."]


def _range(steps: Sequence[int]) -> str:
    """Ascending numbers as the ends of a range."""
    return str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
