"""The command as a person uses it: what it prints, and how it ends."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raise_mdit import __version__, cli, experiment, run_directory
from raise_mdit.experiment import Outcome
from raise_mdit.experiment_file import load_experiment, resolved_yaml
from raise_mdit.runs import arm_folder

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
    assert "2 policies x 2 seeds = 4 arms" in capsys.readouterr().out


def test_check_reads_the_users_wording_and_loads_the_users_sources(
    minimal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (minimal.parent / "words.yaml").write_text("tags: 3\n")
    (minimal.parent / "of_mine.py").write_text("class Mine:\n    def make(self): ...\n")
    custom = '{kind: "of_mine:Mine", name: good}, {kind: "of_mine:Nine", name: bad}'
    pools = f"pools={{mosaic: {{wording: words.yaml}}, custom: [{custom}]}}"

    assert call(monkeypatch, "check", str(minimal), "--set", pools) == 2

    shown = capsys.readouterr().err
    assert "words.yaml: " in shown
    assert "line 1: tags: should be a list, got 3" in shown
    assert "pools.custom.bad.kind: module 'of_mine' has no class 'Nine'" in shown
    assert "custom.good" not in shown
    pools = 'pools={mosaic: {}, custom: [{kind: "of_mine:Mine", name: good}]}'
    assert call(monkeypatch, "check", str(minimal), "--set", pools) == 0


def test_a_kind_that_the_file_does_not_make_is_refused_before_the_build(
    minimal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--set", "model.name=nobody/nothing", "--show", "1", "--kind", "mosaic")

    assert call(monkeypatch, "pool", str(minimal), *arguments) == 2

    shown = capsys.readouterr().err
    assert "--kind: `pools` makes no mosaic candidates, only original; add `pools.mosaic`" in shown
    assert "nobody/nothing" not in shown


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


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["pool", "--help"], ["export", "--help"]]
)
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
        (OSError(errno.EACCES, "Denied", "x.json"), 2, "cannot be written (x.json): Denied"),
    ],
    ids=["Ctrl-C", "disk full", "no permission"],
)
def test_an_outside_end_says_where_the_finished_part_is(
    fault: BaseException,
    code: int,
    words: str,
    minimal: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(_config: Any, directory: Path, _progress: Any, **_options: Any) -> None:
        directory.mkdir()
        (directory / "results.json").touch()
        raise fault

    monkeypatch.setattr(experiment, "run", failing)

    assert call(monkeypatch, "run", str(minimal), "--out", "here") == code

    shown = capsys.readouterr().err
    assert words in shown
    assert "Finished arms are in here; resume with raise-mdit run here" in shown


@pytest.mark.parametrize("finished", [1, 2])
def test_a_run_that_has_all_says_that_nothing_is_run(
    finished: int,
    minimal: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two policies with one seed."""
    monkeypatch.setattr(
        experiment, "run", lambda _config, directory, *_, **__: Outcome(directory, ())
    )
    for label in ("base", "random")[:finished]:
        folder = arm_folder(Path("here"), label, 0)
        folder.mkdir(parents=True)
        (folder / "result.json").touch()
    monkeypatch.setattr(run_directory, "check_place", lambda *_: None)

    assert call(monkeypatch, "run", str(minimal), "--out", "here", "--set", "seeds=[0]") == 0

    assert ("nothing is run" in capsys.readouterr().err) == (finished == 2)


