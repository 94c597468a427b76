"""Looking at an experiment must be quick: no torch, wherever the command line can do without."""

import subprocess
import sys
from pathlib import Path

EXPERIMENT = """
name: smallest
data:
  sources: [{name: tasks, kind: playground}]
  pool: [{source: tasks}]
  reward_validation: [{source: tasks, rows: 8}]
  test: [{source: tasks, rows: 8}]
environment: {budget: {steps: 4}}
policies: [{kind: base}, {kind: random}]
"""
HEAVY = {"torch", "transformers", "stable_baselines3", "datasets", "sklearn"}


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Heavy packages that a fresh interpreter has loaded after the code."""
    show = f"import sys; print(*sorted({HEAVY!r} & set(sys.modules)))"
    command = [sys.executable, "-c", f"{code}\n{show}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    assert loaded_by("import raise_mdit.cli") == set()


def test_checking_a_file_loads_nothing_heavy(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT)
    code = """
import sys
from raise_mdit.cli import main
sys.argv = ["raise-mdit", "check", sys.argv[1]]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert loaded_by(code, str(path)) == set()


def test_reading_a_file_loads_nothing_heavy_nor_numpy(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT)
    code = """
import sys
from pathlib import Path
from raise_mdit.experiment_file import load_experiment
load_experiment(Path(sys.argv[1]))
assert "numpy" not in sys.modules
"""
    assert loaded_by(code, str(path)) == set()
