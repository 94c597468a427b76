"""Sends what W&B has not got of a run directory, and makes sure that it arrived.

Rows go by the client's own ``wandb sync``, which replays what it kept on disk. Files are sent from
where the run directory is now: the client would look for them where they were, and leave the
artifacts of a run that was moved pending without a word.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from raise_mdit.config import WandbConfig
from raise_mdit.errors import RunError
from raise_mdit.experiment_file import read_config
from raise_mdit.progress import Progress
from raise_mdit.results import read_result
from raise_mdit.wandb_mirror.arrival import Arrival, TrackedArm, tracked_arms
from raise_mdit.wandb_mirror.contents import arm_contents, shared_contents
from raise_mdit.wandb_mirror.service import (
    SERVICE_FAULTS,
    TRACKING_FOLDER,
    RunLabels,
    connect,
    open_run,
    reason,
)
from raise_mdit.wandb_mirror.stages import (
    arm_name,
    project_path,
    send_arm_files,
    send_comparison,
    send_schedule,
    send_shared,
)

ARRIVAL_SECONDS = 60.0
"""How long rows may take from being sent to being seen."""
POLL_SECONDS = 1.0
SYNC_TIMEOUT = 1800
"""Seconds that ``wandb sync`` may take for all runs of a directory."""


class Synced(NamedTuple):
    """What the service has now of a run directory; all of it was asked for."""

    project: str
    """`entity/project`."""
    num_runs: int
    num_rows: int
    num_artifacts: int
    num_sent: int
    """Runs of which something was missing before."""


def sync(directory: Path, *, progress: Progress) -> Synced:
    """Send what is missing of a run directory, and check that all of it is there.

    Args:
        directory: Of a run, finished or stopped; it may have been moved.
        progress: Told of every run.

    Raises:
        RunError: The directory was not tracked, the service cannot be reached, or something has
            not arrived; the message names it.
    """
    config = read_config(directory)
    arms = tracked_arms(directory)
    mirror = config.tracking.wandb
    if mirror is None or not arms:
        raise RunError(
            f"{directory}: no finished policy of it was tracked; run the experiment with "
            "`tracking: {wandb: {mode: offline}}`"
        )
    api = connect()
    arrival = Arrival(api, project_path(api, mirror), directory, config.name)
    try:
        num_sent = _send(arms, arrival, mirror, progress)
        missing = [each for arm in arms for each in arrival.missing(arm)]
        missing += arrival.missing_shared()
        if not missing and (directory / "results.json").is_file():
            _send_comparison(arrival, mirror, is_new=num_sent > 0)
    except SERVICE_FAULTS as fault:
        raise RunError(f"Weights & Biases: {reason(fault)}; sync again later") from fault
    finally:
        progress.finish()
    if missing:
        listed = "".join(f"\n  {each}" for each in missing)
        raise RunError(f"{directory}: Weights & Biases has not got all; sync again later.{listed}")
    contents = [each for arm in arms for each in arm_contents(arm.folder, config.name)]
    contents += shared_contents(directory, config.name)
    num_rows = sum(len(arm.rows) for arm in arms)
    return Synced(arrival.project, len(arms), num_rows, len(contents), num_sent)


def _send(
    arms: Sequence[TrackedArm], arrival: Arrival, mirror: WandbConfig, progress: Progress
) -> int:
    """Send what is missing; number of runs of which something was."""
    directory, experiment = arrival.directory, arrival.experiment
    progress.start("sending to Weights & Biases", len(arms))
    send_shared(mirror, experiment, directory)
    without_rows = [arm for arm in arms if arrival.missing_rows(arm)]
    _replay(directory, without_rows)
    sent = {arm.folder for arm in without_rows}
    for arm in arms:
        # Going on with a run whose rows are not all there would put new ones in their places.
        if _rows_are_seen(arrival, arm) and arrival.missing_files(arm):
            _send_files(arm, arrival, mirror)
            sent.add(arm.folder)
        progress.advance()
    return len(sent)


def _send_comparison(arrival: Arrival, mirror: WandbConfig, *, is_new: bool) -> None:
    if is_new or arrival.missing_comparison():
        send_comparison(mirror, arrival.experiment, arrival.directory)


def _replay(directory: Path, arms: Sequence[TrackedArm]) -> None:
    """Let the client send what it kept on disk of some runs."""
    if not arms:
        return
    folders = [directory / arm.identity.folder for arm in arms]
    gone = ", ".join(str(folder) for folder in folders if not folder.is_dir())
    if gone:
        raise RunError(f"{gone}: no such folder; what W&B keeps of its runs on disk was deleted")
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", "--include-synced"]
    try:
        subprocess.run(
            [*command, *map(str, folders)],
            env={**os.environ, "WANDB_DIR": str(directory / TRACKING_FOLDER)},  # for its own log
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SYNC_TIMEOUT,
            check=False,  # its exit code says nothing: rows are asked for
        )
    except subprocess.TimeoutExpired as fault:
        raise TimeoutError(f"`wandb sync` took more than {SYNC_TIMEOUT} s") from fault


def _rows_are_seen(arrival: Arrival, arm: TrackedArm) -> bool:
    """Whether all rows are seen within the time that they may take."""
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while arrival.missing_rows(arm):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _send_files(arm: TrackedArm, arrival: Arrival, mirror: WandbConfig) -> None:
    """Go on with a run that the service has, and add its files and what comes of them."""
    result = read_result(arm.folder)
    labels = RunLabels(
        name=arm_name(result),
        group=arrival.experiment,
        job_type="arm",
        tags=[result.kind],
        config={},
    )
    run = open_run(
        mirror, labels, directory=arrival.directory, mode="online", run_id=arm.identity.id
    )
    try:
        send_arm_files(run, arm.folder, experiment=arrival.experiment)
    finally:
        run.finish()
    send_schedule(mirror, arrival.experiment, arm.folder)
