"""The quick start, shortened: real model, every kind of candidate, from the file to the export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raise_mdit.core import KINDS
from raise_mdit.learners.pretrained import load_pretrained
from raise_mdit.pool import Pool
from raise_mdit.results import arms_from_json

pytestmark = pytest.mark.model

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"
SHORTER = (
    "seeds=[0]",
    "data.pool.0.rows=160",
    "data.reward_validation.0.rows=12",
    "data.test.0.rows=8",
    "pools={mosaic: {max_instructions: 2}, mdit: {ratio: 0.2, clusters: 3, tasks: cluster}}",
    "environment={window: 48, batch_size: 8, budget: {steps: 4}}",
    "reward={every: 2, items: 8}",
    "policies.ppo={kind: ppo, episodes: 4, episodes_per_update: 2}",
)


def command(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "raise_mdit", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart")
    overrides = [part for override in SHORTER for part in ("--set", override)]
    shown = command("run", str(QUICKSTART), *overrides, "--out", "run", cwd=folder)
    assert "nearest_to_target" in shown
    assert "schedule.jsonl" in shown
    return folder / "run"


def test_training_on_what_is_near_the_target_beats_no_training(finished: Path) -> None:
    arms = arms_from_json(read(finished, "results.json"))
    losses = {arm.policy: arm.test.loss for arm in arms if arm.test is not None}

    assert losses["nearest_to_target"] < losses["base"] - 0.1


def test_candidates_of_every_kind_are_offered(finished: Path) -> None:
    kinds = Pool.read(finished / "pool.parquet").kinds

    assert {KINDS[kind] for kind in kinds} == set(KINDS) - {"custom"}  # which only a user can make


def test_the_return_of_an_episode_is_what_its_validation_losses_say(finished: Path) -> None:
    for arm in arms_from_json(read(finished, "results.json")):
        losses = arm.reward_validation_losses
        gains = [
            json.loads(line)["reward/gain"]
            for line in read(finished, "metrics.jsonl").splitlines()
            if json.loads(line)["policy"] == arm.policy and "reward/gain" in json.loads(line)
        ]
        assert sum(gains) == pytest.approx((losses[0] - losses[-1]) / losses[0], abs=1e-9)


def test_an_exported_schedule_is_chat_data_that_the_tokenizer_takes(
    finished: Path, tmp_path: Path, model_cache: Path
) -> None:
    command("export", str(finished), "--policy", "ppo", "--to", str(tmp_path), cwd=tmp_path)
    tokenizer: Any = load_pretrained("smollm2-135m", cache=model_cache).tokenizer

    rows = [json.loads(line) for line in read(tmp_path, "sft.jsonl").splitlines()]
    manifest = json.loads(read(tmp_path, "manifest.json"))

    assert len(rows) == manifest["num_rows"] == 32
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert manifest["recipe"]["batch_size"] == 8
    for row in rows:
        assert row["messages"][-1]["role"] == "assistant"
        assert tokenizer.apply_chat_template(row["messages"], tokenize=False)


def read(folder: Path, name: str) -> str:
    return (folder / name).read_text("utf-8")
