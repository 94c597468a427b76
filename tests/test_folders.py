"""A folder that is no run directory is told for what it is, with what to name instead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from raise_mdit.errors import RunError
from raise_mdit.experiment_file import read_config
from raise_mdit.finished_arm import chosen_arm
from raise_mdit.folders import no_run_directory
from raise_mdit.runs import write_json
from raise_mdit.schedules.bundle import FORMAT, FORMAT_VERSION, MANIFEST_FILE


def runs_in(directory: Path, names: Sequence[str]) -> Path:
    """A folder with run directories, each newer than the one before."""
    for second, name in enumerate(names):
        (directory / name).mkdir(parents=True)
        (directory / name / "config.yaml").write_text("name: small\n")
        os.utime(directory / name / "config.yaml", (second, second))
    return directory


def test_of_a_sweep_its_run_directories_are_named(tmp_path: Path) -> None:
    directory = runs_in(tmp_path / "search", ["sweep-10", "sweep-2", "sweep-1"])

    assert no_run_directory(directory) == (
        f"{directory}: not a run directory (no config.yaml); it is the directory of a sweep, whose "
        f"run directories are {directory}/sweep-1, {directory}/sweep-2, {directory}/sweep-10"
    )


def test_of_a_long_sweep_the_rest_is_counted(tmp_path: Path) -> None:
    directory = runs_in(tmp_path / "search", [f"sweep-{number}" for number in range(1, 9)])

    assert no_run_directory(directory).endswith(f"{directory}/sweep-5 and 3 more")


def test_of_a_folder_of_runs_the_newest_is_named(tmp_path: Path) -> None:
    directory = runs_in(tmp_path / "quickstart", ["20260102-000000", "20260101-000000"])

    assert no_run_directory(directory).endswith(
        f"; did you mean {directory}/20260101-000000, the newest of 2 run directories in it?"
    )


def test_a_bundle_names_the_commands_that_take_it(tmp_path: Path) -> None:
    fields = {"format": FORMAT, "format_version": FORMAT_VERSION}
    write_json(tmp_path / MANIFEST_FILE, fields)
    told = no_run_directory(tmp_path)
    assert "it is a schedule that was exported: raise-mdit verify or raise-mdit replay" in told

    write_json(tmp_path / MANIFEST_FILE, {"format": "some other program's"})
    assert no_run_directory(tmp_path) == f"{tmp_path}: not a run directory (no config.yaml)"


def test_a_policy_names_the_key_that_takes_it(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text("{}")

    assert "a policy that was exported: `from:`" in no_run_directory(tmp_path)


def test_a_file_of_a_run_names_the_run(tmp_path: Path) -> None:
    run = runs_in(tmp_path, ["quickstart"]) / "quickstart"
    (run / "report.html").touch()

    told = no_run_directory(run / "report.html")

    assert told.endswith(
        f"report.html: not a run directory (it is a file, but of {run}: name that)"
    )


def test_a_missing_folder_offers_the_nearest(tmp_path: Path) -> None:
    runs_in(tmp_path, ["quickstart"])

    told = no_run_directory(tmp_path / "quickstrat")

    assert told.endswith("; it does not exist. Did you mean 'quickstart'?")


def test_reading_and_exporting_a_run_say_so(tmp_path: Path) -> None:
    directory = runs_in(tmp_path / "search", ["sweep-1"])

    with pytest.raises(RunError, match="it is the directory of a sweep"):
        read_config(directory)
    with pytest.raises(RunError, match="it is the directory of a sweep"):
        chosen_arm(directory, None, None)
