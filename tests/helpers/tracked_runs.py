"""Run directories as an experiment leaves them, written by hand in a moment."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from helpers.wandb_served import Served
from numpy.typing import NDArray
from safetensors.torch import save_file

from raise_mdit.agents.scoring_policy import CandidateScorer
from raise_mdit.candidates import Candidate, Mdit, Original, Recipe, make_example
from raise_mdit.comparison import summarise
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost, Message
from raise_mdit.decisions import (
    DECISIONS_FILE,
    FEATURES_FILE,
    POLICY_FILE,
    Decisions,
    write_decisions,
    write_features,
)
from raise_mdit.example_texts import EXAMPLES_FILE, write_examples
from raise_mdit.experiment_file import resolved_yaml
from raise_mdit.features import FeatureTable
from raise_mdit.pool import Pool
from raise_mdit.recording import Recorder
from raise_mdit.results import ArmResult, HeldOut, to_json
from raise_mdit.runs import MetricsFile, write_text
from raise_mdit.schedule import Pick, write_schedule
from raise_mdit.tracking import TrackedRun, Tracker
from raise_mdit.wandb_mirror.run_tracker import WandbTracker

EXPERIMENT = "which-policy"
PROJECT = "study"
STEPS, BATCH, WINDOW = 3, 2, 4
NUM_ROWS = 2 + STEPS + STEPS
"""Of an arm in W&B: two episodes, steps, and the picks of steps."""

DEAD_SERVER = "http://127.0.0.1:9"
"""At which nothing listens."""
POLICIES = ("random", "ppo")
"""Of a whole run; the second has weights."""

EXAMPLES = tuple(
    make_example("toy", [Message("user", word), Message("assistant", word.upper())])
    for word in ("one", "two", "three")
)


class TrackedOnline(NamedTuple):
    """A run that was tracked as it went; whoever changes it works on a copy."""

    directory: Path
    served: Served
    """What the server had of it at its end."""


def config(mode: Literal["offline", "online"]) -> ExperimentConfig:
    """An experiment that is never run."""
    share = [{"source": "toy", "rows": STEPS * BATCH}]
    return ExperimentConfig.model_validate(
        {
            "name": EXPERIMENT,
            "seeds": (0,),
            "data": {
                "sources": ({"name": "toy", "kind": "playground"},),
                "pool": tuple(share),
                "reward_validation": tuple(share),
                "test": tuple(share),
            },
            "environment": {"window": WINDOW, "batch_size": BATCH, "budget": {"steps": STEPS}},
            "policies": (
                {"kind": "base"},
                {"kind": "random"},
                {"kind": "ppo", "episodes": 2, "episodes_per_update": 2},
            ),
            "tracking": {"wandb": {"mode": mode, "project": PROJECT}},
        }
    )


def write_shared(directory: Path, experiment: ExperimentConfig) -> None:
    """Everything that comes before the first arm."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "config.yaml", resolved_yaml(experiment))
    one, two, three = (example.id for example in EXAMPLES)
    recipes: list[Recipe] = [Original(one), Original(two), Original(three), Mdit(one, two, 0.25)]
    Pool.of([Candidate(recipe, "toy", 4, 2) for recipe in recipes]).write(
        directory / "pool.parquet"
    )
    write_examples(directory / EXAMPLES_FILE, EXAMPLES)
    values = np.arange(len(recipes) * 2, dtype=np.float32).reshape(len(recipes), 2)
    strata = np.zeros(len(recipes), np.int64)
    write_features(directory / FEATURES_FILE, FeatureTable(("length", "is_mdit"), values, strata))


def play(tracker: Tracker, directory: Path, policy: str, seed: int = 0) -> ArmResult:
    """One arm from start to end, with records as training makes them."""
    folder = directory / "arms" / f"{policy}-s{seed}"
    folder.mkdir(parents=True)
    with closing(MetricsFile(directory / "metrics.jsonl")) as metrics:
        return _record(Recorder(metrics, tracker), folder, policy, seed)


def _record(recorder: Recorder, folder: Path, policy: str, seed: int) -> ArmResult:
    recorder.start(
        TrackedRun(
            policy=policy, kind=policy, seed=seed, config={"name": EXPERIMENT}, folder=folder
        )
    )
    for episode in (1, 2):
        recorder.log({"rollout/episode": episode, "rollout/episode_return": 0.5 / episode})
    for step in range(1, STEPS + 1):
        recorder.log({"tuning/step": step, "tuning/loss": 2.0 / step, "reward/gain": float("nan")})
    recorder.summarise({"test/loss": 1.5, "cost/tokens": 100})
    result = write_arm(folder, policy, seed)
    recorder.finish()
    return result


