"""When reward-validation is read for a policy, by what the policy does with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_experiment import small_experiment

from raise_mdit import arm_environments
from raise_mdit.arm_environments import ArmEnvironments
from raise_mdit.arms import run_arm
from raise_mdit.errors import DataError
from raise_mdit.experiment_file import load_experiment
from raise_mdit.learners.causal_lm import CausalLmLearner
from raise_mdit.ledger import Ledger
from raise_mdit.openings import Seal
from raise_mdit.pool_rankings import rank_pool
from raise_mdit.preparation import Preparation, prepare
from raise_mdit.progress import Silent
from raise_mdit.ranking_config import LessConfig
from raise_mdit.recording import Recorder
from raise_mdit.results import ArmResult
from raise_mdit.runs import MetricsFile
from raise_mdit.tracking import NullTracker

pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

STEPS, EVERY = 4, 3
UNTUNED = 1
"""Measurement of the untuned model, once for each environment, of learning or of the final."""
EACH = STEPS
"""Measurements of an episode each of whose steps is measured."""
RARE = 2
"""Where every third is: after the third step and after the last."""
END = 1
"""After the last alone."""
YAML = small_experiment(
    """
    features: {semantic_size: 4, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 2}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 2, budget: {steps: 4}}
    reward: {every: 3}
    policies:
      - {kind: base}
      - {kind: random}
      - {kind: ppo, episodes: 2, episodes_per_update: 2}
      - {kind: ppo, name: played, episodes: 2, episodes_per_update: 2, final: best}
      - kind: ppo
        name: from_gains
        episodes: 2
        episodes_per_update: 2
        prior: {ranking: {kind: influence, episodes: 3}}
      - {kind: raise, episodes: 2}
      - {kind: ucb}
      - {kind: exp3, episodes: 2}
      - {kind: influence, episodes: 2}
      - {kind: random_search, episodes: 3}
      - {kind: best_of, rankings: [{kind: longest}, {kind: shortest}]}
      - {kind: "own_online:Listening", name: own}
    """,
    reward_validation={"left": 6},
    test={"left": 8},
)
OWN = """
import numpy as np


class Listening:
    heard = []

    def __init__(self, *, num_picks, rng):
        self.num_picks = num_picks

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.arange(self.num_picks), None

    def learn(self, rows, improvement):
        self.heard.append(improvement)
"""


@dataclass(frozen=True)
class Runner:
    """Runs arms of the experiment in a folder."""

    folder: Path

    def prepare(self, *overrides: str, cache: str = "cache") -> Preparation:
        config = load_experiment(self.folder / "small.yaml", ("features.tier=model", *overrides))
        return prepare(config, cache=self.folder / cache, progress=Silent())

    def run(self, prepared: Preparation, label: str) -> ArmResult:
        (policy,) = (each for each in prepared.config.policies if each.label == label)
        with closing(MetricsFile(self.folder / "metrics.jsonl")) as metrics:
            return run_arm(
                prepared,
                policy,
                0,
                recorder=Recorder(metrics, NullTracker()),
                progress=Silent(),
                directory=self.folder,
                seal=Seal(self.folder, prepared.test.items, by="run"),
            ).result


@pytest.fixture
def runner(
    tmp_path: Path, furnish: Callable[[Path, str], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runner]:
    (tmp_path / "own_online.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield Runner(furnish(tmp_path, YAML))
    sys.modules.pop("own_online", None)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Items of each measurement."""
    sizes: list[int] = []
    evaluate = CausalLmLearner.evaluate

    def seen(self: CausalLmLearner, items: Sequence[Any]) -> Any:
        sizes.append(len(items))
        return evaluate(self, items)

    monkeypatch.setattr(CausalLmLearner, "evaluate", seen)
    return sizes


