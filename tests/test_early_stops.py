"""Fine-tunings that end with the weights of their lowest loss, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.arm_results import arm, opened
from helpers.small_experiment import small_experiment

from raise_mdit import experiment
from raise_mdit.decisions import read_decisions
from raise_mdit.early_stops import early_stop_sentences
from raise_mdit.errors import RunError
from raise_mdit.experiment_file import load_experiment
from raise_mdit.export import export_schedule
from raise_mdit.ledger import MONITORING
from raise_mdit.progress import Silent
from raise_mdit.results import ArmResult, read_results, total
from raise_mdit.schedule import read_schedule
from raise_mdit.schedules.bundle import read_bundle
from raise_mdit.schedules.verification import verify

pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

STEPS = 8
YAML = small_experiment(
    """
    learner: {trainable: {kind: top_layers, layers: 2}, learning_rate: 2.0e-1}
    features: {semantic_size: 4, clusters: 2}
    environment: {window: 12, batch_size: 2, budget: {steps: 8}, early_stopping: true}
    policies:
      - {kind: base}
      - {kind: random}
      - {kind: shortest}
      - {kind: full}
      - {kind: random_search, episodes: 2}
      - {kind: best_of, rankings: [{kind: longest}, {kind: shortest}]}
      - {kind: ppo, episodes: 4, episodes_per_update: 2}
      - kind: ppo
        name: from_best
        window: pool
        episodes: 4
        episodes_per_update: 2
        final: best
        prior: {ranking: {kind: best_of, rankings: [{kind: longest}, {kind: shortest}]}}
    """,
    reward_validation={"left": 4},
    test={"right": 4},
)
TRAINED = ("random", "shortest", "full", "random_search", "best_of", "ppo", "from_best")
REPLAYED = ("random_search", "from_best")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, furnish: Callable[..., Path]) -> Path:
    """A finished run, with steps so large that they do harm."""
    return finished(furnish(tmp_path_factory.mktemp("early"), YAML))


def finished(folder: Path, *overrides: str, name: str = "run") -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RAISE_MDIT_CACHE", str(folder / "cache"))
        config = load_experiment(folder / "small.yaml", overrides)
        experiment.run(config, folder / name, Silent())
    return folder / name


@pytest.fixture(scope="module")
def arms(directory: Path) -> dict[str, ArmResult]:
    return {each.policy: each for each in read_results(directory / "results.json")}


def test_some_fine_tuning_went_back(arms: dict[str, ArmResult]) -> None:
    """Else these tests would show nothing."""
    assert any(arms[name].schedule_steps < arms[name].steps for name in TRAINED)
    assert any(arms[name].schedule_steps for name in REPLAYED)


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_in_the_end_is_the_lowest(arms: dict[str, ArmResult], name: str) -> None:
    losses = arms[name].reward_validation_losses

    assert losses[-1] == min(losses)
    if name not in REPLAYED:  # who plays again only what counts keeps each step
        assert (np.diff(losses) <= 0).all()


@pytest.mark.parametrize("name", TRAINED)
def test_the_schedule_ends_where_the_weights_are_from(
    directory: Path, arms: dict[str, ArmResult], name: str
) -> None:
    kept = arms[name].kept_steps
    assert kept is not None

    steps = [pick.step for pick in read_schedule(directory / "arms" / f"{name}-s0")]

    assert sorted(set(steps)) == list(range(kept))
    assert len(arms[name].picks) == kept
    assert arms[name].steps == (kept if name in REPLAYED else max(STEPS, arms[name].steps))


def test_a_budget_that_ends_there_gives_the_same_model(
    directory: Path, arms: dict[str, ArmResult]
) -> None:
    """The schedule of a ranking does not depend on its budget, nor does its learning rate here."""
    kept = arms["shortest"].kept_steps
    assert kept is not None
    assert 0 < kept < STEPS

    shorter = finished(
        directory.parent,
        f"environment.budget.steps={kept}",
        "environment.early_stopping=false",
        "policies=[{kind: base}, {kind: random}, {kind: shortest}]",
        name="shorter",
    )

    (twin,) = (each for each in read_results(shorter / "results.json") if each.kind == "shortest")
    assert opened(twin).item_losses == opened(arms["shortest"]).item_losses
    assert twin.reward_validation_losses[-1] == arms["shortest"].reward_validation_losses[-1]


def test_a_schedule_that_is_played_again_gives_the_return_that_it_was_chosen_for(
    arms: dict[str, ArmResult],
) -> None:
    for name in REPLAYED:
        losses, searched = arms[name].reward_validation_losses, arms[name]
        returns = [*searched.episode_returns, *(trial.episode_return for trial in searched.trials)]
        if searched.greedy_return is not None:
            returns.append(searched.greedy_return)

        assert 1 - losses[-1] / losses[0] == pytest.approx(max(returns), abs=1e-5)


def test_the_reading_that_tells_when_to_stop_is_charged(arms: dict[str, ArmResult]) -> None:
    """Of those that play a schedule again it only draws a curve."""
    costs = arms["shortest"].costs

    assert costs["reward_evaluation"].flops > 0
    assert costs[MONITORING].flops == 0
    assert arms["base"].costs["reward_evaluation"].flops == 0  # it has nothing to stop
    assert arms["from_best"].costs[MONITORING].flops > 0
    assert arms["shortest"].step_flops[-1] == pytest.approx(
        total(costs).flops - costs["final_evaluation"].flops
    )


def test_a_scorer_keeps_the_decisions_of_its_schedule(
    directory: Path, arms: dict[str, ArmResult]
) -> None:
    kept = arms["ppo"].kept_steps
    assert kept

    decisions = read_decisions(directory / "arms" / "ppo-s0" / "decisions.safetensors")

    assert len(decisions.picks) == kept


@pytest.mark.parametrize("name", ["shortest", "ppo"])
def test_a_bundle_holds_the_steps_that_count(
    directory: Path, arms: dict[str, ArmResult], tmp_path: Path, name: str
) -> None:
    export_schedule(directory, policy=name, seed=0, to=tmp_path / "out")

    assert verify(tmp_path / "out").faults == ()
    assert len(read_bundle(tmp_path / "out").steps) == arms[name].kept_steps


def test_where_no_step_helps_the_model_stays_as_it_was(directory: Path) -> None:
    """Its schedule is empty, and the run is told of to the end."""
    useless = finished(directory.parent, "learner.learning_rate=1.0e-30", name="useless")

    results = {each.policy: each for each in read_results(useless / "results.json")}
    for name in TRAINED:
        assert results[name].kept_steps == 0
        assert opened(results[name]).item_losses == opened(results["base"]).item_losses
        assert read_schedule(useless / "arms" / f"{name}-s0") == ()
        assert not (useless / "arms" / f"{name}-s0" / "decisions.safetensors").exists()
    assert "kept these steps: 0 of random" in (useless / "report.html").read_text()
    with pytest.raises(RunError, match="no policy of this run trained on anything"):
        export_schedule(useless, policy=None, seed=None, to=None)


# What is said of it.


def test_a_run_says_how_many_steps_count() -> None:
    given = [
        arm("base", 0, 1.0, steps=0, kept_steps=0),
        arm("shortest", 0, 1.0, steps=50, kept_steps=18),
        arm("shortest", 1, 1.0, steps=50, kept_steps=18),
        arm("random", 0, 1.0, steps=50, kept_steps=50),
        arm("random", 1, 1.0, steps=50, kept_steps=13),
    ]

    assert early_stop_sentences(given) == [
        "Early stopping on reward-validation kept these steps: 18 of shortest, 13 to 50 of random."
    ]


def test_nothing_is_said_where_nothing_stops_early() -> None:
    assert early_stop_sentences([arm("random", 0, 1.0, steps=50)]) == []