def test_some_policies_of_a_file_are_run_alone(
    minimal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(config: Any, directory: Path, *_: Any, **__: Any) -> Outcome:
        ran.append([policy.label for policy in config.policies])
        return Outcome(directory, ())

    monkeypatch.setattr(experiment, "run", run)
    more = "policies=[{kind: base}, {kind: random}, {kind: longest}, {kind: shortest}]"

    assert call(monkeypatch, "run", str(minimal), "--set", more, "--only", "shortest") == 0
    assert ran == [["base", "random", "shortest"]]
    assert call(monkeypatch, "run", str(minimal), "--set", more, "--only", "longst") == 2
    assert "Did you mean 'longest'?" in capsys.readouterr().err


def test_our_own_fault_is_not_hidden(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_args: Any, **_options: Any) -> None:
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


def test_a_place_that_cannot_be_run_in_is_refused_before_it_is_named(
    minimal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (minimal.parent / "file").touch()
    (minimal.parent / "full").mkdir()
    (minimal.parent / "full" / "thesis.tex").touch()
    (minimal.parent / "run").mkdir()
    other = resolved_yaml(load_experiment(minimal, ["name=other"]))
    (minimal.parent / "run" / "config.yaml").write_text(other)
    (minimal.parent / "run" / "preparation.json").write_text("{}")
    for place, words in (
        ("file", "file: cannot be made a run directory"),
        ("full", "full: not empty and not a run directory"),
        ("run", "run: holds a run of another experiment, so it cannot go on with this one: name d"),
    ):
        assert call(monkeypatch, "run", str(minimal), "--out", place) == 2
        shown = capsys.readouterr().err
        assert shown.startswith(words)
        assert "Run directory" not in shown
    assert (minimal.parent / "run" / "config.yaml").read_text() == other


def test_faults_of_the_users_own_parts_are_found_before_a_directory_is_made(
    minimal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The playground's responses have no answer behind `####`."""
    metric = "evaluation={task_metric: answer_match}"

    assert call(monkeypatch, "run", str(minimal), "--set", metric, "--out", "here") == 2
    assert call(monkeypatch, "run", str(minimal), "--set", metric) == 2

    assert f"--set {metric}: evaluation.extractor: gsm8k finds no" in capsys.readouterr().err
    assert [each.name for each in minimal.parent.iterdir()] == [minimal.name]


def test_a_model_that_is_not_there_is_the_users_mistake(
    minimal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", str(minimal), "--set", "model.name=nobody/nothing") == 2
    shown = capsys.readouterr().err
    assert "model.name: 'nobody/nothing' could not be loaded" in shown
    assert "Traceback" not in shown


# --- Pools.


@pytest.fixture
def pools(
    minimal: Path,
    random_llama: Callable[..., Any],
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """An experiment with every kind of pool that the program makes, on a tiny random model."""
    folder = minimal.parent
    monkeypatch.setenv("RAISE_MDIT_CACHE", str(folder / "cache"))
    random_llama().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    more = """
model: {name: ./model, max_length: 120}
pools: {mosaic: {passes: 2}, mdit: {clusters: 2}}
"""
    minimal.write_text(MINIMAL + more)
    return minimal


def counted(table: str) -> dict[str, list[str]]:
    """The fields of each line of a table, by the first."""
    lines = [line.split() for line in table.splitlines() if line.strip()]
    return {fields[0]: fields[1:] for fields in lines}


def test_pool_tells_what_is_in_every_kind(
    pools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "pool", str(pools)) == 0

    shown = capsys.readouterr().out
    lines = counted(shown)
    assert {"original", "mosaic", "mdit", "all"} <= set(lines)
    assert lines["original"][:3] == ["40", "40", "1.00"]
    assert lines["mdit"][:3:2] == ["20", "2.00"]
    assert int(lines["mosaic"][0]) == int(lines["all"][0]) - 60
    assert lines["original"][6] == "20"  # steps of 2
    assert re.search(r"mosaics in (2|1\.\d+) passes over 40 examples", shown)
    assert "pool 40 examples" in shown
    assert "kB of memory" in shown
    assert not (pools.parent / "runs").exists()


def test_pool_shows_candidates_of_each_kind(
    pools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "pool", str(pools), "--show", "2") == 0

    lines = capsys.readouterr().out.splitlines()
    heads = [line.split()[1] for line in lines if line.startswith("── ")]
    assert heads == ["original", "original", "mosaic", "mosaic", "mdit", "mdit"]


def test_pool_shows_one_kind_and_by_the_same_seed_the_same(
    pools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(seed: int) -> str:
        arguments = ("--show", "1", "--kind", "mdit", "--seed", str(seed))
        assert call(monkeypatch, "pool", str(pools), *arguments) == 0
        return capsys.readouterr().out.split("of memory.")[1]

    first = shown(0)

    assert "── mdit" in first
    assert "first parent, prompt" in first
    assert "nearest" in first
    assert "── mosaic" not in first
    assert shown(0) == first != shown(1)


def test_pool_writes_what_other_trainers_read(
    pools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    assert call(monkeypatch, "pool", str(pools), "--out", "pool.parquet") == 0

    out = capsys.readouterr().out
    rows = datasets.load_dataset(
        "parquet",
        data_files=str(pools.parent / "pool.parquet"),
        split="train",
        cache_dir=str(pools.parent / "datasets"),
    )
    kinds = [row["kind"] for row in rows]
    assert f"{len(kinds)} conversations in pool.parquet; interpolations left out: 20" in out
    assert kinds.count("original") == 40
    assert kinds.count("mosaic") == int(counted(out)["mosaic"][0])
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kind", "mosaic"], "give --show N"),
        (["--seed", "1"], "give --show N"),
        (["--show", "1", "--kind", "mosiac"], "Did you mean 'mosaic'?"),
        (["--show", "1", "--kind", "custom"], "no custom candidates"),
        (["--show", "0"], "--show"),
        (["--out", "pool.csv"], ".parquet, .jsonl"),
    ],
)
def test_what_pool_cannot_do_is_the_users_mistake(
    arguments: list[str],
    words: str,
    pools: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "pool", str(pools), *arguments) == 2

    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown


def test_a_pool_without_a_candidate_says_why(
    pools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("pools.original=false", "pools.mdit=null", "pools.mosaic.max_length=16")
    prompt = f"model.system_prompt={'long ' * 16}"
    changes = [part for change in (*only, prompt) for part in ("--set", change)]

    assert call(monkeypatch, "pool", str(pools), *changes) == 2

    assert "not one mosaic fits" in capsys.readouterr().err
