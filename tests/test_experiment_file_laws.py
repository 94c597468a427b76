"""Laws of experiment files: what is written loads again, and any text is loaded or refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raise_mdit.config import ExperimentConfig
from raise_mdit.errors import ConfigError
from raise_mdit.experiment_file import load_experiment, resolved_yaml

CONFIG = ExperimentConfig.model_validate(
    {
        "name": "laws",
        "data": {
            "sources": ({"name": "tasks", "kind": "playground"},),
            "pool": ({"source": "tasks", "rows": 100, "tasks": ("copy", "sort")},),
            "reward_validation": ({"source": "tasks", "rows": 16},),
            "test": ({"source": "tasks"},),
        },
        "pools": {"mosaic": {}, "mdit": {}},
        "environment": {"window": 32, "budget": {"steps": 10}},
        "policies": ({"kind": "base"}, {"kind": "random"}, {"kind": "ppo"}),
    }
)
TEXT = resolved_yaml(CONFIG)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
FLOATS = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
SNIPPETS = st.text(max_size=4) | st.sampled_from(
    [*"[]{}:,&*!|>'\"%@`#-?\t\n", "&a ", "*a", "!!int ", "? ", "<<: ", ": ", "1e999", "\\ud800"]
)
EDITS = st.tuples(st.integers(0, len(TEXT)), st.integers(0, 12), SNIPPETS)
LINES = st.integers(0, TEXT.count("\n") - 1)
STRANGE = st.text(max_size=8) | st.sampled_from(
    ["null", "[]", "{}", "-1", "0", "1e400", "~", "''", "[[{}]]", "{a: {}}", "2024-01-01", "yes"]
)
KEYS = st.sampled_from(["data", "pool", "0", "kind", "policies", "ppo", "seeds", "x", ""])

# A folder is enough for all examples: each one writes its file anew.
laws = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def load_or_refuse(folder: Path, text: str, overrides: Sequence[str] = ()) -> None:
    path = folder / "experiment.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_experiment(path, overrides)
    except ConfigError as error:
        str(error).encode()  # can be printed anywhere


@laws
@given(prompt=TEXTS, learning_rate=FLOATS, seed=st.integers(min_value=0))
def test_any_config_loads_again(
    tmp_path: Path, prompt: str, learning_rate: float, seed: int
) -> None:
    fields = CONFIG.model_dump() | {"seeds": (seed,)}
    fields["model"]["system_prompt"] = prompt
    fields["learner"]["learning_rate"] = learning_rate
    config = ExperimentConfig.model_validate(fields)
    path = tmp_path / "experiment.yaml"
    path.write_bytes(resolved_yaml(config).encode())
    assert load_experiment(path) == config


@laws
@given(edits=st.lists(EDITS, min_size=1, max_size=4))
def test_damaged_text_is_refused_or_loaded(
    tmp_path: Path, edits: list[tuple[int, int, str]]
) -> None:
    text = TEXT
    for start, removed, inserted in edits:
        text = text[:start] + inserted + text[start + removed :]
    load_or_refuse(tmp_path, text)


@laws
@given(changes=st.dictionaries(LINES, STRANGE, min_size=1, max_size=3))
def test_changed_values_are_refused_or_loaded(tmp_path: Path, changes: dict[int, str]) -> None:
    lines = TEXT.splitlines()
    for line, value in changes.items():
        lines[line] = f"{lines[line].partition(':')[0]}: {value}"
    load_or_refuse(tmp_path, "\n".join(lines))


@laws
@given(key=st.lists(KEYS), value=STRANGE)
def test_any_override_is_refused_or_applied(tmp_path: Path, key: list[str], value: str) -> None:
    load_or_refuse(tmp_path, TEXT, [f"{'.'.join(key)}={value}"])


@laws
@given(content=st.binary(max_size=64))
def test_bytes_that_are_no_experiment_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_experiment(path)
