"""Records of an arm: what reaches the run directory and the tracker, and under which names."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.logger import Logger

from raise_mdit.recording import EpisodeRecorder, Recorder, Sb3Metrics
from raise_mdit.runs import MetricsFile
from raise_mdit.tracking import METRICS, TrackedRun

RUN = TrackedRun(policy="ppo-wide", kind="ppo", seed=3, config={}, folder=Path("arm"))


class Tracked:
    """A tracker that remembers what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    def start(self, run: TrackedRun) -> None:
        self.calls.append(("start", run))

    def log(self, record: Mapping[str, object]) -> None:
        self.calls.append(("log", dict(record)))

    def finish(self, summary: Mapping[str, object]) -> None:
        self.calls.append(("finish", dict(summary)))

    def conclude(self) -> None:
        raise AssertionError("runs are compared by others")


class Told:
    """A listener that remembers the figures it is told."""

    def __init__(self) -> None:
        self.advances: list[tuple[int, dict[str, float]]] = []

    def start(self, stage: str, total: int | None) -> None:
        raise AssertionError("stages are begun by others")

    def advance(self, amount: int = 1, **figures: float) -> None:
        self.advances.append((amount, figures))

    def finish(self) -> None:
        raise AssertionError("stages are ended by others")

    def note(self, sentence: str) -> None:
        raise AssertionError("notes are made by others")


class Desk:
    """A recorder with all that it writes to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.file = MetricsFile(path)
        self.tracker = Tracked()
        self.recorder = Recorder(self.file, self.tracker)

    @property
    def records(self) -> list[dict[str, Any]]:
        lines = self._path.read_text().splitlines()
        return [json.loads(line, parse_constant=_refuse) for line in lines]


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not strict JSON")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A recorder whose arm has begun."""
    made = Desk(tmp_path / "metrics.jsonl")
    made.recorder.start(RUN)
    yield made
    made.file.close()


# --- Records.


def test_records_carry_policy_and_seed(desk: Desk) -> None:
    desk.recorder.log({"tuning/step": 1, "tuning/loss": 2.5})
    desk.recorder.summarise({"test/loss": 1.5})
    desk.recorder.finish()

    assert desk.records == [
        {"policy": "ppo-wide", "seed": 3, "tuning/step": 1, "tuning/loss": 2.5},
        {"policy": "ppo-wide", "seed": 3, "test/loss": 1.5},
    ]


def test_final_numbers_are_on_disk_before_the_tracker_takes_the_files(desk: Desk) -> None:
    desk.recorder.summarise({"test/loss": 1.5})

    assert desk.records == [{"policy": "ppo-wide", "seed": 3, "test/loss": 1.5}]
    assert desk.tracker.calls == [("start", RUN)]


def test_the_next_arm_has_its_own_name(desk: Desk) -> None:
    desk.recorder.start(replace(RUN, policy="random", kind="random", seed=0))
    desk.recorder.log({"tuning/step": 1})

    assert desk.records == [{"policy": "random", "seed": 0, "tuning/step": 1}]


def test_the_tracker_is_told_the_same_in_the_same_order(desk: Desk) -> None:
    desk.recorder.log({"tuning/step": 1})
    desk.recorder.summarise({"test/loss": 1.5})
    desk.recorder.finish()

    assert desk.tracker.calls == [
        ("start", RUN),
        ("log", {"tuning/step": 1}),
        ("finish", {"test/loss": 1.5}),
    ]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_that_is_not_finite_becomes_null(number: float, desk: Desk) -> None:
    desk.recorder.log({"tuning/loss": number})
    desk.recorder.summarise({"test/loss": number})

    assert [record["tuning/loss"] for record in desk.records[:1]] == [None]
    assert [record["test/loss"] for record in desk.records[1:]] == [None]


def test_numbers_of_numpy_are_written_as_plain_ones(desk: Desk) -> None:
    numbers: dict[str, Any] = {"tuning/loss": np.float32(0.5), "tuning/step": np.int64(3)}

    desk.recorder.log(numbers)

    assert desk.records[0]["tuning/loss"] == 0.5
    assert isinstance(desk.records[0]["tuning/step"], int)


# --- What Stable-Baselines3 logs.


