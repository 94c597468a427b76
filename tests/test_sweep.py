"""Points of a sweep, and which of them is named the best."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from helpers.arm_results import held_out
from pydantic import ValidationError
from typer.testing import CliRunner

from raise_mdit import experiment
from raise_mdit.cli import app
from raise_mdit.config import ExperimentConfig, SweepConfig
from raise_mdit.errors import ConfigError, RunError
from raise_mdit.progress import Silent
from raise_mdit.results import ArmResult, to_json
from raise_mdit.runs import write_text
from raise_mdit.sweep import run_sweep
from raise_mdit.sweep_plan import Point, plan, settings
from raise_mdit.sweep_results import NoBoard

RATES, WINDOWS = (1e-5, 1e-3), (8, 16, 32)
YAML = """
name: search
seeds: [0, 1]
data:
  sources: [{kind: playground, name: toy}]
  pool: [{source: toy, rows: 20}]
  reward_validation: [{source: toy, rows: 6}]
  model_selection: [{source: toy, rows: 6}]
  test: [{source: toy, rows: 6}]
environment: {window: 12, batch_size: 4, budget: {steps: 3}}
policies:
  - {kind: base}
  - {kind: random}
  - {kind: ppo, episodes: 4, episodes_per_update: 2}
sweep:
  policy: ppo
  parameters:
    learner.learning_rate: {values: [1.0e-5, 1.0e-3]}
    policies.ppo.episodes: {values: [4, 8]}
"""


def section(**fields: Any) -> SweepConfig:
    return SweepConfig.model_validate({"policy": "ppo", **fields})


def grid(**fields: Any) -> SweepConfig:
    parameters = {"rate": {"values": RATES}, "window": {"values": WINDOWS}}
    return section(parameters=parameters, **fields)


# --- Settings.


def test_a_grid_has_every_combination_in_order() -> None:
    expected = [{"rate": rate, "window": window} for rate, window in product(RATES, WINDOWS)]
    assert settings(grid()) == expected
    assert settings(grid(num_runs=4)) == expected[:4]


def test_random_draws_of_values_are_never_the_same_twice() -> None:
    drawn = settings(grid(method="random", num_runs=6, seed=1))
    assert sorted(map(str, drawn)) == sorted(map(str, settings(grid())))
    assert drawn != settings(grid())


def test_numbers_are_drawn_from_their_distribution() -> None:
    parameters = {
        "flat": {"min": 2.0, "max": 4.0},
        "log": {"min": 1e-6, "max": 1e-2, "distribution": "log_uniform_values"},
        "whole": {"min": 1.0, "max": 3.0, "distribution": "int_uniform"},
    }
    drawn = settings(section(method="random", num_runs=2000, parameters=parameters))
    columns = {key: [float(point[key] or 0) for point in drawn] for key in parameters}
    assert min(columns["flat"]) >= 2.0
    assert max(columns["flat"]) <= 4.0
    assert sum(columns["flat"]) / 2000 == pytest.approx(3.0, abs=0.05)
    logarithms = [math.log10(value) for value in columns["log"]]
    assert sum(logarithms) / 2000 == pytest.approx(-4.0, abs=0.1)
    assert {type(point["whole"]) for point in drawn} == {int}
    assert {point["whole"] for point in drawn} == {1, 2, 3}


def test_a_seed_gives_the_same_points_again() -> None:
    parameters = {"flat": {"min": 0.0, "max": 1.0}}
    first, again, other = (
        settings(section(method="random", num_runs=3, parameters=parameters, seed=seed))
        for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"parameters": {"a": {}}}, "needs `values`, or both"),
        ({"parameters": {"a": {"values": (1,), "min": 0.0}}}, "beside them"),
        ({"parameters": {"a": {"values": ()}}}, "at least one"),
        ({"parameters": {"a": {"min": 2.0, "max": 1.0}}}, "below max"),
        ({"parameters": {"a": {"min": 0.0, "max": 1.0}}}, "needs `values`"),
        ({"parameters": {"a": {"values": (1,)}}, "method": "random"}, "num_runs"),
        (
            {"parameters": {"a": {"min": 0.0, "max": 1.0, "distribution": "log_uniform_values"}}},
            "above 0",
        ),
        (
            {"parameters": {"a": {"min": 0.2, "max": 0.8, "distribution": "int_uniform"}}},
            "whole number",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        section(**fields)


# --- Points.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_text(tmp_path / "search.yaml", YAML)
    return tmp_path / "search.yaml"


def test_each_point_is_the_experiment_with_its_setting_and_the_one_policy(file: Path) -> None:
    points = plan(file, ["seeds=[3]"])
    found = [
        (each.name, each.config.learner.learning_rate, getattr(each.config.policies[0], "episodes"))  # noqa: B009
        for each in points
    ]
    assert found == [
        ("sweep-1", 1e-5, 4),
        ("sweep-2", 1e-5, 8),
        ("sweep-3", 1e-3, 4),
        ("sweep-4", 1e-3, 8),
    ]
    assert {each.config.seeds for each in points} == {(3,)}
    assert {each.config.sweep for each in points} == {None}
    assert {each.config.evaluation.open_test for each in points} == {"evaluate"}
    assert {tuple(p.label for p in each.config.policies) for each in points} == {("ppo",)}


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("sweep=null", "no `sweep` section"),
        ("sweep.policy=pqo", "Did you mean 'ppo'"),
        ("data.model_selection=[]", "add `data.model_selection`"),
        ("sweep.parameters={learner.learning_rat: {values: [1]}}", "unknown key"),
        ("sweep.parameters={learner.learning_rate: {values: [-1.0]}}", "learner.learning_rate"),
        (
            "sweep.parameters={model.name: {values: [no such model, smollm2-135m]}}",
            'with model.name="no such model": model.name: there is no model',
        ),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused_before_it_begins(
    file: Path, override: str, fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        plan(file, [override])


def test_an_experiment_with_a_sweep_is_not_run_as_if_it_had_none(
    file: Path, tmp_path: Path
) -> None:
    from raise_mdit.experiment_file import load_experiment

    with pytest.raises(ConfigError, match="raise-mdit sweep"):
        experiment.run(load_experiment(file), tmp_path / "run", Silent())


# --- The best.


Loss = Callable[[ExperimentConfig, int], float]


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Experiments whose losses on model-selection data a function of setting and seed says.

    On reward-validation, of which policies learn, they have it the other way round.
    """

    def use(loss: Loss) -> None:
        def arm(config: ExperimentConfig, seed: int) -> ArmResult:
            return ArmResult(
                policy="ppo",
                kind="ppo",
                seed=seed,
                status="complete",
                test=None,
                model_selection=held_out(loss(config, seed)),
                reward_validation_losses=(9.0, -loss(config, seed)),
                episode_returns=(),
                steps=1,
                tokens=1,
                picks=(),
                costs={},
            )

        def run(config: ExperimentConfig, directory: Path, _progress: object, jobs: int) -> Any:
            directory.mkdir(parents=True, exist_ok=True)
            results = [arm(config, seed) for seed in config.seeds]
            write_text(directory / "results.json", to_json(results))
            return experiment.Outcome(directory, ())

        monkeypatch.setattr(experiment, "run", run)

    return use


