"""Whole experiments on a small model with random weights and a few rows of data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raise_mdit import experiment
from raise_mdit.arms import run_arm
from raise_mdit.comparison import ArmResult, arms_from_json
from raise_mdit.config import ExperimentConfig
from raise_mdit.errors import DataError, ModelError, RunError
from raise_mdit.experiment_file import load_experiment
from raise_mdit.learners.causal_lm import CausalLmLearner
from raise_mdit.progress import Silent
from raise_mdit.schedule import order_digest, read_schedule

# peft reads an attribute that transformers is about to rename; SB3 advises on rollout sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

YAML = """
name: small
seeds: [0, 1]
model: {{name: {folder}/model, max_length: 48}}
data:
  root: {folder}
  sources:
    - {{name: left, kind: dataset, file: left.jsonl}}
    - {{name: right, kind: dataset, file: right.jsonl}}
  pool: [{{source: left, rows: 20}}, {{source: right, rows: 20}}]
  reward_validation: [{{source: left, rows: 6}}]
  model_selection: [{{source: left, rows: 4}}]
  test: [{{source: left, rows: 8}}]
pools:
  mosaic: {{max_instructions: 3}}
  mdit: {{across: source, ratio: 0.5, clusters: 2}}
features: {{semantic_size: 4, clusters: 2}}
learner: {{trainable: {{kind: top_layers, layers: 2}}, learning_rate: 1.0e-2}}
environment: {{window: 12, batch_size: 4, budget: {{steps: 3}}}}
policies:
  - {{kind: base}}
  - {{kind: random}}
  - {{kind: full}}
  - {{kind: longest}}
  - {{kind: nearest_to_target}}
  - {{kind: ppo, episodes: 4, episodes_per_update: 2}}
evaluation: {{task_metric: exact_match}}
"""

PURPOSES = {
    "synthesis",
    "features",
    "policy_training",
    "reward_evaluation",
    "final_training",
    "final_evaluation",
    "monitoring",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAISE_MDIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path, random_llama: Callable[..., Any], tokenizer: Any) -> Path:
    """A folder that has all that the experiment needs."""
    return furnish(tmp_path, random_llama(), tokenizer)


def furnish(tmp_path: Path, model: Any, tokenizer: Any) -> Path:
    """A model with random weights and two sources of random words."""
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        rows = (
            {"prompt": words(rng, 5), "completion": words(rng, int(rng.integers(2, 6)))}
            for _ in range(40)
        )
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "small.yaml").write_text(YAML.format(folder=tmp_path))
    return tmp_path


def words(rng: np.random.Generator, count: int) -> str:
    return " ".join(f"w{i}" for i in rng.integers(0, 100, count))


def config_of(folder: Path, *overrides: str) -> ExperimentConfig:
    return load_experiment(folder / "small.yaml", overrides)


def run(folder: Path, out: str, *overrides: str) -> Path:
    experiment.run(config_of(folder, *overrides), folder / out, Silent())
    return folder / out


def arms_of(directory: Path) -> dict[tuple[str, int], ArmResult]:
    arms = arms_from_json((directory / "results.json").read_text())
    return {(arm.policy, arm.seed): arm for arm in arms}


def metrics_of(directory: Path) -> list[dict[str, Any]]:
    """Records without what measures time."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [
        {
            key: value
            for key, value in json.loads(line).items()
            if not key.endswith("seconds") and key not in ("time/time_elapsed", "time/fps")
        }
        for line in lines
    ]


