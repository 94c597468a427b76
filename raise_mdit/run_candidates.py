"""The candidates of a run directory, by what a person can tell them apart by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raise_mdit.conversations import Part, parts_of
from raise_mdit.core import KINDS, Example, Message
from raise_mdit.decisions import FEATURES_FILE, read_features
from raise_mdit.errors import RunError
from raise_mdit.example_texts import EXAMPLES_FILE, read_examples
from raise_mdit.features import FeatureTable
from raise_mdit.pool import Pool
from raise_mdit.shortening import shortened
from raise_mdit.sources.mosaic_wording import Wording, load_wording

POOL_FILE = "pool.parquet"
WORDING_FILE = "mosaic_wording.yaml"
"""In a run directory; the second where mosaics had a wording of the user's own."""
PARENTS = " | "
"""Between the texts of both parents of an interpolation."""


class RunCandidates:
    """Candidates of a run: pool and features at once, texts when they are asked for."""

    def __init__(self, directory: Path) -> None:
        """Read pool and features.

        Raises:
            RunError: One is missing or damaged, or they do not belong together.
        """
        self.pool: Pool = Pool.read(directory / POOL_FILE)
        self.table: FeatureTable = read_features(directory / FEATURES_FILE)
        if len(self.pool) != len(self.table.strata):
            raise RunError(
                f"{directory / FEATURES_FILE}: of {len(self.table.strata)} candidates, but the "
                f"pool beside it has {len(self.pool)}"
            )
        self._directory = directory

    def clusters(self, rows: NDArray[np.int64]) -> list[str]:
        """Kind and number of the cluster of each row: the stratum that windows are drawn from."""
        return [self._cluster_names[int(stratum)] for stratum in self.table.strata[rows]]

    def kind(self, row: int) -> str:
        """Kind of a row."""
        return KINDS[int(self.pool.kinds[row])]

    def parts(self, row: int) -> tuple[Part, ...]:
        """Both parents of an interpolation, with their shares; of any other row itself.

        Raises:
            RunError: The run's texts are missing or damaged.
            ConfigError: A mosaic was composed with another wording than the run has.
        """
        return parts_of(self.pool.recipe(row), self._examples, self._wording)

    def prompt(self, row: int, length: int) -> str:
        """The beginning of what a row asks, on one line; of an interpolation, of both parents.

        Args:
            row: Of the pool.
            length: Characters at most.

        Raises:
            RunError: As :meth:`parts`.
            ConfigError: As :meth:`parts`.
        """
        parts = self.parts(row)
        if len(parts) == 1:
            return one_line(asked(parts[0].messages), length)
        half = (length - len(PARENTS)) // 2
        return PARENTS.join(
            one_line(f"{share:.0%} of: {asked(messages)}", half) for messages, share in parts
        )

    @cached_property
    def _cluster_names(self) -> dict[int, str]:
        """A stratum is a cluster of one kind; clusters are numbered within their kind, from 1."""
        strata, first = np.unique(self.table.strata, return_index=True)
        numbers: Counter[str] = Counter()
        names = {}
        for stratum, row in zip(strata, first, strict=True):
            kind = self.kind(int(row))
            numbers[kind] += 1
            names[int(stratum)] = f"{kind} {numbers[kind]}"
        return names

    @cached_property
    def _wording(self) -> Wording:
        return wording_of(self._directory)

    @cached_property
    def _examples(self) -> dict[str, Example]:
        return read_examples(self._directory / EXAMPLES_FILE)


def wording_of(directory: Path) -> Wording:
    """What mosaics of a run could say: the user's own wording, or else the project's.

    Raises:
        ConfigError: The run's own is damaged.
    """
    own = directory / WORDING_FILE
    return load_wording(own if own.is_file() else None)


def asked(messages: Sequence[Message]) -> str:
    """Everything before the response, as one text."""
    return " ".join(message.content for message in messages[:-1])


def one_line(text: str, length: int) -> str:
    """The beginning of a text on one line; what cannot be printed is replaced.

    Args:
        text: Of any length.
        length: Characters at most.
    """
    words = " ".join(text.split())
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in words)
    return shortened(shown, length)
