"""Several targets and multiple choice in whole experiments, on a model with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from helpers.arm_results import opened
from helpers.small_experiment import SOURCES, small_experiment

from raise_mdit import experiment
from raise_mdit.arm_environments import ArmEnvironments
from raise_mdit.arms import run_arm, summary_of
from raise_mdit.config import ExperimentConfig
from raise_mdit.errors import DataError
from raise_mdit.experiment_file import load_experiment
from raise_mdit.ledger import Ledger
from raise_mdit.openings import Seal
from raise_mdit.preparation import Preparation, prepare
from raise_mdit.progress import Silent
from raise_mdit.recording import Recorder
from raise_mdit.results import ArmResult, arms_from_json
from raise_mdit.runs import MetricsFile
from raise_mdit.tracking import NullTracker

pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

YAML = small_experiment(
    """
    features: {semantic_size: 4, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 2}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 4, budget: {steps: 3}}
    reward: {balance: targets, control_episodes: 1}
    policies:
      - {kind: base}
      - {kind: random}
      - {kind: ppo, episodes: 2, episodes_per_update: 2}
      - {kind: ppo, name: pair, episodes: 2, episodes_per_update: 2, parallel_episodes: 2}
    """,
    sources=(*SOURCES, "{name: exam, kind: dataset, file: exam.jsonl, format: multiple_choice}"),
    pool={"left": 20},
    reward_validation={"right": 6, "exam": 6},
    test={"right": 6, "exam": 6},
    decontaminate=False,
)
LIKELIHOOD = "evaluation={task_metric: option_likelihood}"


@pytest.fixture
def folder(
    tmp_path: Path, furnish: Callable[[Path, str], Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("RAISE_MDIT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(1)
    with (tmp_path / "exam.jsonl").open("w") as lines:
        for _ in range(20):
            words = [f"w{i}" for i in rng.choice(100, 5, replace=False)]
            row = {"question": words[0], "options": words[1:], "answer": int(rng.integers(4))}
            lines.write(json.dumps(row) + "\n")
    return furnish(tmp_path, YAML)


def config_of(folder: Path, *overrides: str) -> ExperimentConfig:
    return load_experiment(folder / "small.yaml", overrides)


def prepared_from(folder: Path, *overrides: str) -> Preparation:
    return prepare(config_of(folder, *overrides), cache=folder / "cache", progress=Silent())


def arms_of(folder: Path) -> dict[str, ArmResult]:
    experiment.run(config_of(folder), folder / "run", Silent())
    text = (folder / "run" / "results.json").read_text()
    return {arm.policy: arm for arm in arms_from_json(text)}


def test_several_targets_are_learned_from_and_reported_apart(folder: Path) -> None:
    arms = arms_of(folder)

    assert all(list(opened(arm).target_losses) == ["right", "exam"] for arm in arms.values())
    base, ppo = (opened(arms[policy]).target_losses for policy in ("base", "ppo"))
    summaries = json.loads((folder / "run" / "results.json").read_text())["summaries"]
    ratio = (ppo["right"] / base["right"] + ppo["exam"] / base["exam"]) / 2
    assert summaries[2]["loss_ratio"]["mean"] == pytest.approx(ratio)
    assert "Loss on each target" in (folder / "run" / "report.html").read_text()
    assert len(arms["pair"].episode_returns) == 2
    notes = json.loads((folder / "run" / "preparation.json").read_text())["notes"]
    assert any("the targets right (6 items), exam (6 items) count alike" in n for n in notes)


def test_policies_learn_from_rewards_over_targets(folder: Path) -> None:
    prepared = prepared_from(folder)
    items = {
        source: [
            each.row
            for each in prepared.corpus.splits["reward_validation"]
            if each.example.source == source
        ]
        for source in ("right", "exam")
    }
    environments = ArmEnvironments(prepared, prepared.config.policies[2], Ledger())
    env = environments.alone(reward_every=1)
    learner = prepared.tuning.policy_learner

    env.reset(seed=0)
    before = {source: learner.evaluate(rows).loss for source, rows in items.items()}
    _, reward, *_ = env.step(np.arange(4))

    shares = [learner.evaluate(rows).loss / before[source] for source, rows in items.items()]
    assert reward == pytest.approx(1 - sum(shares) / 2, abs=1e-6)


def test_the_likelihood_of_options_is_measured_and_tracked(folder: Path) -> None:
    prepared = prepared_from(folder, LIKELIHOOD, "data.test=[{source: exam, rows: 6}]")

    with closing(MetricsFile(folder / "metrics.jsonl")) as metrics:
        recorder = Recorder(metrics, NullTracker())
        base = run_arm(
            prepared,
            prepared.config.policies[0],
            0,
            recorder=recorder,
            progress=Silent(),
            directory=folder,
            seal=Seal(folder, prepared.test.items, by="run"),
        ).result

    assert prepared.test.options is not None
    losses = prepared.tuning.learner.evaluate(prepared.test.options.rows).item_losses
    assert base.metric == "option_likelihood"
    assert opened(base).metric == prepared.test.options.accuracy(losses)
    assert summary_of(base)["test/option_likelihood"] == opened(base).metric
    options = sum(row.num_tokens for row in prepared.test.options.rows)
    items = sum(row.num_tokens for row in prepared.test.items)
    assert base.costs["final_evaluation"].tokens == options + items


def test_a_test_with_other_sources_is_refused_before_anything_is_trained(folder: Path) -> None:
    with pytest.raises(DataError, match=r"data\.test: 6 of 12 examples have no options"):
        prepared_from(folder, LIKELIHOOD)
