"""Training again on a bundle: the losses are the run's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.small_experiment import run_small, small_experiment

from raise_mdit.errors import RunError
from raise_mdit.export import export_schedule
from raise_mdit.schedules.bundle import (
    MANIFEST_FILE,
    read_bundle,
    read_manifest,
    schedule_digest,
    seal,
    write_rows,
)
from raise_mdit.schedules.replay import TOLERANCE, Replayed, replay

YAML = small_experiment(
    """
    pools: {mdit: {ratio: 1.0, clusters: 2}}
    learner: {trainable: {kind: full}, learning_rate: 1.0e-2}
    environment: {window: 32, batch_size: 8, budget: {steps: 5}}
    policies: [{kind: base}, {kind: random}]
    """,
    model="{name: {folder}/model, max_length: 48, precision: float32}",
    reward_validation={"left": 4},
    test={"left": 4},
)


@pytest.fixture(scope="module", autouse=True)
def folder(furnish_once: Callable[[str], Path]) -> Path:
    return furnish_once(YAML)


def exported(folder: Path, name: str, *overrides: str) -> Path:
    """The bundle of a run of the random policy."""
    run = run_small(folder, name, *overrides)
    return export_schedule(run, policy="random", seed=None, to=None).directory


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """Of a run that trained every layer, interpolations among its rows."""
    return exported(folder, "whole")


def replayed(bundle: Path, *, accumulation: int = 1) -> Replayed:
    return replay(bundle, cache=bundle / "no cache is made", accumulation=accumulation)


@pytest.fixture(scope="module")
def again(whole: Path) -> Replayed:
    """Trained on it once more."""
    return replayed(whole)


def test_losses_of_a_run_that_trained_every_layer_are_the_same_to_the_bit(
    whole: Path, again: Replayed
) -> None:
    bundle = read_bundle(whole)

    assert {row.kind for row in bundle.rows} == {"original", "mdit"}
    assert again.is_exact
    assert len(again.losses) == 5
    assert len(set(again.losses)) == 5
    assert again.recorded == tuple(step.loss for step in bundle.steps)


@pytest.mark.parametrize(
    "learner",
    [
        "{trainable: {kind: lora, layers: all, rank: 2, dropout: 0.3}, learning_rate: 1.0e-2}",
        "{trainable: {kind: full}, learning_rate: 1.0e-2, schedule: cosine, weight_decay: 0.1, "
        "label_smoothing: 0.1, embedding_noise: 5.0, max_grad_norm: 0.1}",
    ],
    ids=["dropout of adapters", "noise, smoothing, decay and clipping"],
)
def test_all_that_a_learner_draws_is_drawn_again(
    folder: Path, tmp_path: Path, learner: str
) -> None:
    bundle = exported(folder, tmp_path.name, f"learner={learner}")

    assert replayed(bundle).is_exact


def test_outputs_of_frozen_layers_are_kept_in_as_few_bits_as_in_the_run(folder: Path) -> None:
    """Row by row, so that it does not matter which were computed together."""
    learner = "learner={trainable: {kind: top_layers, layers: 2}, learning_rate: 1.0e-2}"
    bundle = exported(folder, "top", learner)

    again, once_more = replayed(bundle), replayed(bundle)

    assert again.losses == once_more.losses
    assert again.is_exact
    again.check()


def test_accumulation_changes_the_last_digits_alone(whole: Path, again: Replayed) -> None:
    halves, rows = (replayed(whole, accumulation=each) for each in (2, 8))

    assert halves.losses != again.losses
    np.testing.assert_allclose(halves.losses, again.losses, rtol=1e-5)
    np.testing.assert_allclose(rows.losses, again.losses, rtol=1e-5)


TWO_RANKS = """
import sys
from pathlib import Path
from raise_mdit.schedules.replay import replay
again = replay(Path(sys.argv[1]), cache=Path(sys.argv[2]), accumulation=2)
import json, os
if os.environ["RANK"] == "0":
    print(json.dumps(again.losses))
"""


def test_two_ranks_change_the_last_digits_alone(
    whole: Path, again: Replayed, tmp_path: Path
) -> None:
    (tmp_path / "ranks.py").write_text(TWO_RANKS)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "ranks.py"), str(whole), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

    losses = json.loads(done.stdout.splitlines()[-1])

    np.testing.assert_allclose(losses, again.losses, rtol=1e-5)


def test_a_loss_that_is_not_the_runs_is_told_with_its_step(again: Replayed) -> None:
    other = again._replace(recorded=(*again.recorded[:3], 0.9 * again.recorded[3], 1.0))

    assert not other.is_exact
    with pytest.raises(RunError, match="step 3 is the first whose loss is not the run's"):
        other.check()


def test_two_steps_exchanged_give_other_losses(whole: Path, tmp_path: Path) -> None:
    """So that equal losses do say that the order was the same."""
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    manifest = read_manifest(other)
    (other / MANIFEST_FILE).unlink()
    exchanged = {0: 1, 1: 0}
    rows = [row._replace(step=exchanged.get(row.step, row.step)) for row in read_bundle(whole).rows]
    rows.sort(key=lambda row: (row.step, row.slot))
    write_rows(other, rows)
    digest = schedule_digest(rows, policy=manifest["policy"], seed=manifest["seed"])
    fields = {key: value for key, value in manifest.items() if key not in ("files", "digest")}
    seal(other, {**fields, "order_digest": digest})

    again = replayed(other)

    assert max(again.differences) > 10 * TOLERANCE
    with pytest.raises(RunError, match="step 0 is the first whose loss is not the run's"):
        again.check()


def test_rows_that_cannot_be_shared_evenly_are_refused(whole: Path) -> None:
    with pytest.raises(RunError, match="--accumulation 3 on 1 ranks: a step has 8 rows"):
        replayed(whole, accumulation=3)


def test_a_bundle_that_is_not_sound_is_not_trained_on(folder: Path, tmp_path: Path) -> None:
    bundle = exported(folder, tmp_path.name)
    (bundle / "README.md").write_text("other")

    with pytest.raises(RunError, match=r"README\.md: altered"):
        replayed(bundle)
