"""What W&B should have of a run directory, and asking it whether it has.

The run directory says what there should be: rows in `metrics.jsonl` and `result.json`, artifacts in
its files. Nothing that the client reports of its own sending is taken for an answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import wandb
from wandb.apis.public.runs import RunNotFoundError
from wandb.errors import CommError

from raise_mdit import tracking
from raise_mdit.results import read_result
from raise_mdit.wandb_mirror import artifacts
from raise_mdit.wandb_mirror.contents import Content, arm_contents, shared_contents
from raise_mdit.wandb_mirror.service import RunIdentity, read_identity
from raise_mdit.wandb_mirror.stages import COMPARISON_TABLE, PICKS_TABLE, comparison_id
from raise_mdit.wandb_mirror.tables import pick_records

Record = dict[str, Any]
"""Numbers by metric; null where one was not finite."""


class TrackedArm(NamedTuple):
    """A finished arm and its run of W&B."""

    folder: Path
    identity: RunIdentity
    rows: list[Record]
    """Every row that should be there, in order."""


def tracked_arms(directory: Path) -> list[TrackedArm]:
    """The finished arms of a run directory that were tracked."""
    records = _records(directory / "metrics.jsonl")
    return [
        TrackedArm(folder, identity, [*_rows(folder, records)])
        for folder in sorted(file.parent for file in directory.glob("arms/*/result.json"))
        if (identity := read_identity(folder)) is not None
    ]


@dataclass(frozen=True)
class Arrival:
    """Asks W&B what it has of a run directory."""

    api: wandb.Api
    project: str
    """`entity/project`."""
    directory: Path
    experiment: str

    def missing(self, arm: TrackedArm) -> list[str]:
        """What of an arm is not there, in words."""
        count = self.missing_rows(arm)
        rows = [f"{count} of {len(arm.rows)} rows of {arm.folder.name}"] if count else []
        return rows + self.missing_files(arm)

    def missing_rows(self, arm: TrackedArm) -> int:
        """How many rows of an arm are not there, or not in their place."""
        run = self._run(arm.identity.id)
        shown: list[Record] = [] if run is None else [*run.scan_history(use_cache=False)]
        padded = [*shown, *[{}] * len(arm.rows)]
        return sum(not _holds(row, due) for due, row in zip(arm.rows, padded, strict=False))

    def missing_files(self, arm: TrackedArm) -> list[str]:
        """Artifacts and the table of an arm that are not there, in words."""
        missing = self._missing(arm_contents(arm.folder, self.experiment))
        if not self._has_table(arm.identity.id, PICKS_TABLE):
            missing.append(f"table {PICKS_TABLE!r} of {arm.folder.name}")
        return missing

    def missing_shared(self) -> list[str]:
        """Pool and features that are not there, in words."""
        return self._missing(shared_contents(self.directory, self.experiment))

    def missing_comparison(self) -> list[str]:
        """The comparison, if it is not there, in words."""
        is_there = self._has_table(comparison_id(self.experiment, self.directory), COMPARISON_TABLE)
        return [] if is_there else [f"table {COMPARISON_TABLE!r}"]

    def _missing(self, contents: tuple[Content, ...]) -> list[str]:
        return [
            f"{content.stage} {content.path}"
            for content in contents
            if not artifacts.has_arrived(self.api, self.project, content)
        ]

    def _has_table(self, run_id: str, name: str) -> bool:
        run = self._run(run_id)
        return run is not None and name in run.summary

    def _run(self, run_id: str) -> Any:  # the client's own runs have no types
        """A run as it is now, or None where there is none."""
        forget: Callable[[], None] = self.api.flush
        forget()
        try:
            return self.api.run(f"{self.project}/{run_id}")
        except CommError as fault:
            if isinstance(fault.exc, RunNotFoundError):
                return None
            raise


def _rows(folder: Path, records: Mapping[tuple[str, int], list[Record]]) -> Iterator[Record]:
    result = read_result(folder)
    for record in records.get((result.policy, result.seed), []):
        if tracking.COST_TOKENS not in record:  # that is in the final numbers, which are no row
            yield record
    yield from map(dict, pick_records(result))


def _records(path: Path) -> dict[tuple[str, int], list[Record]]:
    """Records by policy and seed."""
    found: dict[tuple[str, int], list[Record]] = {}
    if not path.is_file():
        return found
    for line in path.read_text("utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # half a line, where a run was killed; its arm is not finished
            continue
        found.setdefault((record.pop("policy"), record.pop("seed")), []).append(record)
    return found


def _holds(row: Mapping[str, Any], due: Mapping[str, Any]) -> bool:
    """Whether a row shows every number that is due; those that are not finite are let be."""
    return all(row.get(key) == value for key, value in due.items() if _is_finite(value))


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
