"""How a function of the user's is found, and what is said where it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raise_mdit.errors import ConfigError
from raise_mdit.own_function import find_function

GRADING = """
import functools

def score(prompt, generated, reference, weight=1.0):
    return weight

def short(text):
    return None

class Grader:
    def __call__(self, prompt, generated, reference):
        return 0.5

grader = Grader()
half = functools.partial(score, weight=0.5)
LIMIT = 3
"""
ARGUMENTS = ("prompt", "generated", "reference")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose modules are forgotten afterwards."""
    (tmp_path / "own_grading.py").write_text(GRADING)
    (tmp_path / "own_broken.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "own_raising.py").write_text("x = 1\nraise OSError('disk on fire')\n")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.mark.parametrize(("name", "value"), [("score", 1.0), ("grader", 0.5), ("half", 0.5)])
def test_what_can_be_called_is_found_beside_the_experiment(name: str, value: float) -> None:
    path = list(sys.path)

    found = find_function(f"own_grading:{name}", "evaluation.task_metric", arguments=ARGUMENTS)

    assert found("p", "g", "r") == value
    assert sys.path == path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_gradin:score", "there is no module 'own_gradin'; .* Did you mean 'own_grading'"),
        ("own_grading:scor", "module 'own_grading' has no function 'scor'; its functions are "),
        ("own_grading:scor", "score, short. Did you mean 'score'"),
        ("own_grading:LIMIT", "'LIMIT' of module 'own_grading' is of type int, not a function"),
        ("own_grading:Grader", "'Grader' of module 'own_grading' is a class, not a function"),
        ("own_grading:short", r"called as `short\(prompt, generated, reference\)`, .*\(text\)"),
        ("own_broken:score", "importing 'own_broken' raised ModuleNotFoundError: .*nowhere"),
        (
            "own_raising:score",
            r"importing 'own_raising' raised OSError: disk on fire .*raising.py:2",
        ),
        ("builtins:max", "builtins:max does not say what it takes"),
    ],
)
def test_what_cannot_be_had_is_named_with_its_key(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluation\.task_metric: .*{message}"):
        find_function(path, "evaluation.task_metric", arguments=ARGUMENTS)