@pytest.mark.parametrize(
    ("label", "learning", "final"),
    [
        ("random", 0, EACH),
        ("ppo", UNTUNED + 2 * RARE, RARE),
        ("played", UNTUNED + 2 * RARE + UNTUNED + END, EACH),
        ("from_gains", UNTUNED + 3 * EACH + UNTUNED + 2 * RARE, RARE),
        ("raise", UNTUNED + 2 * RARE, RARE),
        ("ucb", 0, EACH),
        ("exp3", UNTUNED + 2 * EACH, EACH),
        ("influence", UNTUNED + 2 * EACH, EACH),
        ("random_search", UNTUNED + 3 * END, EACH),
        ("best_of", UNTUNED + 2 * END, EACH),
        ("own", 0, EACH),
    ],
)
def test_rewards_are_measured_where_somebody_learns_from_them(
    runner: Runner, measured: list[int], label: str, learning: int, final: int
) -> None:
    prepared = runner.prepare()
    num_items = len(prepared.reward_items)
    measured.clear()

    runner.run(prepared, label)

    assert measured.count(num_items) == learning + UNTUNED + final


@pytest.mark.parametrize(
    ("label", "pays"),
    [("played", False), ("random_search", False), ("best_of", False), ("ppo", True), ("own", True)],
)
def test_who_plays_a_schedule_does_not_pay_for_the_curve_that_is_drawn_of_it(
    runner: Runner, label: str, pays: bool
) -> None:
    costs = runner.run(runner.prepare(), label).costs

    assert (costs["monitoring"].flops == 0) == pays


@pytest.mark.parametrize("label", ["own", "ucb"])
def test_who_learns_step_by_step_hears_of_each_step_of_a_long_fine_tuning(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    monkeypatch.setattr(arm_environments, "CURVE_POINTS", 1)
    prepared = runner.prepare()

    losses = {each: runner.run(prepared, each).reward_validation_losses for each in (label, "base")}
    curve = runner.run(prepared, "random").reward_validation_losses

    assert len(set(losses[label])) == 1 + STEPS
    assert curve[1:STEPS] == (losses["base"][0],) * (STEPS - 1)  # known again at the end alone
    if label == "own":
        heard = sys.modules["own_online"].Listening.heard
        drops = -np.diff(losses[label]) / losses[label][0]
        assert heard == pytest.approx(drops, abs=1e-6)


def test_random_picks_to_compare_with_are_run_for_who_compares(runner: Runner) -> None:
    plain, compared = (runner.prepare(f"reward.control_episodes={episodes}") for episodes in (0, 2))

    for label in ("exp3", "influence", "random_search", "best_of"):
        costs = [runner.run(prepared, label).costs for prepared in (plain, compared)]
        assert costs[0]["policy_training"].flops == costs[1]["policy_training"].flops
    costs = [runner.run(prepared, "ppo").costs for prepared in (plain, compared)]
    assert costs[1]["policy_training"].tokens > 1.5 * costs[0]["policy_training"].tokens


def test_less_is_of_the_untuned_model_though_an_episode_came_before(runner: Runner) -> None:
    less = LessConfig(kind="less", warmup_steps=1, dimensions=64)
    expected = rank_pool(runner.prepare(), less, 0, progress=Silent()).ranks
    prepared = runner.prepare(cache="other cache")
    environments = ArmEnvironments(prepared, prepared.config.policies[2], Ledger())
    rng = np.random.default_rng(0)
    environments.random_gains(seeds=[0], rng=rng, advance=lambda total: None)

    found = rank_pool(prepared, less, 0, progress=Silent()).ranks

    assert found.tolist() == expected.tolist()


def test_episodes_that_never_reach_their_tokens_are_told(runner: Runner) -> None:
    short = (
        "policies=[{kind: base}, {kind: random}, {kind: ppo, episodes: 1, episodes_per_update: 1, "
        "window: pool, prior: {ranking: {kind: shortest}, strength: 100}}]"
    )
    prepared = runner.prepare(
        short, "environment.budget={tokens: 150}", "pools={mosaic: {max_instructions: 10}}"
    )

    with pytest.raises(
        DataError,
        match=r"^environment.budget.tokens: ppo picks candidates so short that \d steps, .* ended "
        "none of 150 tokens; give it more episodes, or a budget in steps$",
    ):
        runner.run(prepared, "ppo")