@pytest.fixture(scope="module")
def finished_once(
    tmp_path_factory: pytest.TempPathFactory, random_llama: Callable[..., Any], tokenizer: Any
) -> Path:
    folder = furnish(tmp_path_factory.mktemp("once"), random_llama(), tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAISE_MDIT_CACHE", str(folder / "cache"))
        return run(folder, "run")


@pytest.fixture
def finished(finished_once: Path, folder: Path) -> Path:
    """A finished run that a test may damage."""
    return Path(shutil.copytree(finished_once, folder / "run"))


def test_a_run_leaves_everything_it_promises(finished: Path) -> None:
    files = {path.name for path in finished.iterdir()}

    assert files == {
        "arms",
        "config.yaml",
        "examples.jsonl",
        "ledger.json",
        "metrics.jsonl",
        "pool.parquet",
        "preparation.json",
        "report.html",
        "results.json",
        "schedule.jsonl",
        "schedule.manifest.json",
        "versions.json",
    }
    assert (finished / "arms" / "ppo-s1" / "policy.safetensors").stat().st_size > 0


def test_every_policy_does_what_its_name_says(finished: Path) -> None:
    arms = arms_of(finished)

    assert arms["base", 0].steps == 0
    assert arms["base", 0].test_loss == arms["base", 1].test_loss
    assert arms["full", 0].steps == 10  # 40 originals in batches of 4
    assert {arms[p, 0].steps for p in ("random", "longest", "nearest_to_target", "ppo")} == {3}
    assert arms["random", 0].test_loss != arms["random", 1].test_loss
    assert arms["longest", 0].picks == arms["longest", 1].picks
    assert [len(arms["ppo", seed].episode_returns) for seed in (0, 1)] == [4, 4]
    assert sum(arms["full", 0].picks[0].values()) == 4


def test_full_data_trains_once_on_each_original(finished: Path) -> None:
    picks = [pick for pick in read_schedule(finished) if (pick.policy, pick.seed) == ("full", 0)]

    assert {pick.kind for pick in picks} == {"original"}
    assert len({pick.id for pick in picks}) == len(picks) == 40


def test_policies_without_repetition_never_repeat(finished: Path) -> None:
    for name in ("random", "longest", "nearest_to_target"):
        ids = [p.id for p in read_schedule(finished) if (p.policy, p.seed) == (name, 0)]
        assert len(set(ids)) == len(ids) == 12


def test_costs_are_charged_to_whom_they_belong(finished: Path) -> None:
    costs = {policy: arm.costs for (policy, seed), arm in arms_of(finished).items() if seed == 0}

    assert set(costs["ppo"]) == PURPOSES
    assert costs["base"]["features"].flops == costs["base"]["final_training"].flops == 0
    assert costs["random"]["policy_training"].flops == 0
    assert costs["random"]["reward_evaluation"].flops == costs["ppo"]["monitoring"].flops == 0
    assert costs["random"]["monitoring"].flops > 0
    assert costs["ppo"]["features"].tokens == costs["nearest_to_target"]["features"].tokens > 0
    assert costs["ppo"]["policy_training"].tokens > 3 * costs["ppo"]["final_training"].tokens
    arm = arms_of(finished)["ppo", 0]
    assert arm.costs["final_training"].tokens == arm.tokens


def test_costs_do_not_depend_on_which_arms_ran_before(folder: Path, finished: Path) -> None:
    alone = run(folder, "alone", "seeds=[1]")

    for policy in ("random", "ppo"):
        ours, theirs = (arms_of(each)[policy, 1].costs for each in (finished, alone))
        assert {key: cost.flops for key, cost in ours.items()} == {
            key: cost.flops for key, cost in theirs.items()
        }


def test_the_same_seed_twice_gives_the_same_metrics(folder: Path, finished: Path) -> None:
    again = run(folder, "again")

    assert metrics_of(again) == metrics_of(finished)
    assert order_digest(read_schedule(again)) == order_digest(read_schedule(finished))


def test_two_seeds_differ(finished: Path) -> None:
    first, second = (
        [record["tuning/loss"] for record in metrics_of(finished)
         if record["seed"] == seed and record["policy"] == "ppo" and "tuning/loss" in record]
        for seed in (0, 1)
    )  # fmt: skip

    assert len(first) == len(second) == 3
    assert first != second


def test_the_sealed_test_is_read_once_by_each_arm(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    evaluate = CausalLmLearner.evaluate

    def counted(self: CausalLmLearner, items: Any) -> Any:
        seen.append(len(items))
        return evaluate(self, items)

    monkeypatch.setattr(CausalLmLearner, "evaluate", counted)
    run(folder, "run", "seeds=[0]")

    assert seen.count(8) == 6  # test rows; six policies
    assert set(seen) == {6, 8}


def test_a_stopped_run_resumes_to_the_same_result(
    folder: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def stopped(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return run_arm(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run_arm", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(folder, "stopped")
    assert len(arms_of(folder / "stopped")) == 8
    assert "interrupted" in (folder / "stopped" / "report.html").read_text()
    with (folder / "stopped" / "metrics.jsonl").open("a") as stream:
        stream.write('{"policy": "full", "se')

    run(folder, "stopped")

    assert metrics_of(folder / "stopped") == metrics_of(finished)
    assert {k: v.test_loss for k, v in arms_of(folder / "stopped").items()} == {
        k: v.test_loss for k, v in arms_of(finished).items()
    }


def test_another_experiment_does_not_resume_a_run(folder: Path, finished: Path) -> None:
    with pytest.raises(RunError, match="another experiment file"):
        run(folder, "run", "seeds=[5]")


def test_a_folder_of_something_else_is_not_written_to(folder: Path) -> None:
    with pytest.raises(RunError, match="not empty and not a run directory"):
        experiment.run(config_of(folder), folder, Silent())


def test_a_file_is_no_run_directory(folder: Path) -> None:
    with pytest.raises(RunError, match=r"left.jsonl: cannot be made a run directory \(File exists"):
        run(folder, "left.jsonl")


def test_the_report_can_be_rebuilt_from_the_directory_alone(folder: Path, finished: Path) -> None:
    before = (finished / "report.html").read_text()
    (finished / "report.html").unlink()
    for name in ("left.jsonl", "right.jsonl"):
        (folder / name).unlink()

    experiment.rebuild_report(finished)

    assert (finished / "report.html").read_text() == before


@pytest.mark.parametrize("name", ["config.yaml", "results.json"])
def test_a_folder_without_a_run_is_named(finished: Path, name: str) -> None:
    (finished / name).unlink()

    with pytest.raises(RunError, match=name):
        experiment.rebuild_report(finished)


def test_a_budget_in_tokens_ends_with_the_step_that_crosses_it(folder: Path) -> None:
    directory = run(folder, "run", "seeds=[0]", "environment.budget={tokens: 200}")
    arms = arms_of(directory)

    for policy in ("random", "longest", "ppo"):
        records = [
            record["tuning/tokens"]
            for record in metrics_of(directory)
            if record["policy"] == policy and "tuning/tokens" in record
        ]
        assert records[-2] < 200 <= records[-1] == arms[policy, 0].tokens


def test_a_token_budget_beyond_the_pool_is_the_users_mistake(folder: Path) -> None:
    with pytest.raises(DataError, match=r"random never repeats a candidate.*lower the budget"):
        run(folder, "run", "environment.budget={tokens: 1000000}")


def test_a_step_budget_beyond_the_rows_that_were_read_is_found_before_any_training(
    folder: Path,
) -> None:
    overrides = ("data.pool=[{source: right}]", "pools={}", "environment.budget.steps=11")

    with pytest.raises(DataError, match=r"environment.budget.steps: .*11 steps of 4 .* most 40"):
        run(folder, "run", *overrides)
    assert (folder / "run" / "metrics.jsonl").exists() is False


def test_a_row_longer_than_the_context_is_the_users_mistake(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"longer than the context of .*, 128 tokens"):
        run(folder, "run", "model.max_length=129")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_other_trainable_parts_run_from_start_to_end(folder: Path, kind: str) -> None:
    directory = run(folder, "run", "seeds=[0]", f"learner.trainable={{kind: {kind}}}")

    arms = arms_of(directory)
    assert arms["full", 0].test_loss < arms["base", 0].test_loss


def test_policies_that_look_at_nothing_need_no_features(folder: Path) -> None:
    directory = run(
        folder, "run", "pools={}", "policies=[{kind: base}, {kind: random}, {kind: longest}]"
    )

    assert arms_of(directory)["longest", 0].costs["features"].flops == 0
    assert not (folder / "cache" / "measurements").exists()


def test_wandb_mirrors_one_run_for_each_arm(folder: Path) -> None:
    directory = run(folder, "run", "seeds=[0]", "tracking.wandb={mode: offline}")

    assert len(list((directory / "tracking").rglob("*.wandb"))) == 6


def test_two_processes_run_side_by_side(folder: Path) -> None:
    command = [sys.executable, "-m", "raise_mdit", "run", "small.yaml", "--set", "seeds=[0]"]
    processes = [
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]

    outputs = [process.communicate() for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = sorted((folder / "runs" / "small").iterdir())
    assert metrics_of(first) == metrics_of(second)
