"""A real experiment, tracked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.small_experiment import small_experiment
from helpers.tracked_runs import shown_rows
from helpers.wandb_server import StandIn

from raise_mdit import experiment
from raise_mdit.experiment_file import load_experiment
from raise_mdit.progress import Silent
from raise_mdit.results import arms_from_json
from raise_mdit.wandb_mirror.sync import sync

# peft reads an attribute that transformers is about to rename; SB3 advises on rollout sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

YAML = small_experiment(
    """
    features: {semantic_size: 4, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 1}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 4, budget: {steps: 3}}
    policies: [{kind: base}, {kind: random}, {kind: ppo, episodes: 2, episodes_per_update: 2}]
    tracking: {wandb: {mode: online, project: study}}
    """,
    name="tracked",
    reward_validation={"left": 6},
    test={"left": 8},
)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_experiment_is_mirrored_as_it_goes(
    jobs: int,
    server: StandIn,
    tmp_path: Path,
    furnish: Callable[[Path, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAISE_MDIT_CACHE", str(tmp_path / "cache"))
    config = load_experiment(furnish(tmp_path, YAML) / "small.yaml")
    directory = tmp_path / "run"

    experiment.run(config, directory, Silent(), jobs=jobs)

    results = arms_from_json((directory / "results.json").read_text())
    for result in results:
        served = server.served.named(f"{result.policy}/s0")
        assert result.test is not None
        assert served.summary["test/loss"] == result.test.loss
        picks = [row for row in shown_rows(served.rows) if any("picks/" in key for key in row)]
        assert len(picks) == result.steps
    assert "rollout/episode_return" in {
        key for row in server.served.named("ppo/s0").rows for key in row
    }
    assert sync(directory, progress=Silent()).num_sent == 0
