"""The commands on bundles, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.small_experiment import run_small, small_experiment

from raise_mdit import cli

YAML = small_experiment(
    """
    pools: {mdit: {ratio: 1.0, clusters: 2}}
    learner: {trainable: {kind: full}, learning_rate: 1.0e-2}
    environment: {window: 8, batch_size: 4, budget: {steps: 2}}
    policies: [{kind: base}, {kind: random}]
    """,
    model="{name: {folder}/model, max_length: 48, precision: float32}",
    reward_validation={"left": 4},
    test={"left": 4},
)


@pytest.fixture(scope="module")
def run(furnish_once: Callable[[str], Path]) -> Path:
    return run_small(furnish_once(YAML), "run")


def command(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["raise-mdit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_a_bundle_is_written_checked_and_trained_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    codes = [command("export", run, "--to", out), command("verify", out), command("replay", out)]

    exported, verified, *_, replayed = capsys.readouterr().out.splitlines()
    assert codes == [0, 0, 0]
    assert "8 rows of random s0" in exported
    assert "sound, 8 rows" in verified
    assert exported.split()[-1] == verified.split()[-1]
    assert replayed == "2 steps: every loss is the run's, bit for bit"


def test_a_fault_is_named_and_ends_with_2(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command("export", run, "--to", out)
    lines = (out / "sft.jsonl").read_text().splitlines(keepends=True)
    (out / "sft.jsonl").write_text("".join([lines[1], lines[0], *lines[2:]]))

    assert command("verify", out) == 2
    assert "sft.jsonl: line 1: out of order; it was line 2" in capsys.readouterr().err
    assert command("replay", out) == 2
    assert "sft.jsonl: line 2: out of order; it was line 1" in capsys.readouterr().err


def test_a_policy_without_weights_cannot_be_exported_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", run, "--policy-only", "--to", tmp_path / "out") == 2
    assert "has no weights that score" in " ".join(capsys.readouterr().err.split())
