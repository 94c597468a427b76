"""The run directory: a reader never meets half a file, and two runs never share a folder."""

from __future__ import annotations

import json
import math
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import pytest

from raise_mdit.errors import RunError
from raise_mdit.runs import (
    MetricsFile,
    cache_directory,
    keep_metrics,
    new_run_directory,
    read_json,
    write_bytes,
    write_json,
    write_text,
)

NOW = datetime(2025, 4, 9, 16, 5, 3)
RECORDS = [
    {"policy": "ppo", "seed": 0, "tuning/loss": 2.5},
    {"policy": "ppo", "seed": 1, "tuning/loss": None},
    {"policy": "random", "seed": 0, "tuning/loss": 1.5},
]


def fail(*args: object) -> NoReturn:
    raise OSError("no space left")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- Files.


def test_a_file_is_written_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"

    write_bytes(path, b"old")
    write_bytes(path, b"\x00\xff new")

    assert path.read_bytes() == b"\x00\xff new"
    assert names(tmp_path) == ["file.bin"]


def test_a_file_can_be_read_by_others(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file.bin", b"")

    assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    monkeypatch.setattr(os, call, fail)

    with pytest.raises(OSError, match="no space left"):
        write_text(path, "new")

    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_an_interrupt_leaves_no_scratch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)

    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file.txt", "new")

    assert names(tmp_path) == []


def test_text_is_utf_8_with_line_ends_as_given(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "Grüße\n\r\n")

    assert (tmp_path / "file.txt").read_bytes() == b"Gr\xc3\xbc\xc3\x9fe\n\r\n"


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    value = {"ü": [1, 2.5, None, True], "b": {"c": "\u2028"}}

    write_json(tmp_path / "file.json", value)

    assert read_json(tmp_path / "file.json") == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_that_is_not_strict_is_refused_before_writing(number: float, tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"loss": 1.0})

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"loss": number})

    assert read_json(tmp_path / "file.json") == {"loss": 1.0}
    assert names(tmp_path) == ["file.json"]


def test_a_missing_json_file_asks_whether_the_folder_is_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"file\.json: no such file; is .* a run directory\?"):
        read_json(tmp_path / "file.json")


@pytest.mark.parametrize("content", [b'{"a": ', b"", b"\xff"], ids=["half", "empty", "not UTF-8"])
def test_a_damaged_json_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(content)

    with pytest.raises(RunError, match=r"file\.json: not readable as JSON"):
        read_json(tmp_path / "file.json")


# --- Folders.


def test_a_run_directory_is_named_by_experiment_and_time(tmp_path: Path) -> None:
    directory = new_run_directory(tmp_path / "runs", "quick", now=NOW)

    assert directory == tmp_path / "runs" / "quick" / "20250409-160503"
    assert directory.is_dir()


def test_runs_of_the_same_second_are_numbered(tmp_path: Path) -> None:
    found = [new_run_directory(tmp_path, "quick", now=NOW).name for _ in range(3)]

    assert found == ["20250409-160503", "20250409-160503-2", "20250409-160503-3"]


def test_runs_that_start_together_get_directories_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        found = list(
            threads.map(lambda _: new_run_directory(tmp_path, "quick", now=NOW), range(64))
        )

    assert len(set(found)) == 64
    assert all(directory.is_dir() for directory in found)


def test_a_second_has_no_room_for_a_thousand_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(self: Path, **options: bool) -> None:
        if "exist_ok" not in options:
            raise FileExistsError

    monkeypatch.setattr(Path, "mkdir", taken)

    with pytest.raises(RunError, match="quick: a thousand runs were started in one second"):
        new_run_directory(tmp_path, "quick", now=NOW)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("RAISE_MDIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == Path("/home/someone/.cache/raise-mdit")

    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_directory() == Path("/var/cache/raise-mdit")

    monkeypatch.setenv("RAISE_MDIT_CACHE", "/fast/cache")
    assert cache_directory() == Path("/fast/cache")


def test_an_empty_variable_does_not_move_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("RAISE_MDIT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")

    assert cache_directory() == Path("/home/someone/.cache/raise-mdit")


# --- Metrics.


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """A file of metrics with all records."""
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for record in RECORDS:
        file.write(record)
    file.close()
    return tmp_path / "metrics.jsonl"


def records(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")

    file.write(RECORDS[0])

    assert records(tmp_path / "metrics.jsonl") == RECORDS[:1]
    file.close()


def test_metrics_of_a_resumed_run_follow_those_before(metrics: Path) -> None:
    file = MetricsFile(metrics)
    file.write(RECORDS[0])
    file.close()

    assert records(metrics) == [*RECORDS, RECORDS[0]]


def test_only_records_of_the_given_arms_are_kept(metrics: Path) -> None:
    keep_metrics(metrics, {("ppo", 1), ("random", 0)})

    assert records(metrics) == RECORDS[1:]


def test_a_torn_last_line_is_not_kept(metrics: Path) -> None:
    whole = metrics.read_bytes()
    with metrics.open("a") as stream:
        stream.write(json.dumps(RECORDS[0])[:-2])

    keep_metrics(metrics, {("ppo", 0), ("ppo", 1), ("random", 0)})

    assert metrics.read_bytes() == whole


@pytest.mark.parametrize("length", range(1, 45, 4))
def test_records_after_a_torn_line_stand_on_lines_of_their_own(metrics: Path, length: int) -> None:
    with metrics.open("a") as stream:
        stream.write(json.dumps(RECORDS[0])[:length])

    keep_metrics(metrics, {("random", 0)})
    file = MetricsFile(metrics)
    file.write(RECORDS[0])
    file.close()

    assert records(metrics) == [RECORDS[2], RECORDS[0]]


def test_metrics_that_were_never_written_stay_away(tmp_path: Path) -> None:
    keep_metrics(tmp_path / "metrics.jsonl", {("ppo", 0)})

    assert names(tmp_path) == []