def write_arm(folder: Path, policy: str, seed: int) -> ArmResult:
    """The files of a finished arm; ppo has weights and decisions."""
    ids = Pool.read(folder.parents[1] / "pool.parquet").ids[:]
    slots_Tk = np.array([[0, 1], [3, 0], [2, 3]], np.int32)
    picks = [
        Pick(policy, seed, step, slot, ids[row], "mdit" if row == 3 else "original", "toy", None)
        for step, rows in enumerate(slots_Tk)
        for slot, row in enumerate(rows)
    ]
    write_schedule(folder, picks, {"batch_size": BATCH})
    if policy == "ppo":
        _write_policy(folder, slots_Tk)
    result = ArmResult(
        policy=policy,
        kind=policy,
        seed=seed,
        status="complete",
        test=HeldOut(
            loss=1.5,
            target_losses={"toy": 1.5},
            item_losses=(1.0, 2.0, 1.5),
            item_tokens=(2, 2, 2),
            item_targets=(0, 0, 0),
        ),
        reward_validation_losses=(2.0, 1.9, 1.8, 1.7),
        episode_returns=(0.5, 0.25) if policy == "ppo" else (),
        steps=STEPS,
        tokens=30,
        picks=({"toy": 2}, {"mdit": 1, "toy": 1}, {"mdit": 1, "toy": 1}),
        costs={"final_training": Cost(10, 12, 1e12, 2.0)},
    )
    write_text(folder / "result.json", to_json([result], []))
    return result


def conclude(directory: Path, results: Sequence[ArmResult]) -> None:
    """What belongs to the run as a whole."""
    write_text(directory / "results.json", to_json(results, summarise(results)))


def tracker_of(directory: Path, experiment: ExperimentConfig) -> WandbTracker:
    """The tracker of a run directory, as an experiment makes it."""
    assert experiment.tracking.wandb is not None
    return WandbTracker(
        experiment.tracking.wandb,
        experiment=experiment.name,
        directory=directory,
        versions={"python": "3.11"},
    )


def track(directory: Path, mode: Literal["offline", "online"], *policies: str) -> None:
    """A whole run of some policies, tracked."""
    experiment = config(mode)
    write_shared(directory, experiment)
    tracker = tracker_of(directory, experiment)
    conclude(directory, [play(tracker, directory, policy) for policy in policies])
    tracker.conclude()


def lineage_of(policy: str) -> set[tuple[str, str]]:
    """The chain that W&B should draw from the pool to the schedule of a policy with weights."""
    arm, name = f"{policy}/s0", f"{EXPERIMENT}-{policy}-s0"
    chain = (
        *("pool", f"{EXPERIMENT}-pool"),
        *("features", f"{EXPERIMENT}-features"),
        *(arm, f"{name}-policy"),
        *(f"schedule {arm}", f"{name}-schedule"),
        "comparison",
    )
    return {*pairwise(chain)}


def due_rows(directory: Path, policy: str) -> list[dict[str, float]]:
    """Rows that W&B should show of an arm, by what the run directory says."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    rows = [each for each in records if each["policy"] == policy and "test/loss" not in each]
    picks: list[dict[str, float]] = [
        {"tuning/step": 1, "picks/toy": 2},
        {"tuning/step": 2, "picks/mdit": 1, "picks/toy": 1},
        {"tuning/step": 3, "picks/mdit": 1, "picks/toy": 1},
    ]
    finite = [
        {k: v for k, v in row.items() if k not in ("policy", "seed") and v is not None}
        for row in rows
    ]
    return finite + picks


def shown_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Rows of the server without what the client adds, and without what is not finite."""
    return [
        {k: v for k, v in row.items() if not k.startswith("_") and math.isfinite(v)} for row in rows
    ]


def _write_policy(folder: Path, slots_Tk: NDArray[np.int32]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scorer = CandidateScorer(3, 1, 4)
        torch.nn.init.normal_(scorer.linear.weight)
    save_file(
        {f"scorer.{name}": value for name, value in scorer.state_dict().items()},
        folder / POLICY_FILE,
    )
    windows_TW = np.tile(np.arange(WINDOW, dtype=np.int32), (STEPS, 1))
    write_decisions(
        folder / DECISIONS_FILE,
        Decisions(
            windows=windows_TW,
            selected=np.zeros((STEPS, WINDOW), np.float32),
            context=np.zeros((STEPS, 1), np.float32),
            extra=np.zeros((STEPS, WINDOW, 0), np.float32),
            extra_names=(),
            picks=slots_Tk,
        ),
    )