def searched(points: tuple[Point, ...], directory: Path) -> list[tuple[str, float]]:
    results = run_sweep(points, directory, policy="ppo", progress=Silent(), board=NoBoard())
    return [(each.name, each.loss.mean) for each in results]


def test_the_lowest_mean_over_seeds_wins_on_model_selection_data(
    file: Path, tmp_path: Path, fake_runs: Callable[..., None]
) -> None:
    fake_runs(lambda config, seed: config.learner.learning_rate * 1000 + seed)
    found = searched(plan(file, ["sweep.num_runs=3"]), tmp_path / "out")
    assert [name for name, _ in found] == ["sweep-1", "sweep-2", "sweep-3"]
    assert [loss for _, loss in found] == pytest.approx([0.51, 0.51, 1.5])
    document = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert document["best"]["name"] == "sweep-1"


def test_a_point_that_broke_down_stands_last(
    file: Path, tmp_path: Path, fake_runs: Callable[..., None]
) -> None:
    def loss(config: ExperimentConfig, seed: int) -> float:
        return math.nan if config.learner.learning_rate == 1e-5 and seed == 1 else 2.0

    fake_runs(loss)
    found = searched(plan(file), tmp_path / "out")
    assert [name for name, _ in found] == ["sweep-3", "sweep-4", "sweep-1", "sweep-2"]
    document = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert document["points"][-1]["loss"]["mean"] == "nan"


def test_the_command_names_the_best_and_how_to_run_it(
    file: Path, tmp_path: Path, fake_runs: Callable[..., None]
) -> None:
    fake_runs(lambda config, seed: 1.0 - config.learner.learning_rate)
    told = CliRunner().invoke(app, ["sweep", str(file), "--out", str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert "loss on model-selection" in told.output
    assert "best      sweep-3" in told.output
    assert f"raise-mdit evaluate {tmp_path / 'out' / 'sweep-3'}" in told.output
    assert "--set learner.learning_rate=0.001 --set policies.ppo.episodes=4" in told.output


def test_points_that_are_as_low_as_the_best_are_told(
    file: Path, tmp_path: Path, fake_runs: Callable[..., None]
) -> None:
    fake_runs(lambda config, seed: 1.0 - config.learner.learning_rate)
    told = CliRunner().invoke(app, ["sweep", str(file), "--out", str(tmp_path / "out")])
    assert "best      sweep-3 (as low: sweep-4), that is:" in told.output


def test_check_counts_the_points_and_finds_the_faults_of_each(file: Path) -> None:
    told = CliRunner().invoke(app, ["check", str(file)])
    assert f"{file}: sound; 4 points of ppo x 2 seeds = 8 arms" in told.output.replace("\n", "")

    wrong = YAML.replace("[1.0e-5, 1.0e-3]", "[1.0e-5, -1.0]").replace("[4, 8]", "[4, 0]")
    file.write_text(wrong)
    with pytest.raises(ConfigError) as caught:
        plan(file)
    heads = [line for line in str(caught.value).splitlines() if line.startswith(str(file))]
    assert heads == [
        f"{file}:19:5: sweep.parameters.policies.ppo.episodes: with policies.ppo.episodes=0: "
        "policies.2.episodes: should be greater than or equal to 1, got 0",
        f"{file}:18:5: sweep.parameters.learner.learning_rate: with learner.learning_rate=-1.0: "
        "learner.learning_rate: should be greater than 0, got -1.0",
    ]


def test_values_that_are_wrong_together_alone_are_told_together(file: Path) -> None:
    window, batch = "environment.window: {values: [4]}", "environment.batch_size: {values: [5]}"
    together = r"with environment\.window=4 environment\.batch_size=5: "
    with pytest.raises(ConfigError, match=together):
        plan(file, [f"sweep.parameters={{{window}, {batch}}}"])


def test_a_directory_of_something_else_is_left_alone(file: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no sweep"):
        searched(plan(file), tmp_path)


def test_run_refuses_a_file_with_a_sweep_before_anything_is_written(
    file: Path, tmp_path: Path
) -> None:
    told = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "out")])
    assert "which raise-mdit sweep" in str(told.exception)
    assert not (tmp_path / "out").exists()
