"""What the unmodified client brings to a server of a run that is tracked online."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import wandb
from helpers.tracked_runs import (
    EXPERIMENT,
    POLICIES,
    TrackedOnline,
    due_rows,
    lineage_of,
    play,
    shown_rows,
    track,
    tracker_of,
    write_shared,
)
from helpers.tracked_runs import config as config_of
from helpers.wandb_served import Served, ServedArtifact
from helpers.wandb_server import StandIn
from safetensors.numpy import load_file


def artifact(served: Served, kind: str, name: str) -> ServedArtifact:
    (found,) = (each for each in served.committed(kind) if each.name == name)
    return found


def table(served: Served, run: str, name: str) -> list[dict[str, Any]]:
    """Rows of a table in the summary of a run."""
    (identifier,) = (k for k, v in served.runs.items() if v.fields.get("displayName") == run)
    content = artifact(served, "run_table", f"run-{identifier}-{name}").files[f"{name}.table.json"]
    document = json.loads(content)
    return [dict(zip(document["columns"], row, strict=True)) for row in document["data"]]


# --- Runs.


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_and_seed_is_a_run_of_the_experiments_group(
    online: TrackedOnline, policy: str
) -> None:
    fields = online.served.named(f"{policy}/s0").fields
    found = tuple(fields[key] for key in ("project", "groupName", "jobType", "tags"))
    assert found == ("study", EXPERIMENT, "arm", [policy])
    assert online.served.named(f"{policy}/s0").exit_code == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_every_row_arrives_in_order(online: TrackedOnline, policy: str) -> None:
    rows = online.served.named(f"{policy}/s0").rows
    assert shown_rows(rows) == due_rows(online.directory, policy)
    assert [row["_step"] for row in rows] == [*range(8)]


def test_metrics_have_their_axes(online: TrackedOnline) -> None:
    axes = online.served.named("ppo/s0").axes
    assert axes["tuning/loss"] == axes["picks/*"] == "tuning/step"
    assert axes["rollout/episode_return"] == "rollout/episode"
    assert axes["train/loss"] == "time/total_timesteps"


def test_config_has_flat_mirrors_and_digests_of_all_that_made_the_run(
    online: TrackedOnline,
) -> None:
    config = online.served.named("ppo/s0").config
    files = {
        "pool": online.directory / "pool.parquet",
        "features": online.directory / "features.safetensors",
        "policy": online.directory / "arms" / "ppo-s0" / "policy.safetensors",
        "schedule": online.directory / "arms" / "ppo-s0" / "schedule.jsonl",
    }
    digests = {
        f"{stage}_sha256": hashlib.sha256(file.read_bytes()).hexdigest()
        for stage, file in files.items()
    }
    flat = {
        "experiment_name": EXPERIMENT,
        "run_directory": online.directory.name,
        "policy_name": "ppo",
        "policy_kind": "ppo",
        "seed": 0,
    }
    nested = {"experiment": {"name": EXPERIMENT}, "versions": {"python": "3.11"}}
    assert config == {**flat, **nested, **digests}


def test_summary_has_the_loss_with_its_interval_over_items(online: TrackedOnline) -> None:
    summary = online.served.named("ppo/s0").summary
    # Items of 1, 2 and 1.5 nats: deviation 0.5; Student's t(2) at 97.5% is 4.30265.
    reach = 4.30265 * 0.5 / 3**0.5
    assert summary["test/loss"] == 1.5
    assert summary["test/loss_low"] == pytest.approx(1.5 - reach, abs=1e-4)
    assert summary["test/loss_high"] == pytest.approx(1.5 + reach, abs=1e-4)


def test_the_callers_own_run_is_left_alone(online: TrackedOnline) -> None:
    assert wandb.run is None


def test_the_run_directory_says_which_run_it_is(online: TrackedOnline) -> None:
    identity = json.loads((online.directory / "arms" / "ppo-s0" / "wandb.json").read_text())
    assert online.served.runs[identity["id"]].fields["displayName"] == "ppo/s0"
    assert (online.directory / identity["folder"]).is_dir()


# --- Tables.


def test_picks_have_text_and_both_parents_of_an_interpolation(online: TrackedOnline) -> None:
    rows = table(online.served, "random/s0", "picks")
    assert [(row["step"], row["slot"]) for row in rows] == [
        (t, k) for t in range(3) for k in (0, 1)
    ]
    assert rows[0]["text"] == "user: one\nassistant: ONE"
    assert rows[2]["kind"] == "mdit"
    assert (
        rows[2]["text"] == "25% of\nuser: one\nassistant: ONE\n\n75% of\nuser: two\nassistant: TWO"
    )


def test_picks_of_a_learned_policy_have_its_scores(online: TrackedOnline) -> None:
    rows = table(online.served, "ppo/s0", "picks")
    weights = load_file(online.directory / "arms" / "ppo-s0" / "policy.safetensors")
    # The network adds nothing yet, and features of the second row are those of the first plus 2.
    slope = 2 * float(weights["scorer.linear.weight"][0, :2].sum())
    assert rows[1]["score"] - rows[0]["score"] == pytest.approx(slope, rel=1e-5)
    assert {row["score"] for row in table(online.served, "random/s0", "picks")} == {None}


def test_the_comparison_is_a_run_with_a_table_and_intervals(online: TrackedOnline) -> None:
    served = online.served.named("comparison")
    rows = table(online.served, "comparison", "comparison")
    assert served.fields["jobType"] == "comparison"
    assert [(row["policy"], row["loss"], row["verdict"]) for row in rows] == [
        ("random", 1.5, "reference"),
        ("ppo", 1.5, "one seed"),
    ]
    assert served.summary["policies"]["ppo"]["minus_random"]["mean"] == 0
    costs = table(online.served, "comparison", "costs")
    assert [(row["policy"], row["purpose"], row["tflop"]) for row in costs] == [
        ("random", "final_training", 1.0),
        ("ppo", "final_training", 1.0),
    ]


# --- Artifacts.


@pytest.mark.parametrize(
    ("kind", "name", "folder", "files"),
    [
        ("pool", "pool", ".", {"pool.parquet", "examples.jsonl"}),
        ("features", "features", ".", {"features.safetensors"}),
        ("policy", "ppo-s0-policy", "arms/ppo-s0", {"policy.safetensors", "decisions.safetensors"}),
        (
            "schedule",
            "ppo-s0-schedule",
            "arms/ppo-s0",
            {"schedule.jsonl", "schedule.manifest.json"},
        ),
    ],
)
def test_artifacts_hold_the_files_byte_by_byte(
    online: TrackedOnline, kind: str, name: str, folder: str, files: set[str]
) -> None:
    found = artifact(online.served, kind, f"{EXPERIMENT}-{name}")
    assert found.files == {file: (online.directory / folder / file).read_bytes() for file in files}
    assert found.metadata["sha256"] == {
        file: hashlib.sha256(content).hexdigest() for file, content in found.files.items()
    }


def test_the_service_knows_what_was_made_from_what(online: TrackedOnline) -> None:
    made_by = {
        (each.type, each.name): online.served.runs[each.run].fields["displayName"]
        for each in online.served.artifacts
        if each.type != "run_table"
    }
    used = {
        (online.served.runs[run].fields["displayName"], name.removeprefix(f"{EXPERIMENT}-"))
        for run, name in online.served.uses
    }
    assert made_by == {
        ("pool", f"{EXPERIMENT}-pool"): "pool",
        ("features", f"{EXPERIMENT}-features"): "features",
        ("policy", f"{EXPERIMENT}-ppo-s0-policy"): "ppo/s0",
        ("schedule", f"{EXPERIMENT}-ppo-s0-schedule"): "schedule ppo/s0",
        ("schedule", f"{EXPERIMENT}-random-s0-schedule"): "random/s0",
    }
    assert used == {
        ("features", "pool:v0"),
        *((f"{policy}/s0", f"{stage}:v0") for policy in POLICIES for stage in ("pool", "features")),
        *(("schedule ppo/s0", f"{stage}:v0") for stage in ("pool", "features", "ppo-s0-policy")),
        *(("comparison", f"{policy}-s0-schedule:v0") for policy in POLICIES),
    }


def test_the_policy_lies_between_pool_and_schedule(online: TrackedOnline) -> None:
    assert lineage_of("ppo") <= online.served.lineage()


def test_a_run_that_passes_a_schedule_on_is_of_the_experiments_group(online: TrackedOnline) -> None:
    fields = online.served.named("schedule ppo/s0").fields
    assert (fields["groupName"], fields["jobType"]) == (EXPERIMENT, "schedule")


def test_a_schedule_says_which_policy_it_was_made_by(online: TrackedOnline) -> None:
    schedule = artifact(online.served, "schedule", f"{EXPERIMENT}-ppo-s0-schedule")
    policy = (online.directory / "arms" / "ppo-s0" / "policy.safetensors").read_bytes()
    assert schedule.metadata["made_from_sha256"]["policy"] == hashlib.sha256(policy).hexdigest()


# --- Order.


def test_a_run_is_started_after_the_one_before_is_finished(server: StandIn, tmp_path: Path) -> None:
    experiment = config_of("offline")
    write_shared(tmp_path, experiment)
    tracker = tracker_of(tmp_path, experiment)
    play(tracker, tmp_path, "random")
    with pytest.raises(AssertionError, match="no run was started"):
        tracker.log({"tuning/step": 1})


def test_offline_sends_and_says_nothing(
    server: StandIn,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="raise_mdit"):
        track(tmp_path / "run", "offline", "random")
    assert (server.served.runs, server.served.artifacts) == ({}, [])
    assert capfd.readouterr() == ("", "")
    assert [each for each in caplog.records if each.name.startswith("raise_mdit")] == []
