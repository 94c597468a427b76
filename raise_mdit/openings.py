"""When the sealed test of a run was opened, and for whom: `sealed_test.json`.

Each arm opens it once. The record is written before the result, so that a result without a record
cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock

from raise_mdit import __version__
from raise_mdit.candidates import content_hash
from raise_mdit.core import EncodedRow
from raise_mdit.errors import RunError
from raise_mdit.runs import read_record, write_json

OPENINGS_FILE = "sealed_test.json"
FORMAT = "raise-mdit/sealed-test/1"
_LOCK_FILE = ".sealed_test.lock"
"""Held by an arm that adds its opening: arms of other processes do likewise."""

Opener = Literal["run", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The test, opened for one arm."""

    policy: str
    seed: int
    at: str
    """When, as ISO 8601 in UTC."""
    by: Opener
    """The command that opened it."""
    version: str
    """Of this program."""


class Seal:
    """What stands before a run's test; who opens it is noted first."""

    def __init__(self, directory: Path, items: Sequence[EncodedRow], *, by: Opener) -> None:
        """Seal a test.

        Args:
            directory: Of the run.
            items: Of the test.
            by: The command at work.
        """
        self._directory = directory
        self._digest = content_hash([item.key for item in items])
        self._by: Opener = by

    def open(self, policy: str, seed: int) -> None:
        """Note that an arm opens the test now.

        Args:
            policy: Its label.
            seed: Its seed.

        Raises:
            RunError: The run has opened another test before.
        """
        with FileLock(self._directory / _LOCK_FILE):
            self._note(policy, seed)

    def _note(self, policy: str, seed: int) -> None:
        openings = read_openings(self._directory)
        path = self._directory / OPENINGS_FILE
        if openings and read_record(path, form=FORMAT)["items"] != self._digest:
            raise RunError(
                f"{path}: the test's items are not those of {openings[0].at}, when it was opened "
                "first; the data must have changed, so results would not compare"
            )
        at = datetime.now(UTC).isoformat(timespec="seconds")
        opening = Opening(policy=policy, seed=seed, at=at, by=self._by, version=__version__)
        noted = [asdict(each) for each in (*openings, opening)]
        write_json(path, {"format": FORMAT, "items": self._digest, "openings": noted})


def read_openings(directory: Path) -> tuple[Opening, ...]:
    """Openings in order; none where the test is still sealed.

    Raises:
        RunError: The file is damaged or of another format.
    """
    path = directory / OPENINGS_FILE
    if not path.exists():
        return ()
    document = read_record(path, form=FORMAT)
    try:
        return tuple(Opening(**fields) for fields in document["openings"])
    except (KeyError, TypeError) as fault:
        raise RunError(f"{path}: holds an opening that cannot be read ({fault!r})") from fault
