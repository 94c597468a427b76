"""Arms side by side: what one process gives, several give; when one fails, all end.

Oracle: the same run by one process, to the last bit, for each computes with one thread.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.metric_records import timeless_records
from helpers.small_experiment import small_experiment

from raise_mdit import experiment
from raise_mdit.errors import RunError
from raise_mdit.experiment_file import load_experiment
from raise_mdit.openings import read_openings
from raise_mdit.progress import Silent
from raise_mdit.results import ArmResult, arms_from_json
from raise_mdit.schedule import read_schedule

pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

YAML = small_experiment(
    """
    pools: {mosaic: {max_instructions: 3}}
    features: {semantic_size: 4, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 2}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 4, budget: {steps: 3}}
    reward: {items: 4}
    policies:
      - {kind: base}
      - {kind: random}
      - {kind: best_of, rankings: [{kind: longest}, {kind: shortest}]}
      - {kind: ppo, episodes: 2, episodes_per_update: 2}
    """,
    seeds=(0, 1),
    reward_validation={"left": 6},
    test={"left": 8},
)
OWN = "policies=[{kind: base}, {kind: random}, {kind: 'own:%s', name: own}]"
OWN_POLICIES = """
import os
import signal
import time


class Own:
    def __init__(self, *, num_picks, rng):
        pass

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.act()


class Killed(Own):
    def act(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Gone(Own):
    def act(self):
        os._exit(3)


class Broken(Own):
    def act(self):
        raise ValueError("broken")


class Endless(Own):
    def act(self):
        time.sleep(600)


class Slow(Own):
    def act(self):
        parent = os.getppid()
        while os.getppid() == parent:
            time.sleep(0.0001)
        raise ValueError("nobody to tell")
"""


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[tuple[str, int | None]] = []
        self.advanced = 0

    def start(self, stage: str, total: int | None) -> None:
        self.stages.append((stage, total))
        self.advanced = 0

    def advance(self, amount: int = 1, **figures: float) -> None:
        self.advanced += amount

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.fixture(scope="module")
def folder(furnish_once: Callable[[str], Path]) -> Iterator[Path]:
    """What the experiment needs, where it is run."""
    made = furnish_once(YAML)
    (made / "own.py").write_text(OWN_POLICIES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        yield made
    torch.set_num_threads(threads)


def run(folder: Path, out: str, *overrides: str, jobs: int) -> Listener:
    listener = Listener()
    config = load_experiment(folder / "small.yaml", overrides)
    experiment.run(config, folder / out, listener, jobs=jobs)
    return listener


@pytest.fixture(scope="module")
def alone(folder: Path) -> Listener:
    """Of a run by one process."""
    return run(folder, "alone", jobs=1)


@pytest.fixture(scope="module")
def side_by_side(folder: Path, alone: Listener) -> Listener:
    """Of a run by two."""
    return run(folder, "pair", jobs=2)


def arms_of(directory: Path) -> list[ArmResult]:
    return list(arms_from_json((directory / "results.json").read_text()))


def without_seconds(arm: ArmResult) -> ArmResult:
    costs = {purpose: cost._replace(seconds=0.0) for purpose, cost in arm.costs.items()}
    return replace(arm, costs=costs)


def metrics_of(directory: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Records by arm, without what measures time."""
    by_arm: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in timeless_records(directory):
        by_arm.setdefault((record["policy"], record["seed"]), []).append(record)
    return by_arm


def test_several_processes_give_what_one_gives(folder: Path, side_by_side: Listener) -> None:
    one, two = folder / "alone", folder / "pair"

    assert len(arms_of(one)) == 8
    assert [*map(without_seconds, arms_of(two))] == [*map(without_seconds, arms_of(one))]
    assert read_schedule(two) == read_schedule(one)
    assert metrics_of(two) == metrics_of(one)


def test_the_test_is_noted_as_opened_once_by_each_arm(folder: Path, side_by_side: Listener) -> None:
    openings = [(each.policy, each.seed) for each in read_openings(folder / "pair")]

    assert sorted(openings) == sorted((arm.policy, arm.seed) for arm in arms_of(folder / "pair"))


def test_what_arms_note_is_told_and_arms_are_counted(
    alone: Listener, side_by_side: Listener
) -> None:
    def heads(listener: Listener) -> list[str]:
        return sorted(note.split(": ", 1)[-1].split(",")[0] for note in listener.notes)

    assert heads(side_by_side) == heads(alone)
    assert [note.split(" arms")[0] for note in side_by_side.notes if " of 8 arms" in note] == [
        f"{number} of 8" for number in range(1, 9)
    ]
    assert side_by_side.stages[-1] == ("arms, 2 at a time", 8)
    assert side_by_side.advanced == 8


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "Killed",
            RunError,
            r"^own s0: its process was killed \(SIGKILL\), as happens when memory",
        ),
        ("Gone", RuntimeError, "^own s0: its process ended with code 3; what it printed says why"),
        ("Broken", RunError, "^policies.own: `predict` raised ValueError: broken"),
    ],
)
def test_a_process_that_cannot_go_on_ends_the_run_which_keeps_what_has_finished(
    folder: Path, side_by_side: Listener, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(folder, name, OWN % name, "seeds=[0]", jobs=2)

    assert {arm.policy for arm in arms_of(folder / name)} <= {"base", "random"}


def test_a_process_that_cannot_be_started_ends_those_that_were(
    folder: Path, side_by_side: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SpawnProcess.start
    started: list[SpawnProcess] = []

    def start_one(process: SpawnProcess) -> None:
        if started:
            raise BlockingIOError(errno.EAGAIN, "no more processes")
        started.append(process)
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", start_one)
    with pytest.raises(BlockingIOError, match="no more processes"):
        run(folder, "too many", jobs=2)

    assert [process.exitcode for process in started] == [-signal.SIGTERM]


@pytest.fixture
def heeding_interrupts() -> Iterator[None]:
    """Programs that are started heed SIGINT, though who runs the tests, a shell's job, may not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_interrupts")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("own", ["Endless", "Slow"])
def test_no_process_outlives_the_one_that_started_it(
    folder: Path, side_by_side: Listener, own: str, ending: signal.Signals
) -> None:
    """Neither one that is at work, nor one that is about to tell of it."""
    out = folder / f"{own} ended by {ending.name}"
    command = [sys.executable, "-m", "raise_mdit", "run", "small.yaml", "--jobs", "2"]
    options = ["--out", str(out), "--set", OWN % own, "--set", "seeds=[0]"]
    with subprocess.Popen(
        [*command, *options], start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            wait_until(lambda: (out / "arms" / "own-s0").is_dir() or started.poll() is not None)
            started.send_signal(ending)
            _, shown = started.communicate(timeout=60)
            wait_until(lambda: not in_group(started.pid))
        except BaseException:
            os.killpg(started.pid, signal.SIGKILL)
            raise

    assert started.returncode == (130 if ending == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in shown


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, "waited for two minutes"
        time.sleep(0.1)


def in_group(group: int) -> bool:
    """Whether any process of a group is alive."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
