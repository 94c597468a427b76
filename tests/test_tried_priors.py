"""Where a policy that began as the best of several rankings goes on: with the one it began as."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.arm_results import arm, opened
from helpers.small_experiment import run_small, small_experiment

from raise_mdit import experiment
from raise_mdit.errors import RunError
from raise_mdit.experiment_file import load_experiment, read_config
from raise_mdit.export import export_policy
from raise_mdit.policy_config import PpoConfig
from raise_mdit.policy_source import prior_of_arm, trained_policy, with_own_priors
from raise_mdit.progress import Silent
from raise_mdit.ranking_config import LongestConfig, RankedSection, ShortestConfig
from raise_mdit.results import ArmResult, RankingTrial, read_result, read_results

YAML = small_experiment(
    """
    features: {semantic_size: 0, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 2}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 4, budget: {steps: 2}}
    policies:
      - {kind: base}
      - {kind: random}
      - kind: ppo
        name: tried
        episodes: 1
        episodes_per_update: 1
        prior: {ranking: {kind: best_of, rankings: [{kind: longest}, {kind: shortest}]}}
    """,
    reward_validation={"left": 4, "right": 2},
    test={"left": 8},
)


@pytest.fixture(scope="module", autouse=True)
def folder(furnish_once: Callable[[str], Path]) -> Path:
    return furnish_once(YAML)


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """A finished run with two seeds."""
    return run_small(folder, "source", "seeds=[0, 1]")


def section(source: Path) -> PpoConfig:
    (tried,) = (each for each in read_config(source).policies if isinstance(each, PpoConfig))
    return tried


def with_returns(source: Path, returns: dict[int, list[float]], to: Path) -> Path:
    """The same run with other returns of the trials, by seed."""
    shutil.copytree(source, to)
    for seed, (longest, shortest) in returns.items():
        file = to / "arms" / f"tried-s{seed}" / "result.json"
        content = json.loads(file.read_text())
        for trial, gained in zip(content["arms"][0]["trials"], (longest, shortest), strict=True):
            trial["episode_return"] = gained
        file.write_text(json.dumps(content))
    return to


def ranking_from(source: Path, folder: Path, seeds: str) -> RankedSection | None:
    """What a policy that comes from a run is shown elsewhere."""
    policies = f"policies=[{{kind: base}}, {{kind: random}}, {{kind: ppo, from: {source}}}]"
    config = with_own_priors(load_experiment(folder / "small.yaml", (policies, f"seeds={seeds}")))
    (policy,) = (each for each in config.policies if isinstance(each, PpoConfig))
    return policy.ranking


@pytest.mark.parametrize(
    ("returns", "chosen"),
    [
        ((0.1, 0.2), ShortestConfig),
        ((0.2, 0.1), LongestConfig),
        ((0.1, 0.1), LongestConfig),
    ],
)
def test_it_began_as_the_ranking_with_the_best_trial(
    source: Path, returns: tuple[float, ...], chosen: type[RankedSection]
) -> None:
    trials = tuple(map(RankingTrial, ("longest", "shortest"), returns))
    prior = prior_of_arm(section(source), arm("tried", 0, 1.0, trials=trials))

    assert prior is not None
    assert isinstance(prior.ranking, chosen)
    assert prior.strength == 2.0


def test_an_arm_that_does_not_say_what_it_began_as_is_refused(source: Path) -> None:
    with pytest.raises(RunError, match="tried s0: an older version ran it"):
        prior_of_arm(section(source), arm("tried", 0, 1.0, episode_returns=(0.1, 0.2)))


def test_elsewhere_it_is_shown_the_ranking_that_it_began_as(
    source: Path, folder: Path, tmp_path: Path
) -> None:
    changed = with_returns(source, {0: [0.1, 0.2], 1: [0.3, 0.4]}, tmp_path / "changed")

    assert ranking_from(changed, folder, "[0, 1]") == ShortestConfig(kind="shortest")


def test_seeds_that_began_as_different_rankings_are_each_shown_their_own(
    source: Path, folder: Path, tmp_path: Path
) -> None:
    """The same weights see lengths the other way round."""
    short, long = [0.1, 0.2], [0.4, 0.3]

    def arms_after(returns: dict[int, list[float]], name: str) -> list[ArmResult]:
        changed = with_returns(source, returns, tmp_path / f"{name}-source")
        policies = f"policies=[{{kind: base}}, {{kind: random}}, {{kind: ppo, from: {changed}}}]"
        config = load_experiment(folder / "small.yaml", (policies, "seeds=[0, 1]"))
        outcome = experiment.run(config, tmp_path / name, Silent())
        results = read_results(outcome.directory / "results.json")
        return [arm for arm in results if arm.policy == "ppo"]

    alike = arms_after({0: short, 1: short}, "alike")
    apart = arms_after({0: short, 1: long}, "apart")

    assert opened(apart[0]) == opened(alike[0])
    assert apart[1].tokens > alike[1].tokens


def test_its_export_says_what_it_began_as(source: Path, tmp_path: Path) -> None:
    exported = export_policy(source, policy="tried", seed=1, to=tmp_path / "policy")

    began = prior_of_arm(section(source), read_result(source / "arms" / "tried-s1"))
    taken = trained_policy(
        PpoConfig.model_validate({"kind": "ppo", "from": str(exported.directory)})
    )
    assert began is not None
    assert taken.policy.prior == began
    assert taken.policy.trials is None
