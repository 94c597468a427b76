"""What a file names of the user's own is tried before a run, and its faults have their place."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from textwrap import dedent

import pytest
from helpers.small_experiment import run_small, small_experiment

from raise_mdit.commands.own_parts import check_own_parts, feature_names, num_features
from raise_mdit.decisions import read_features
from raise_mdit.errors import ConfigError
from raise_mdit.experiment_file import load_with_places, read_config

MINIMAL = """\
name: minimal
data:
  sources: [{name: toy, kind: playground}]
  pool: [{source: toy, rows: 40}]
  reward_validation: [{source: toy, rows: 4}]
  test: [{source: toy, rows: 4}]
environment: {window: 8, batch_size: 2, budget: {steps: 2}}
policies:
  - kind: base
  - kind: random
"""
SMALL = small_experiment(
    """
    features: {semantic_size: 3, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 1}}
    environment: {window: 8, batch_size: 2, budget: {steps: 3}}
    policies: [{kind: base}, {kind: random}, {kind: ppo, episodes: 2, episodes_per_update: 1}]
    """,
    reward_validation={"left": 4},
    test={"left": 4},
)
NUMBERS = count()
Check = Callable[..., None]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "minimal.yaml"


@pytest.fixture
def own(file: Path) -> Callable[[str], str]:
    """Writes a module of the user's, and gives its name, which no other test has."""

    def write(text: str) -> str:
        name = f"own_parts_{next(NUMBERS)}"
        (file.parent / f"{name}.py").write_text(dedent(text))
        return name

    return write


@pytest.fixture
def checked(file: Path) -> Check:
    """Checks the minimal file with lines behind it."""

    def check(text: str, *overrides: str, contracts: bool = True) -> None:
        file.write_text(MINIMAL + text)
        check_own_parts(load_with_places(file, overrides), contracts=contracts)

    return check


def fault(check: Check, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(text, *overrides)
    return str(caught.value).splitlines()


def test_faults_of_a_metric_have_their_place(
    checked: Check, file: Path, own: Callable[[str], str]
) -> None:
    name = own("def score(prompt, generated, reference): return 1.0")

    first, line, caret = fault(checked, f"evaluation:\n  task_metric: {name}:scores\n")

    assert first.startswith(
        f"{file}:12:16: evaluation.task_metric: module '{name}' has no function"
    )
    assert first.endswith("Did you mean 'score'?")
    assert line == f"   12 |   task_metric: {name}:scores"
    assert caret == " " * 23 + "^" * len(f"{name}:scores")
    override = f"evaluation.task_metric={name}:scores"
    assert fault(checked, "", override)[0].startswith(f"--set {override}: evaluation.task_metric: ")
    checked(f"evaluation:\n  task_metric: {name}:score\n")


def test_faults_of_an_extractor_have_their_place(checked: Check, file: Path) -> None:
    metric = "evaluation:\n  task_metric: answer_match\n"

    first = fault(checked, f"{metric}  extractor: own_parts_nowhere:find\n")[0]

    assert first.startswith(f"{file}:13:14: evaluation.extractor: there is no module")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.pool.0.tasks=[sortng]", r"has no task 'sortng'.* Did you mean 'sorting'\?"),
        ("data.test.toy.rows=90000", r"has 2800 rows; 90000 asked"),
    ],
)
def test_shares_that_the_embedded_data_have_not_are_found(
    checked: Check, override: str, message: str
) -> None:
    assert re.search(message, fault(checked, "", override)[0])


def test_faults_of_embedded_shares_have_their_place(file: Path) -> None:
    file.write_text(MINIMAL.replace("rows: 40", "tasks: [sortng]"))

    with pytest.raises(ConfigError) as caught:
        check_own_parts(load_with_places(file, []), contracts=True)

    assert str(caught.value).startswith(
        f"{file}:4:32: data.pool.0.tasks.0: source 'toy' has no task"
    )


def test_references_without_answers_are_found(checked: Check, file: Path) -> None:
    """The playground's responses have no answer behind `####`."""
    metric = "evaluation:\n  task_metric: answer_match\n"

    first = fault(checked, metric)[0]

    assert first.startswith(f"{file}:11:1: evaluation.extractor: gsm8k finds no answer in the ref")
    assert "4 of 4 references of data.test" in first
    checked(f"{metric}  extractor: whole\n")


def test_a_policy_that_breaks_its_contract_is_told_with_its_place(
    checked: Check, file: Path, own: Callable[[str], str]
) -> None:
    name = own("""
        import numpy as np

        class Same:
            def __init__(self, *, num_picks, rng, slot=0):
                self.picks = np.full(num_picks, slot)

            def predict(self, observation, state=None, episode_start=None, deterministic=False):
                return self.picks, state
    """)
    policy = f"  - name: mine\n    kind: {name}:Same\n"

    lines = fault(checked, policy)

    assert lines[0] == (
        f"{file}:12:11: policies.mine.kind: on a made-up pool of 40 candidates, Same breaks the "
        "contract of a selection policy:"
    )
    assert "  call 1 of `predict`: slot 0 is picked more than once; pick different slots" in lines
    assert "slot 3 is" in "".join(fault(checked, policy, "policies.mine.options.slot=3"))
    checked(policy, contracts=False)


def test_a_policy_is_tried_on_as_many_picks_and_columns_as_the_run_has(
    checked: Check, own: Callable[[str], str]
) -> None:
    name = own("""
        import numpy as np

        class Careful:
            def __init__(self, *, num_picks, rng, features, feature_names):
                assert num_picks == 2
                assert features.shape == (40, len(feature_names)), features.shape
                self.column = feature_names.index("response_tokens")

            def predict(self, observation, state=None, episode_start=None, deterministic=False):
                assert len(observation["mask"]) in (8, 40)
                values = observation["candidates"][:, self.column]
                offered = np.where(observation["mask"] > 0, values, -9)
                return np.argsort(-offered, kind="stable")[:2], state
    """)

    checked(f"  - name: mine\n    kind: {name}:Careful\n")


@pytest.mark.parametrize("tier", ["cheap", "model", "gradient"])
def test_columns_are_counted_without_their_names(file: Path, tier: str) -> None:
    file.write_text(MINIMAL)
    policies = "policies=[{kind: base}, {kind: random}, {kind: ppo}]"
    overrides = [f"features.tier={tier}", "features.semantic_size=5", policies]
    config = load_with_places(file, overrides).config

    assert num_features(config) == len(feature_names(config))


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")
def test_names_of_columns_are_those_of_a_run(
    tmp_path: Path, furnish: Callable[[Path, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAISE_MDIT_CACHE", str(tmp_path / "cache"))
    run = run_small(furnish(tmp_path, SMALL), "run")

    assert feature_names(read_config(run)) == read_features(run / "features.safetensors").names


def test_what_cannot_be_loaded_is_told_once(checked: Check, own: Callable[[str], str]) -> None:
    name = own("class Other: ...")
    policy = f"  - name: mine\n    kind: {name}:Mine\n"

    lines = fault(checked, policy)

    assert sum("has no class 'Mine'" in line for line in lines) == 1
