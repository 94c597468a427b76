"""LLaMA-Factory sees a bundle's batches in its order; for an interpreter that has it.

Its pins conflict with ours, so it has a virtual environment of its own, which `make interop` makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

INTERPRETER = os.environ.get("LLAMAFACTORY_PYTHON")
RECORDER = Path(__file__).with_name("record_llamafactory.py")
Batches = list[list[list[int]]]


@pytest.mark.skipif(INTERPRETER is None, reason="LLAMAFACTORY_PYTHON names no interpreter")
def test_every_step_of_llamafactory_sees_the_rows_of_the_bundle_in_their_order(
    bundle: Path, expected: Batches, answers: Batches, tmp_path: Path
) -> None:
    assert INTERPRETER is not None
    output = tmp_path / "seen.json"

    done = subprocess.run(
        [INTERPRETER, str(RECORDER), str(bundle), str(output)], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    seen: Batches = [[] for _ in expected]
    scored: Batches = [[] for _ in expected]
    for step, ids, labels in json.loads(output.read_text()):
        seen[step].append(ids)
        scored[step].append(labels)
    assert seen == expected
    assert scored == answers