def test_known_metrics_pass_under_their_own_names_and_others_do_not(desk: Desk) -> None:
    logger = Logger(folder=None, output_formats=[Sb3Metrics(desk.recorder)])
    logger.record("train/loss", 0.25)
    logger.record("train/approx_kl", np.float32(0.5))
    logger.record("train/std", 1.0)
    logger.record("mine/secret", "text")

    logger.dump(step=64)

    assert desk.records == [
        {
            "policy": "ppo-wide",
            "seed": 3,
            "time/total_timesteps": 64,
            "train/loss": 0.25,
            "train/approx_kl": 0.5,
        }
    ]
    assert set(desk.records[0]) - {"policy", "seed"} <= set(METRICS)


def test_closing_the_loggers_leaves_the_file_open(desk: Desk) -> None:
    Logger(folder=None, output_formats=[Sb3Metrics(desk.recorder)]).close()

    desk.recorder.log({"tuning/step": 1})

    assert len(desk.records) == 1


# --- Learning episodes.


Step = dict[str, float]
"""What a test says of one environment's step; ``ends`` is 1 where the episode does."""

ARM = {"policy": "ppo-wide", "seed": 3}


def play(episodes: EpisodeRecorder, *steps: Step) -> bool:
    """One step of each environment as Stable-Baselines3 tells of it."""
    infos = [{"tokens": 100, "seconds": 0.5, "validation_loss": 2.0, **step} for step in steps]
    ends = np.array([bool(info.pop("ends", 0)) for info in infos])
    rewards = np.full(len(steps), 99.0)  # less what a control variate takes off
    episodes.update_locals({"rewards": rewards, "dones": ends, "infos": infos})
    return episodes.on_step()


def episode_recorder(desk: Desk, told: Told) -> EpisodeRecorder:
    episodes = EpisodeRecorder(desk.recorder, told)
    episodes.model = SimpleNamespace(num_timesteps=0)  # type: ignore[assignment]  # all it asks
    return episodes


def record(episode: int, total: float, steps: int) -> dict[str, Any]:
    return {
        **ARM,
        "rollout/episode": episode,
        "rollout/episode_return": total,
        "rollout/episode_steps": steps,
    }


def test_each_episode_is_recorded_with_the_improvement_itself(desk: Desk) -> None:
    told = Told()
    episodes = episode_recorder(desk, told)

    played = [
        play(episodes, {"gain": 0.5}),
        play(episodes, {"gain": 0.25}),
        play(episodes, {"gain": -0.125, "ends": 1, "validation_loss": 1.75}),
        play(episodes, {"gain": 1.0, "tokens": 300}),
        play(episodes, {"gain": 0.0, "ends": 1, "seconds": 1.5, "validation_loss": 1.5}),
        play(episodes, {"gain": 9.0}),
    ]

    assert all(played)
    assert episodes.returns == [0.625, 1.0]
    assert desk.records == [record(1, 0.625, 3), record(2, 1.0, 2)]
    assert told.advances == [
        (1, {"episode_return": 0.625, "loss": 1.75, "tokens_per_second": 300 / 1.5}),
        (1, {"episode_return": 1.0, "loss": 1.5, "tokens_per_second": 400 / 2.0}),
    ]


def test_environments_that_end_at_different_steps_are_told_apart(desk: Desk) -> None:
    told = Told()
    episodes = episode_recorder(desk, told)

    play(episodes, {"gain": 1.0}, {"gain": 10.0, "tokens": 50}, {"gain": 100.0, "ends": 1})
    play(episodes, {"gain": 2.0}, {"gain": 20.0, "ends": 1}, {"gain": 200.0})
    play(episodes, {"gain": 4.0, "ends": 1}, {"gain": 40.0}, {"gain": 400.0, "ends": 1})

    assert episodes.returns == [100.0, 30.0, 7.0, 600.0]
    expected = [record(1, 100.0, 1), record(2, 30.0, 2), record(3, 7.0, 3), record(4, 600.0, 2)]
    assert desk.records == expected
    speeds = [figures["tokens_per_second"] for _, figures in told.advances]
    assert speeds == [200.0, 150.0, 200.0, 200.0]


def test_episodes_are_counted_on_from_those_before(desk: Desk) -> None:
    episodes = EpisodeRecorder(desk.recorder, Told(), num_before=2)
    episodes.model = SimpleNamespace(num_timesteps=0)  # type: ignore[assignment]  # all it asks

    play(episodes, {"gain": 1.0, "ends": 1})

    assert episodes.returns == [1.0]
    assert desk.records == [record(3, 1.0, 1)]


def test_nothing_is_recorded_before_an_episode_ends(desk: Desk) -> None:
    told = Told()
    episodes = episode_recorder(desk, told)

    play(episodes, {"gain": 0.5})

    assert (episodes.returns, desk.records, told.advances) == ([], [], [])
