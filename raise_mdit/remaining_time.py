"""How long a run still takes, by what its arms have taken so far."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from statistics import fmean
from time import monotonic

from raise_mdit.results import ArmResult, total


class RemainingTime:
    """Foretells the arms of a policy by those of it that have finished.

    What an arm is charged is more than it takes: several arms share features and rows of frozen
    layers, and some run side by side. The ratio of the two is that of the arms of this run so far.

    Args:
        before: Arms that had finished before this process began.
        clock: Seconds from whenever; starts now.
    """

    def __init__(
        self, before: Iterable[ArmResult] = (), *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._clock = clock
        self._began = clock()
        self._charged = 0.0
        self._of_policy: dict[str, list[float]] = {}
        for arm in before:
            self._note(arm)

    def add(self, arm: ArmResult) -> None:
        """An arm has finished."""
        self._charged += self._note(arm)

    def seconds(self, missing: Collection[str]) -> float | None:
        """Until these arms have run, too.

        Args:
            missing: The label of each.

        Returns:
            None while a policy among them has not finished anywhere, and before the first arm.
        """
        if self._charged == 0.0 or not self._of_policy.keys() >= set(missing):
            return None
        ahead = sum(fmean(self._of_policy[label]) for label in missing)
        return ahead * (self._clock() - self._began) / self._charged

    def _note(self, arm: ArmResult) -> float:
        seconds = total(arm.costs).seconds
        self._of_policy.setdefault(arm.policy, []).append(seconds)
        return seconds


def about(seconds: float) -> str:
    """A duration that is not known well, in words."""
    if seconds < 60:
        return "less than a minute"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
