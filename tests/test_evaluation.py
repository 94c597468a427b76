"""The sealed test: who opens it, when, and that nothing else depends on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.small_experiment import small_experiment

from raise_mdit import experiment
from raise_mdit.errors import ConfigError, RunError
from raise_mdit.evaluation import evaluate
from raise_mdit.experiment_file import load_experiment
from raise_mdit.openings import OPENINGS_FILE, read_openings
from raise_mdit.progress import Silent
from raise_mdit.results import ArmResult, read_results

YAML = small_experiment(
    """
    learner: {trainable: {kind: lora, layers: 2}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 4, budget: {steps: 3}}
    policies: [{kind: base}, {kind: random}, {kind: longest}]
    evaluation: {task_metric: exact_match}
    """,
    reward_validation={"left": 6},
    model_selection={"left": 4},
    test={"left": 6},
)


@pytest.fixture(scope="module", autouse=True)
def folder(furnish_once: Callable[[str], Path]) -> Path:
    return furnish_once(YAML)


def run(folder: Path, out: Path, *overrides: str) -> Path:
    experiment.run(load_experiment(folder / "small.yaml", overrides), out, Silent())
    return out


def arms_of(directory: Path) -> dict[str, ArmResult]:
    return {arm.policy: arm for arm in read_results(directory / "results.json")}


def test_a_test_that_is_opened_later_gives_what_it_gives_at_once(
    folder: Path, tmp_path: Path
) -> None:
    at_once = arms_of(run(folder, tmp_path / "at_once"))
    sealed = run(folder, tmp_path / "sealed", "evaluation.open_test=evaluate")

    before = arms_of(sealed)
    assert all(arm.test is None for arm in before.values())
    assert read_openings(sealed) == ()
    summary = json.loads((sealed / "results.json").read_text())["summaries"][1]
    assert summary["split"] == "model_selection"

    (_, random, _) = evaluate(sealed, Silent())

    after = arms_of(sealed)
    assert {policy: arm.test for policy, arm in after.items()} == {
        policy: arm.test for policy, arm in at_once.items()
    }
    assert random.split == "test"
    assert random.loss.mean == at_once["random"].test.loss  # type: ignore[union-attr]  # it has one
    for policy, arm in after.items():
        cost, whole = arm.costs["final_evaluation"], at_once[policy].costs["final_evaluation"]
        assert (cost.tokens, cost.flops) == (whole.tokens, whole.flops)


def test_each_opening_is_recorded_with_time_and_command(folder: Path, tmp_path: Path) -> None:
    at_once = run(folder, tmp_path / "at_once")
    assert [(each.policy, each.seed, each.by) for each in read_openings(at_once)] == [
        ("base", 0, "run"),
        ("random", 0, "run"),
        ("longest", 0, "run"),
    ]
    assert all(each.at.endswith("+00:00") for each in read_openings(at_once))

    sealed = run(folder, tmp_path / "sealed", "evaluation.open_test=evaluate")
    evaluate(sealed, Silent())
    assert {each.by for each in read_openings(sealed)} == {"evaluate"}


def test_the_test_is_not_opened_twice(folder: Path, tmp_path: Path) -> None:
    sealed = run(folder, tmp_path / "sealed", "evaluation.open_test=evaluate")
    evaluate(sealed, Silent())
    recorded = (sealed / OPENINGS_FILE).read_bytes()
    with pytest.raises(RunError, match=r"was opened for every arm at 20.* by raise-mdit evaluate"):
        evaluate(sealed, Silent())
    assert (sealed / OPENINGS_FILE).read_bytes() == recorded


def test_the_test_stays_sealed_while_an_arm_is_missing(folder: Path, tmp_path: Path) -> None:
    sealed = run(folder, tmp_path / "sealed", "evaluation.open_test=evaluate")
    (sealed / "arms" / "longest-s0" / "result.json").unlink()
    with pytest.raises(RunError, match=r"1 of 3 arms have not finished \(longest s0\)"):
        evaluate(sealed, Silent())
    assert read_openings(sealed) == ()


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    sealed = run(folder, tmp_path / "sealed", "evaluation.open_test=evaluate")
    weights = sealed / "arms" / "random-s0" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(RunError, match=r"weights.safetensors: not readable"):
        evaluate(sealed, Silent())


def test_changed_test_data_are_refused_and_nothing_is_measured_on_them(
    folder: Path, tmp_path: Path
) -> None:
    directory = run(folder, tmp_path / "run")
    record = json.loads((directory / OPENINGS_FILE).read_text())
    (directory / OPENINGS_FILE).write_text(json.dumps({**record, "items": "0" * 16}))
    (directory / "arms" / "longest-s0" / "result.json").unlink()
    with pytest.raises(RunError, match=r"test's items are not those of 20"):
        run(folder, directory)
    assert not (directory / "arms" / "longest-s0" / "result.json").exists()


def test_a_sealed_test_needs_something_else_to_compare_on(folder: Path) -> None:
    overrides = ["evaluation.open_test=evaluate", "data.model_selection=[]"]
    with pytest.raises(ConfigError, match=r"evaluation.open_test: .* add `data.model_selection`"):
        load_experiment(folder / "small.yaml", overrides)
