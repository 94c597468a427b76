"""The tracker of Weights & Biases: one run a policy and seed, rows as they come, files at its end.

Training never waits for the service and never fails with it: a fault is one warning, and from then
on runs are kept on disk for ``raise-mdit sync``.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import wandb
from filelock import FileLock

from raise_mdit.config import WandbConfig
from raise_mdit.item_differences import values_by_item
from raise_mdit.results import ArmResult, read_result
from raise_mdit.statistics import student_interval
from raise_mdit.tracking import (
    MODEL_SELECTION_LOSS,
    TEST_LOSS_HIGH,
    TEST_LOSS_LOW,
    TrackedRun,
    Value,
)
from raise_mdit.wandb_mirror.contents import lineage
from raise_mdit.wandb_mirror.service import (
    SERVICE_FAULTS,
    Mode,
    RunIdentity,
    RunLabels,
    log_in,
    open_run,
    reason,
    warn,
    write_identity,
)
from raise_mdit.wandb_mirror.stages import (
    send_arm_files,
    send_comparison,
    send_schedule,
    send_shared,
)
from raise_mdit.wandb_mirror.tables import pick_records

_LOCK_FILE = ".shared.lock"
"""Held while what all arms share is sent: arms of other processes send the same."""


class WandbTracker:
    """Weights & Biases: project = study, group = experiment, one run a policy and seed.

    An online tracker without credentials or server says so once and goes on offline, for the runs
    after it; what is missing is sent by ``raise-mdit sync``.
    """

    def __init__(
        self,
        config: WandbConfig,
        *,
        experiment: str,
        directory: Path,
        versions: Mapping[str, str],
    ) -> None:
        """Connect to nothing yet.

        Args:
            config: Project, entity and mode.
            experiment: Its name, which is the group of its runs.
            directory: Run directory; the client writes in `tracking` below it.
            versions: Of packages that had a part in the numbers.
        """
        self._config = config
        self._mode: Mode = config.mode
        self._experiment = experiment
        self._directory = directory
        self._versions = versions
        self._run: wandb.Run | None = None
        self._folder = directory
        self._is_logged_in = False
        self._sent_shared = False

    def start(self, run: TrackedRun) -> None:
        """Open a run below the directory."""
        assert self._run is None, "the run before was not finished"
        self._folder = run.folder
        wandb.setup(settings=wandb.Settings(silent=True))  # also silences the login
        if self._mode == "online":
            self._run = self._open_online(run)
        if self._run is None:
            self._run = self._open(run)
        write_identity(run.folder, self._identity(self._run))

    def log(self, record: Mapping[str, Value]) -> None:
        """Add a record."""
        assert self._run is not None, "no run was started"
        self._run.log(dict(record))

    def finish(self, summary: Mapping[str, Value]) -> None:
        """Set the run's final numbers, send what is in its folder, and close it."""
        run = self._run
        assert run is not None, "no run was started"
        self._run = None
        complete(run, self._folder, experiment=self._experiment, summary=summary)
        try:
            self._close(run)
            if self._mode == "online":
                send_schedule(self._config, self._experiment, self._folder)
        except SERVICE_FAULTS as fault:
            self._go_offline(fault)

    def conclude(self) -> None:
        """Send how policies compare, if runs are sent now."""
        if self._mode == "offline":
            return
        try:
            self._log_in()
            send_comparison(self._config, self._experiment, self._directory)
        except SERVICE_FAULTS as fault:
            self._go_offline(fault)

    def _open_online(self, run: TrackedRun) -> wandb.Run | None:
        try:
            self._log_in()
            return self._open(run)
        except SERVICE_FAULTS as fault:
            self._go_offline(fault)
        return None

    def _log_in(self) -> None:
        """Once, so that a short fault of the service between two runs changes nothing."""
        if not self._is_logged_in:
            log_in()
        self._is_logged_in = True

    def _open(self, run: TrackedRun) -> wandb.Run:
        return open_run(
            self._config,
            self._labels(run),
            directory=self._directory,
            mode=self._mode,
            run_id=secrets.token_hex(8),  # another one for an arm that was stopped and begins again
        )

    def _labels(self, run: TrackedRun) -> RunLabels:
        return RunLabels(
            name=f"{run.policy}/s{run.seed}",
            group=self._experiment,
            job_type="arm",
            tags=[run.kind],
            # Filters and groupings of a workspace see only the top level.
            config={
                "experiment_name": self._experiment,
                "run_directory": self._directory.resolve().name,
                "policy_name": run.policy,
                "policy_kind": run.kind,
                "seed": run.seed,
                "experiment": dict(run.config),
                "versions": dict(self._versions),
            },
        )

    def _identity(self, run: wandb.Run) -> RunIdentity:
        folder = Path(run.settings.sync_dir).resolve()
        return RunIdentity(
            id=run.id,
            project=self._config.project,
            entity=self._config.entity,
            folder=str(folder.relative_to(self._directory.resolve())),
        )

    def _close(self, run: wandb.Run) -> None:
        """Send what is in the run's folder, if runs are sent now, and close it in any case."""
        try:
            if self._mode == "online":
                self._send_files(run)
        except SERVICE_FAULTS as fault:
            self._go_offline(fault)
        finally:
            run.finish()

    def _send_files(self, run: wandb.Run) -> None:
        if not self._sent_shared:
            with FileLock(self._directory / _LOCK_FILE):
                send_shared(self._config, self._experiment, self._directory)
            self._sent_shared = True
        send_arm_files(run, self._folder, experiment=self._experiment)

    def _go_offline(self, fault: BaseException) -> None:
        if self._mode == "online":
            warn(
                f"W&B is offline from here on: {reason(fault)}. Send the rest later: "
                f"raise-mdit sync {self._directory}"
            )
        self._mode = "offline"


def complete(
    run: wandb.Run, folder: Path, *, experiment: str, summary: Mapping[str, Value]
) -> None:
    """Add to an arm's run what is known at its end: origins, picks by group, final numbers.

    Args:
        run: Open, on disk or online.
        folder: Of the arm.
        experiment: Its name.
        summary: Final numbers.
    """
    result = read_result(folder)
    for key, digest in lineage(folder, experiment).items():
        run.config[key] = digest
    for record in pick_records(result):
        run.log(dict(record))
    run.summary.update({**summary, **_held_out(result)})


def _held_out(result: ArmResult) -> dict[str, float]:
    """Loss on model-selection data, and the interval of that on the test, where they are known."""
    known = {}
    if result.model_selection is not None:
        known[MODEL_SELECTION_LOSS] = result.model_selection.loss
    if result.test is None or len(result.test.target_losses) != 1:
        return known
    by_item = values_by_item([result], "test")
    if by_item:
        interval = student_interval(by_item[result.policy, result.seed].tolist())
        ends = {TEST_LOSS_LOW: interval.low, TEST_LOSS_HIGH: interval.high}
        known |= {name: end for name, end in ends.items() if end is not None}
    return known
