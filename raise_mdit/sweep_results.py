"""What the points of a sweep reached, and where they are shown while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from raise_mdit.config import ExperimentConfig, SweepValue
from raise_mdit.statistics import Interval

Setting = Mapping[str, SweepValue]
"""Value of each key, by its dotted path."""


@dataclass(frozen=True, kw_only=True)
class PointResult:
    """What a point reached."""

    name: str
    setting: Setting
    loss: Interval
    """On model-selection data, in nats, over seeds."""


class Board(Protocol):
    """Where a sweep is shown while it goes on."""

    def start(self, config: ExperimentConfig) -> None:
        """A sweep begins."""
        ...

    def add(self, result: PointResult) -> None:
        """A point is done."""
        ...


class NoBoard:
    """Shown nowhere."""

    def start(self, config: ExperimentConfig) -> None:
        """Do nothing."""

    def add(self, result: PointResult) -> None:
        """Do nothing."""
