"""The command as a person uses it: what it prints, and how it ends."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest

from raise_mdit import __version__, cli, experiment

EXPERIMENTS = Path(__file__).parents[1] / "experiments"

MINIMAL = """
name: minimal
data:
  sources: [{name: toy, kind: playground}]
  pool: [{source: toy, rows: 40}]
  reward_validation: [{source: toy, rows: 4}]
  test: [{source: toy, rows: 4}]
environment: {window: 8, batch_size: 2, budget: {steps: 2}}
policies: [{kind: base}, {kind: random}]
"""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of ``raise-mdit`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["raise-mdit", *arguments])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def minimal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "minimal.yaml"
    file.write_text(MINIMAL)
    return file


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_that_ships_is_sound(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "check", str(file)) == 0
    assert "sound" in capsys.readouterr().out


def test_check_counts_the_work(
    minimal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "check", str(minimal), "--set", "seeds=[3, 4]") == 0
    assert "2 policies x 2 seeds = 4 fine-tunings" in capsys.readouterr().out


def test_faults_are_listed_without_a_traceback(
    minimal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    minimal.write_text(MINIMAL.replace("window", "windw").replace("name: minimal", "name: [1]"))

    assert call(monkeypatch, "run", str(minimal)) == 2

    shown = capsys.readouterr().err
    assert "minimal.yaml:2:" in shown
    assert "Did you mean 'window'?" in shown
    assert "Traceback" not in shown
    assert not (minimal.parent / "runs").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["export", "--help"]])
def test_help_teaches(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *arguments) == 0
    assert "Usage" in capsys.readouterr().out


def test_the_version_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"raise-mdit {__version__}\n"


@pytest.mark.parametrize("arguments", [["frobnicate"], ["run"], ["run", "a.yaml", "--outt", "x"]])
def test_a_wrong_command_line_is_the_users_mistake(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *arguments) == 2
    shown = capsys.readouterr().err
    assert "Usage" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "Stopped"),
        (OSError(errno.ENOSPC, "No space left", "x.json"), 2, "the disk is full (x.json)"),
    ],
    ids=["Ctrl-C", "disk full"],
)
def test_an_outside_end_says_where_the_finished_part_is(
    fault: BaseException,
    code: int,
    words: str,
    minimal: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(_config: Any, directory: Path, _progress: Any) -> None:
        directory.mkdir()
        (directory / "results.json").touch()
        raise fault

    monkeypatch.setattr(experiment, "run", failing)

    assert call(monkeypatch, "run", str(minimal), "--out", "here") == code

    shown = capsys.readouterr().err
    assert words in shown
    assert "Finished arms are in here; resume with --out" in shown


def test_our_own_fault_is_not_hidden(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(experiment, "run", failing)

    with pytest.raises(ZeroDivisionError):
        call(monkeypatch, "run", str(minimal), "--out", "here")


@pytest.mark.parametrize("command", ["report", "export"])
def test_a_folder_that_is_no_run_is_the_users_mistake(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, command, str(tmp_path)) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_model_that_is_not_there_is_the_users_mistake(
    minimal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", str(minimal), "--set", "model.name=nobody/nothing") == 2
    shown = capsys.readouterr().err
    assert "model.name: 'nobody/nothing' could not be loaded" in shown
    assert "Traceback" not in shown
