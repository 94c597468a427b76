"""Arms side by side, each in a process of its own.

The steps of an arm are small: several processes that share the cores get more done than one that
has them all. They are spawned, prepare the experiment for themselves from what the first
preparation left in the cache, and are told which arm to run next.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NoReturn

import torch

from raise_mdit.arm_running import Findings, prepare_arms, run_arms, tracker_of
from raise_mdit.arms import Arm
from raise_mdit.errors import RunError, UserError
from raise_mdit.experiment_file import read_config
from raise_mdit.progress import Progress, Silent
from raise_mdit.run_directory import read_arm
from raise_mdit.runs import arm_folder

NOTICED_WITHIN = 10.0
"""Seconds in which a process that was killed is known to be gone by those that it started."""

ArmKey = tuple[str, int]
"""Label of a policy, and seed."""


def run_side_by_side(
    arms: Sequence[ArmKey], directory: Path, *, jobs: int, findings: Findings, progress: Progress
) -> Iterator[Arm]:
    """Run arms in several processes, which share the cores evenly.

    Args:
        arms: Which, in the order in which they begin.
        directory: Of the run, with its `config.yaml`.
        jobs: How many processes.
        findings: Of the preparation.
        progress: Told what arms note.

    Yields:
        Each arm when it is written, in no order.

    Raises:
        UserError: Of an arm. It ends the others, too.
        RunError: A process was killed, as one is when memory runs out.
        RuntimeError: Any other fault of a process, which has printed its traceback.
    """
    waiting = deque(arms)
    jobs = min(jobs, len(arms))
    threads = max(1, torch.get_num_threads() // jobs)
    workers: list[_Worker] = []
    progress.start(f"arms, {jobs} at a time", len(arms))
    try:
        # Each is listed when it has started, and is ended should the next one not start.
        workers.extend(_Worker(directory, threads, findings) for _ in range(jobs))
        for worker in workers:
            worker.begin(waiting)
        while busy := [worker for worker in workers if worker.arm is not None]:
            wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection.poll() and (done := worker.heed(progress)) is not None:
                    worker.begin(waiting)
                    progress.advance()
                    yield read_arm(arm_folder(directory, *done))
        for worker in workers:
            worker.process.join()  # what it still has to send is sent
        progress.finish()
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


@dataclass(frozen=True, slots=True)
class _Note:
    """A process has something worth knowing."""

    sentence: str


@dataclass(frozen=True, slots=True)
class _Refused:
    """An arm cannot go on, for a reason that the user can mend."""

    message: str


@dataclass(frozen=True, slots=True)
class _Written:
    """An arm is finished."""


class _Worker:
    """A process, as seen by the one that started it."""

    def __init__(self, directory: Path, threads: int, findings: Findings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, far_end = context.Pipe()
        self.process = context.Process(
            target=_work, args=(far_end, directory, threads, findings), daemon=True
        )
        self.process.start()
        far_end.close()  # else nobody here would notice that the process has ended
        self.arm: ArmKey | None = None

    def begin(self, waiting: deque[ArmKey]) -> None:
        """Take the next arm that waits; without one the process ends."""
        self.arm = waiting.popleft() if waiting else None
        self.connection.send(self.arm)

    def heed(self, progress: Progress) -> ArmKey | None:
        """Receive a message; the arm, where it says that this is written."""
        assert self.arm is not None, "an arm was begun"
        try:
            message: _Note | _Refused | _Written = self.connection.recv()
        except (EOFError, ConnectionResetError):  # the latter where it left a message unread
            self._explain_end(self.arm)
        if isinstance(message, _Refused):
            raise RunError(message.message)
        if isinstance(message, _Note):
            progress.note(message.sentence)
            return None
        return self.arm

    def _explain_end(self, arm: ArmKey) -> NoReturn:
        self.process.join()
        policy, seed = arm
        code = self.process.exitcode
        assert code is not None, "it has ended"
        if code < 0:
            raise RunError(
                f"{policy} s{seed}: its process was killed ({signal.Signals(-code).name}), as "
                "happens when memory runs out; fewer --jobs need less"
            ) from None
        raise RuntimeError(
            f"{policy} s{seed}: its process ended with code {code}; what it printed says why"
        ) from None


class _Notes(Silent):
    """Sends what an arm notes; bars of several processes would not fit on one terminal."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def note(self, sentence: str) -> None:
        """Send it."""
        self._connection.send(_Note(sentence))


def _work(connection: Connection, directory: Path, threads: int, findings: Findings) -> None:
    """What a process does: run the arms that it is told to, one after another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started it, who ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        _run_told(connection, directory, findings)
    except (EOFError, ConnectionError):
        _end_with_parent(within=NOTICED_WITHIN)  # there may be nobody left to talk to
        raise


def _run_told(connection: Connection, directory: Path, findings: Findings) -> None:
    config = read_config(directory)
    try:
        preparation = prepare_arms(config, progress=Silent(), findings=findings)
        for _ in run_arms(
            preparation,
            _told(connection),
            directory,
            tracker=tracker_of(config, directory),
            progress=_Notes(connection),
        ):
            connection.send(_Written())
    except UserError as error:
        connection.send(_Refused(str(error)))


def _told(connection: Connection) -> Iterator[ArmKey]:
    """Arms as they are told, until there are no more."""
    while (key := connection.recv()) is not None:
        yield key


def _end_with_parent(within: float | None = None) -> None:
    """Leave nothing behind that would still write where another process may go on.

    Args:
        within: Seconds after which it returns, if the parent is alive then; None to wait on.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a spawned process"
    parent.join(within)
    if not parent.is_alive():
        os._exit(1)
