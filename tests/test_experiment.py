"""Whole experiments on a small model with random weights and a few rows of data."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from gymnasium.spaces import Dict
from helpers.arm_results import opened
from helpers.metric_records import timeless_records
from helpers.small_experiment import small_experiment
from numpy.typing import NDArray
from transformers import LlamaForCausalLM

from raise_mdit import cli, experiment
from raise_mdit.arm_environments import ArmEnvironments
from raise_mdit.arms import run_arm
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import KINDS, Cost
from raise_mdit.errors import DataError, ModelError, RunError
from raise_mdit.experiment_file import load_experiment, read_config
from raise_mdit.learners.alignment import GradientAlignment
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.forward import LayeredForward
from raise_mdit.learners.stacked import StackedCausalLmLearners
from raise_mdit.ledger import Ledger
from raise_mdit.openings import Seal
from raise_mdit.policy_config import PpoConfig
from raise_mdit.pool_rankings import rank_pool
from raise_mdit.preparation import Preparation, prepare
from raise_mdit.progress import Silent
from raise_mdit.ranking_config import NearestToTargetConfig, RankedSection
from raise_mdit.recording import Recorder
from raise_mdit.results import ArmResult, arms_from_json
from raise_mdit.run_lock import alone_in
from raise_mdit.runs import MetricsFile
from raise_mdit.schedule import order_digest, read_schedule
from raise_mdit.tracking import NullTracker

# peft reads an attribute that transformers is about to rename; SB3 advises on rollout sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

YAML = small_experiment(
    """
    pools:
      mosaic: {max_instructions: 3}
      mdit: {tasks: source, ratio: 0.5, clusters: 2}
    features: {semantic_size: 4, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 2}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 4, budget: {steps: 3}}
    policies:
      - {kind: base}
      - {kind: random}
      - {kind: full}
      - {kind: longest}
      - {kind: nearest_to_target}
      - {kind: ppo, episodes: 4, episodes_per_update: 2}
    evaluation: {task_metric: exact_match}
    """,
    seeds=(0, 1),
    reward_validation={"left": 6},
    model_selection={"left": 4},
    test={"left": 8},
)

PPO = "{kind: ppo, episodes: 4, episodes_per_update: 2}"
PAIR = "{kind: ppo, name: pair, episodes: 4, episodes_per_update: 2, parallel_episodes: 2}"
FEW = "policies=[{kind: base}, {kind: random}]"
LEARNED = f"policies=[{{kind: base}}, {{kind: random}}, {PPO}]"
SHORTCUTS = (
    "reward={every: 2, items: 4, control_episodes: 2}",
    "proxy_learner={trainable: {kind: top_layers, layers: 1}, learning_rate: 1.0e-2}",
    f"policies=[{{kind: base}}, {{kind: random}}, {PPO}, {PAIR}]",
)
"""Everything that makes learning cheaper, in one run."""

PURPOSES = {
    "synthesis",
    "features",
    "proxy_check",
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
def folder(tmp_path: Path, furnish: Callable[[Path, str], Path]) -> Path:
    """A folder that has all that the experiment needs."""
    return furnish(tmp_path, YAML)


def config_of(folder: Path, *overrides: str) -> ExperimentConfig:
    return load_experiment(folder / "small.yaml", overrides)


def run(folder: Path, out: str, *overrides: str) -> Path:
    experiment.run(config_of(folder, *overrides), folder / out, Silent())
    return folder / out


def prepared_from(folder: Path, *overrides: str) -> Preparation:
    return prepare(config_of(folder, *overrides), cache=folder / "cache", progress=Silent())


def arm_of(prepared: Preparation, label: str, tmp_path: Path) -> ArmResult:
    """The result of one policy with seed 0."""
    (policy,) = (each for each in prepared.config.policies if each.label == label)
    with closing(MetricsFile(tmp_path / "metrics.jsonl")) as metrics:
        recorder = Recorder(metrics, NullTracker())
        return run_arm(
            prepared,
            policy,
            0,
            recorder=recorder,
            progress=Silent(),
            directory=tmp_path,
            seal=Seal(tmp_path, prepared.test.items, by="run"),
        ).result


def arms_of(directory: Path) -> dict[tuple[str, int], ArmResult]:
    arms = arms_from_json((directory / "results.json").read_text())
    return {(arm.policy, arm.seed): arm for arm in arms}


def flops_of(arm: ArmResult) -> dict[str, float]:
    return {purpose: cost.flops for purpose, cost in arm.costs.items()}


class Once(NamedTuple):
    """A run that was made for all tests of this file."""

    directory: Path
    told: list[str]
    """Stages and notes in order."""
    evaluated: list[int]
    """Items of each evaluation."""
    trunk_passes: list[int]
    """Rows of each pass through frozen layers."""


class Listener(Silent):
    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, stage: str, total: int | None) -> None:
        self.told.append(stage)

    def note(self, sentence: str) -> None:
        self.told.append(sentence)


def run_once(folder: Path, out: str, *overrides: str) -> Once:
    """A run with the folder's own cache, and what was seen of it."""
    listener = Listener()
    evaluated, trunk_passes = [], []
    evaluate, trunk = CausalLmLearner.evaluate, LayeredForward.trunk

    def seen_evaluate(self: CausalLmLearner, items: Any) -> Any:
        evaluated.append(len(items))
        return evaluate(self, items)

    def seen_trunk(self: LayeredForward, embeds: Any) -> Any:
        trunk_passes.append(len(embeds))
        return trunk(self, embeds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAISE_MDIT_CACHE", str(folder / "cache"))
        patch.setattr(CausalLmLearner, "evaluate", seen_evaluate)
        patch.setattr(LayeredForward, "trunk", seen_trunk)
        experiment.run(config_of(folder, *overrides), folder / out, listener)
    return Once(folder / out, listener.told, evaluated, trunk_passes)


@pytest.fixture(scope="module")
def finished_once(
    tmp_path_factory: pytest.TempPathFactory, furnish: Callable[[Path, str], Path]
) -> Once:
    return run_once(furnish(tmp_path_factory.mktemp("once"), YAML), "run")


@pytest.fixture(scope="module")
def repeated(finished_once: Once) -> Once:
    """The same once more, with the cache that the first has left."""
    return run_once(finished_once.directory.parent, "again")


@pytest.fixture(scope="module")
def shortened(
    tmp_path_factory: pytest.TempPathFactory, furnish: Callable[[Path, str], Path]
) -> Once:
    folder = furnish(tmp_path_factory.mktemp("shortened"), YAML)
    return run_once(folder, "run", *SHORTCUTS)


@pytest.fixture
def finished(finished_once: Once, folder: Path) -> Path:
    """A finished run that a test may damage."""
    return Path(shutil.copytree(finished_once.directory, folder / "run"))


def test_a_run_leaves_everything_it_promises(finished: Path) -> None:
    files = {path.name for path in finished.iterdir()}

    assert files == {
        ".lock",
        ".sealed_test.lock",
        "arms",
        "basis.safetensors",
        "config.yaml",
        "examples.jsonl",
        "features.safetensors",
        "ledger.json",
        "metrics.jsonl",
        "pool.parquet",
        "preparation.json",
        "report.html",
        "results.json",
        "schedule.jsonl",
        "schedule.manifest.json",
        "sealed_test.json",
        "versions.json",
    }
    assert (finished / "arms" / "ppo-s1" / "policy.safetensors").stat().st_size > 0


def test_each_arm_is_told_and_how_long_the_rest_takes_once_each_policy_was_seen(
    finished_once: Once,
) -> None:
    arms = list(arms_of(finished_once.directory))
    told = [line for line in finished_once.told if f" of {len(arms)} arms: " in line]

    assert [line.partition(", ")[0] for line in told] == [
        f"{number} of {len(arms)} arms: {policy} s{seed}"
        for number, (policy, seed) in enumerate(arms, start=1)
    ]
    half = len(arms) // 2  # the first seed
    assert [line.endswith(" to go") for line in told] == [
        half <= number < len(arms) for number in range(1, len(arms) + 1)
    ]


def test_every_policy_does_what_its_name_says(finished: Path) -> None:
    arms = arms_of(finished)

    assert arms["base", 0].steps == 0
    assert opened(arms["base", 0]).loss == opened(arms["base", 1]).loss
    assert arms["full", 0].steps == 10  # 40 originals in batches of 4
    assert {arms[p, 0].steps for p in ("random", "longest", "nearest_to_target", "ppo")} == {3}
    assert opened(arms["random", 0]).loss != opened(arms["random", 1]).loss
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


def test_costs_are_charged_to_whom_they_belong(finished: Path, folder: Path) -> None:
    selection = prepared_from(folder, FEW).model_selection
    costs = {policy: arm.costs for (policy, seed), arm in arms_of(finished).items() if seed == 0}

    assert set(costs["ppo"]) == PURPOSES
    assert costs["base"]["features"].flops == costs["base"]["final_training"].flops == 0
    assert costs["random"]["policy_training"].flops == 0
    assert costs["random"]["reward_evaluation"].flops == 0
    assert selection is not None
    assert costs["ppo"]["monitoring"].tokens == sum(item.num_tokens for item in selection.items)
    assert costs["random"]["monitoring"].tokens > costs["ppo"]["monitoring"].tokens
    assert costs["random"]["features"] == costs["ppo"]["features"]  # MDIT needs embeddings
    assert 0 < costs["ppo"]["features"].tokens < costs["nearest_to_target"]["features"].tokens
    assert costs["ppo"]["policy_training"].tokens > 3 * costs["ppo"]["final_training"].tokens
    arm = arms_of(finished)["ppo", 0]
    assert arm.costs["final_training"].tokens == arm.tokens


def test_costs_do_not_depend_on_which_arms_ran_before(folder: Path, finished: Path) -> None:
    alone = run(folder, "alone", "seeds=[1]", LEARNED)

    for policy in ("random", "ppo"):
        ours, theirs = (arms_of(each)[policy, 1] for each in (finished, alone))
        assert flops_of(ours) == flops_of(theirs)


def test_the_same_file_twice_gives_the_same_metrics_at_the_same_cost(
    finished_once: Once, repeated: Once
) -> None:
    first, again = finished_once.directory, repeated.directory

    assert timeless_records(again) == timeless_records(first)
    assert order_digest(read_schedule(again)) == order_digest(read_schedule(first))
    assert {arm: flops_of(result) for arm, result in arms_of(again).items()} == {
        arm: flops_of(result) for arm, result in arms_of(first).items()
    }


def test_the_second_run_of_a_file_computes_nothing_of_the_frozen_layers(
    finished_once: Once, repeated: Once
) -> None:
    assert sum(finished_once.trunk_passes) > 40
    assert repeated.trunk_passes == []


def test_each_update_of_a_policy_is_recorded(finished: Path) -> None:
    records = [
        record["train/n_updates"]
        for record in map(json.loads, (finished / "metrics.jsonl").read_text().splitlines())
        if (record["policy"], record["seed"]) == ("ppo", 0) and "train/n_updates" in record
    ]

    assert records == sorted(set(records))
    assert len(records) == 2  # of four episodes, two an update


def test_full_training_is_counted_by_hand(finished: Path, folder: Path) -> None:
    pool = prepared_from(folder, FEW).pool
    originals = pool.kinds == KINDS.index("original")
    tokens, scored = pool.num_tokens[originals], pool.num_response_tokens[originals]
    # Hidden size 32, MLP 64, four heads of which two have keys and values, vocabulary 107.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    adapters = 8 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))  # of rank 8
    products = 4 * tokens * (2 * layer + 3 * adapters) + 2 * scored * 107 * 32
    attention = 4 * (2 + 5) * 32 * tokens**2  # products of four layers, forward and backward

    found = json.loads((finished / "preparation.json").read_text())["full_training"]

    assert found["tokens"] == found["padded_tokens"] == 3 * tokens.sum()
    assert found["flops"] == 3 * 2 * (products + attention).sum()


def test_two_seeds_differ(finished: Path) -> None:
    first, second = (
        [record["tuning/loss"] for record in timeless_records(finished)
         if record["seed"] == seed and record["policy"] == "ppo" and "tuning/loss" in record]
        for seed in (0, 1)
    )  # fmt: skip

    assert len(first) == len(second) == 3
    assert first != second


def test_the_sealed_test_is_read_once_by_each_arm(finished_once: Once) -> None:
    assert finished_once.evaluated.count(8) == 12  # test rows; six policies, two seeds
    assert finished_once.evaluated.count(4) == 12  # model-selection rows
    assert set(finished_once.evaluated) == {4, 6, 8}


@pytest.mark.parametrize(
    ("uninterrupted", "overrides", "killed", "num_finished"),
    [("finished_once", (), "full", 8), ("shortened", SHORTCUTS, "pair", 7)],
)
def test_a_run_killed_within_an_arm_resumes_to_the_same_result(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    uninterrupted: str,
    overrides: tuple[str, ...],
    killed: str,
    num_finished: int,
) -> None:
    expected: Path = request.getfixturevalue(uninterrupted).directory
    written: list[Any] = []
    write = MetricsFile.write

    def dying(self: MetricsFile, record: Any) -> None:
        if (record["policy"], record["seed"]) == (killed, 1):
            written.append(record)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            run(folder, "stopped", *overrides)
    assert len(arms_of(folder / "stopped")) == num_finished
    assert "interrupted" in (folder / "stopped" / "report.html").read_text()
    with (folder / "stopped" / "metrics.jsonl").open("a") as stream:
        stream.write('{"policy": "full", "se')

    run(folder, "stopped", *overrides)

    assert timeless_records(folder / "stopped") == timeless_records(expected)
    assert {k: opened(v).loss for k, v in arms_of(folder / "stopped").items()} == {
        k: opened(v).loss for k, v in arms_of(expected).items()
    }


def test_another_experiment_does_not_resume_a_run(folder: Path, finished: Path) -> None:
    before = (finished / "config.yaml").read_text()

    with pytest.raises(RunError) as refused:
        run(
            folder,
            "run",
            "seeds=[0, 5]",
            "learner.learning_rate=0.5",
            "policies=[{kind: base}, {kind: random}, {kind: ppo, episodes: 8}]",
        )

    assert "learner.learning_rate differs (0.01 and 0.5)" in str(refused.value)
    assert "policies.ppo.episodes differs (4 and 8)" in str(refused.value)
    assert "seed 1 is missing; policy full is missing" in str(refused.value)
    assert "policy base" not in str(refused.value)
    assert (finished / "config.yaml").read_text() == before


def test_a_policy_is_added_to_a_run(folder: Path) -> None:
    """It gets what it gets in a run that has it from the beginning, and nothing else runs again."""
    whole = "policies=[{kind: longest}, {kind: base}, {kind: dsir}, {kind: random}]"
    expected = arms_of(run(folder, "whole", "seeds=[0]", whole))
    run(folder, "grown", "seeds=[0]", "policies=[{kind: base}, {kind: random}, {kind: longest}]")
    results = folder / "grown" / "arms" / "longest-s0" / "result.json"
    written = results.stat().st_mtime_ns

    grown = arms_of(run(folder, "grown", "seeds=[0]", whole))

    assert list(grown) == list(expected)
    assert {k: opened(v).loss for k, v in grown.items()} == {
        k: opened(v).loss for k, v in expected.items()
    }
    assert grown["dsir", 0].costs["features"].flops == expected["dsir", 0].costs["features"].flops
    assert results.stat().st_mtime_ns == written


def test_a_run_that_prepared_nothing_gives_way_to_a_mended_file(folder: Path) -> None:
    with pytest.raises(ModelError, match="longer than the context"):  # known when it is loaded
        run(folder, "mended", "model.max_length=129")

    run(folder, "mended", "seeds=[0]", "policies=[{kind: base}, {kind: random}]")

    assert len(arms_of(folder / "mended")) == 2


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


def test_two_processes_do_not_share_a_directory(folder: Path) -> None:
    """The second is refused before it writes; when the first has ended the directory is free."""
    directory = folder / "shared"
    directory.mkdir()
    with alone_in(directory), pytest.raises(RunError, match=r"shared: another process is at work"):
        run(folder, "shared")
    assert [each.name for each in directory.iterdir()] == [".lock"]

    run(folder, "shared", "seeds=[0]", "policies=[{kind: base}, {kind: random}]")

    with alone_in(directory), pytest.raises(RunError, match="another process is at work"):
        experiment.run(read_config(directory), directory, Silent())


def test_arms_that_are_missing_are_named(finished: Path) -> None:
    arms = arms_from_json((finished / "results.json").read_text())
    last = arms[-1]

    assert not any("Not finished" in note for note in experiment.notes_on(finished, arms, ()))
    first, *_ = experiment.notes_on(finished, arms[:-1], ())
    assert first == (
        f"Not finished: {last.policy} s{last.seed}; raise-mdit run {finished} goes on."
    )


@pytest.mark.parametrize("name", ["config.yaml", "results.json"])
def test_a_folder_without_a_run_is_named(finished: Path, name: str) -> None:
    (finished / name).unlink()

    with pytest.raises(RunError, match=name):
        experiment.rebuild_report(finished)


def test_a_budget_in_tokens_ends_with_the_step_that_crosses_it(folder: Path) -> None:
    directory = run(
        folder,
        "run",
        "seeds=[0]",
        "environment.budget={tokens: 200}",
        f"policies=[{{kind: base}}, {{kind: random}}, {{kind: longest}}, {PPO}]",
    )
    arms = arms_of(directory)

    for policy in ("random", "longest", "ppo"):
        records = [
            record["tuning/tokens"]
            for record in timeless_records(directory)
            if record["policy"] == policy and "tuning/tokens" in record
        ]
        assert records[-2] < 200 <= records[-1] == arms[policy, 0].tokens


def test_a_token_budget_beyond_the_pool_is_found_before_any_training(folder: Path) -> None:
    overrides = ("pools={}", FEW, "environment.batch_size=3")
    lengths = np.sort(prepared_from(folder, *overrides).pool.num_tokens)[::-1]
    budget = f"environment.budget={{tokens: {1 + lengths[:39].sum()}}}"  # of 40, in steps of 3

    with pytest.raises(
        DataError,
        match=r"random never repeats a candidate, and the pool's 40 for it are used up before "
        r".* tokens; lower the budget",
    ):
        run(folder, "run", *overrides, budget)

    assert not (folder / "run" / "metrics.jsonl").exists()


def test_a_token_budget_beyond_the_order_of_a_policy_is_found_when_it_is_spent(
    folder: Path,
) -> None:
    """Enough for the 39 longest, but the one that random picks leave is no shortest."""
    overrides = ("pools={}", FEW, "environment.batch_size=3", "seeds=[0]")
    lengths = np.sort(prepared_from(folder, *overrides).pool.num_tokens)[::-1]
    with pytest.raises(DataError, match="are used up after 13 steps and"):
        run(folder, "run", *overrides, f"environment.budget={{tokens: {lengths[:39].sum()}}}")


@pytest.mark.parametrize("kind", ["shortest", "longest"])
def test_a_ranking_repeats_as_often_as_it_says_on_a_budget_in_tokens(
    folder: Path, kind: str
) -> None:
    directory = run(
        folder,
        "run",
        "seeds=[0]",
        f"policies=[{{kind: base}}, {{kind: random}}, {{kind: {kind}, repeat: 2}}]",
        "environment.budget={tokens: 300}",
    )

    uses = Counter(pick.id for pick in read_schedule(directory) if pick.policy == kind)
    assert max(uses.values()) == 2


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
    policies = "policies=[{kind: base}, {kind: random}, {kind: full}]"
    directory = run(folder, "run", "seeds=[0]", f"learner.trainable={{kind: {kind}}}", policies)

    arms = arms_of(directory)
    assert opened(arms["full", 0]).loss < opened(arms["base", 0]).loss


def test_policies_that_look_at_nothing_need_no_features(folder: Path) -> None:
    policies = "policies=[{kind: base}, {kind: random}, {kind: longest}]"
    directory = run(folder, "run", "seeds=[0]", "pools={}", policies)

    assert arms_of(directory)["longest", 0].costs["features"].flops == 0
    assert not (folder / "cache" / "measurements").exists()


def test_the_cheap_tier_makes_features_and_mdit_candidates_without_a_pass_over_the_pool(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = LlamaForCausalLM.forward
    positions_read: list[int] = []

    def spied(self: LlamaForCausalLM, *args: Any, **kwargs: Any) -> Any:
        positions_read.append(kwargs["inputs_embeds"].shape[:2].numel())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", spied)

    prepared = prepared_from(folder, "policies=[{kind: base}, {kind: random}, {kind: ppo}]")

    features = prepared.training.features
    # A learner counts its work on two positions when it is built.
    assert sum(positions_read) < min(prepared.pool.num_tokens)
    assert features.shape == (len(prepared.pool), 2 + 4 + 4 + len(KINDS))
    assert np.all(features[:, :10].std(axis=0) > 0)
    assert np.all(np.isfinite(features))


def test_the_gradient_tier_starts_from_the_cheap_ones_features(folder: Path) -> None:
    cheap, gradient = (
        prepared_from(
            folder, "policies=[{kind: base}, {kind: random}, {kind: ppo}]", f"features.tier={tier}"
        )
        for tier in ("cheap", "gradient")
    )

    np.testing.assert_array_equal(gradient.training.features, cheap.training.features)


def test_features_of_the_auxiliary_model_are_its_own(
    folder: Path, random_llama: Callable[..., Any], tokenizer: Any
) -> None:
    random_llama(seed=5).save_pretrained(folder / "other")
    tokenizer.save_pretrained(folder / "other")
    overrides = ("policies=[{kind: base}, {kind: random}, {kind: ppo}]", "features.tier=model")

    tuned, alike, other = (
        prepared_from(folder, *overrides, f"features.auxiliary_model={name}")
        for name in ("null", folder / "model", folder / "other")
    )

    np.testing.assert_array_equal(alike.training.features, tuned.training.features)
    assert other.training.features.shape == tuned.training.features.shape
    assert np.all(other.training.features[:, 2:4].std(axis=0) > 0)
    assert not np.allclose(other.training.features[:, 2:4], tuned.training.features[:, 2:4])


@pytest.mark.parametrize("pools", ["{}", "{mdit: {tasks: source, ratio: 0.5, clusters: 2}}"])
@pytest.mark.parametrize("tier", ["cheap", "model"])
def test_features_cost_what_each_policy_would_need_alone(
    folder: Path, pools: str, tier: str
) -> None:
    overrides = (f"pools={pools}", f"features.tier={tier}")
    together = prepared_from(folder, *overrides)

    for policy in (each for each in together.config.policies if each.kind not in ("base", "full")):
        kinds = ", ".join(f"{{kind: {kind}}}" for kind in sorted({"base", "random", policy.kind}))
        alone = prepared_from(folder, *overrides, f"policies=[{kinds}]")

        known = [] if alone.knowledge.features is None else [alone.knowledge.features.cost]
        passes = alone.knowledge.passes
        if "reward_validation" in passes:
            known.append(passes["reward_validation"].cost)
            pool_is_read = tier == "model" and alone.knowledge.features is not None
            known += [] if pool_is_read else [passes["pool"].cost]
        assert together.knowledge.cost(policy).flops == sum(cost.flops for cost in known)


def ranks_of(prepared: Preparation, policy: RankedSection) -> NDArray[np.int64]:
    return rank_pool(prepared, policy, 0, progress=Silent()).ranks


def test_the_nearest_to_the_target_are_told_by_the_tuned_model_whatever_the_tier(
    folder: Path,
) -> None:
    overrides = ("pools={}",)

    cheap, model = (
        prepared_from(folder, *overrides, f"features.tier={tier}") for tier in ("cheap", "model")
    )

    ranks = [
        ranks_of(each, NearestToTargetConfig(kind="nearest_to_target")) for each in (cheap, model)
    ]
    np.testing.assert_array_equal(ranks[0], ranks[1])
    assert cheap.training.features.shape != model.training.features.shape


def test_wandb_mirrors_one_run_for_each_arm(folder: Path) -> None:
    directory = run(folder, "run", "seeds=[0]", "pools={}", FEW, "tracking.wandb={mode: offline}")

    assert len(list((directory / "tracking").rglob("*.wandb"))) == 2


class SideBySide(NamedTuple):
    """Two runs of the same experiment at the same time."""

    folder: Path
    there: Path
    """By the command line, in a process of its own."""
    here: Path


@pytest.fixture(scope="module")
def side_by_side(
    tmp_path_factory: pytest.TempPathFactory,
    furnish: Callable[[Path, str], Path],
    random_llama: Callable[..., Any],
    tokenizer: Any,
) -> SideBySide:
    folder = furnish(tmp_path_factory.mktemp("both"), YAML)
    random_llama(seed=5).save_pretrained(folder / "other")
    tokenizer.save_pretrained(folder / "other")
    settings = (
        "seeds=[0]",
        f"features={{tier: model, auxiliary_model: {folder}/other, semantic_size: 4, clusters: 2}}",
        LEARNED,
    )
    arguments = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "raise_mdit", "run", "small.yaml", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAISE_MDIT_CACHE", str(folder / "cache"))
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("Run directory")  # by now it is at work
            here = run(folder, "here", *settings)
            _, errors = process.communicate()
    assert process.returncode == 0, errors
    (there,) = (folder / "runs" / "small").iterdir()
    return SideBySide(folder, there, here)


def test_two_processes_run_side_by_side(side_by_side: SideBySide) -> None:
    assert timeless_records(side_by_side.there) == timeless_records(side_by_side.here)


def test_another_model_describes_the_pool_from_the_command_line(side_by_side: SideBySide) -> None:
    folder, there, _ = side_by_side

    described, learned = read_config(there), arms_of(there)["ppo", 0]

    assert described.features.auxiliary_model == f"{folder}/other"
    knowledge = prepare(described, cache=folder / "cache", progress=Silent()).knowledge
    assert knowledge.features is not None
    assert learned.costs["features"].flops == knowledge.features.cost.flops > 0


# --- What makes learning cheaper.


def test_shortcuts_are_told_before_the_first_arm_and_kept(shortened: Once) -> None:
    notes = json.loads((shortened.directory / "preparation.json").read_text())["notes"]
    agreement, noise = notes[-2:]

    assert agreement.startswith("Proxy learner: it ")
    assert noise.startswith("Rewards are measured on 4 of 6 items: under random picks")
    first_arm = next(i for i, told in enumerate(shortened.told) if told.startswith("base s0"))
    assert shortened.told[first_arm - 2 : first_arm] == [agreement, noise]


def test_every_evaluation_is_of_the_chosen_items_but_for_noise_and_test(shortened: Once) -> None:
    assert set(shortened.evaluated) == {4, 6, 8}
    assert shortened.evaluated.count(6) == 2  # before and after the episode that tells the noise
    assert shortened.evaluated.count(8) == 8  # four policies, two seeds


def test_rewards_are_charged_for_what_is_measured(shortened: Once, folder: Path) -> None:
    prepared = prepared_from(folder, *SHORTCUTS)
    tokens = sum(item.num_tokens for item in prepared.reward_items)
    assert prepared.model_selection is not None
    selection = sum(item.num_tokens for item in prepared.model_selection.items)
    # Each environment measures the base model once; of three steps, the second and the last.
    learning, control, final = 1 + 4 * 2, 1 + 2 * 2, 1 + 2

    for (policy, _), arm in arms_of(shortened.directory).items():
        if policy in ("ppo", "pair"):
            assert arm.costs["reward_evaluation"].tokens == tokens * (learning + control + final)
        if policy == "random":
            assert arm.costs["monitoring"].tokens == tokens * (1 + 3) + selection


def test_a_policy_fine_tunes_with_rewards_as_it_learned_from(shortened: Once) -> None:
    gains = defaultdict(list)
    for record in timeless_records(shortened.directory):
        if record["seed"] == 0 and "reward/gain" in record:
            gains[record["policy"]].append(record["reward/gain"])

    assert [gain != 0 for gain in gains["ppo"]] == [False, True, True]
    assert [gain != 0 for gain in gains["random"]] == [True, True, True]


def test_only_who_learns_pays_for_the_rehearsal(shortened: Once) -> None:
    costs = {policy: arm.costs for (policy, _), arm in arms_of(shortened.directory).items()}

    for purpose in ("proxy_check", "policy_training"):
        assert costs["ppo"][purpose].flops > 0
        assert costs["base"][purpose].flops == costs["random"][purpose].flops == 0
    assert costs["ppo"]["proxy_check"] == costs["pair"]["proxy_check"]
    spent = [costs[policy]["monitoring"] for policy in ("ppo", "pair")]
    assert len({(cost.tokens, cost.padded_tokens, cost.flops) for cost in spent}) == 1
    assert costs["ppo"]["monitoring"].flops > 0


def test_policies_that_do_not_learn_are_as_without_shortcuts(
    shortened: Once, finished_once: Once
) -> None:
    ours, theirs = (arms_of(once.directory) for once in (shortened, finished_once))

    for arm in (("base", 0), ("random", 0), ("random", 1)):
        # Stored states round with the rows that they were computed with.
        assert opened(ours[arm]).loss == pytest.approx(opened(theirs[arm]).loss, rel=1e-5)
        assert ours[arm].picks == theirs[arm].picks


def test_episodes_that_step_together_teach_as_many_lessons(shortened: Once) -> None:
    arms = arms_of(shortened.directory)

    for seed in (0, 1):
        pair, alone = arms["pair", seed], arms["ppo", seed]
        assert len(pair.episode_returns) == len(alone.episode_returns) == 4
        assert opened(pair).loss < opened(arms["base", seed]).loss
        assert opened(pair).loss == pytest.approx(opened(alone).loss, rel=0.05)
        mean_returns = [np.mean(arm.episode_returns) for arm in (pair, alone)]
        assert mean_returns[0] == pytest.approx(mean_returns[1], rel=0.5)


def test_a_policy_learns_at_the_expense_of_the_proxy_and_tunes_at_that_of_the_learner(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_from(folder, *SHORTCUTS)
    spent: defaultdict[CausalLmLearner, Cost] = defaultdict(Cost)
    update = CausalLmLearner.update

    def counted(self: CausalLmLearner, batch: Any, *, progress: float) -> Any:
        stats = update(self, batch, progress=progress)
        spent[self] = spent[self].plus(stats.cost)
        return stats

    monkeypatch.setattr(CausalLmLearner, "update", counted)

    costs = arm_of(prepared, "ppo", folder).costs

    tuning = prepared.tuning
    assert costs["policy_training"] == spent[tuning.policy_learner]
    assert costs["final_training"] == spent[tuning.learner]
    num_learned, num_control = 4 * 3 * 4, 2 * 3 * 4  # rows
    learned = costs["policy_training"].tokens / (num_learned + num_control)
    assert learned == pytest.approx(prepared.pool.num_tokens.mean(), rel=0.5)


def test_learners_that_step_together_are_charged_what_each_would_be_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_from(
        folder, "pools={}", f"policies=[{{kind: base}}, {{kind: random}}, {PAIR}]"
    )
    untuned = copy.deepcopy(prepared.pretrained.model)
    given: list[Any] = []
    update = StackedCausalLmLearners.update

    def seen(self: StackedCausalLmLearners, batches: Any, *, progress: Any) -> Any:
        given.append(batches)
        return update(self, batches, progress=progress)

    monkeypatch.setattr(StackedCausalLmLearners, "update", seen)

    charged = arm_of(prepared, "pair", folder).costs["policy_training"]

    expected = Cost()
    for index in (0, 1):
        alone = build_learner(
            copy.deepcopy(untuned), prepared.config.learner, precision=prepared.precision, seed=0
        )
        for batches in given:
            expected = expected.plus(alone.update(batches[index], progress=0.0).cost)
    assert len(given) == 4 * 3 / 2
    assert charged.tokens == expected.tokens
    assert charged.padded_tokens == expected.padded_tokens
    assert charged.flops == pytest.approx(expected.flops, rel=1e-12)


def test_fine_tunings_cut_off_by_tokens_leave_no_trace_in_the_next_seed(folder: Path) -> None:
    settings = (
        "pools={}",
        "environment.budget={tokens: 90}",
        f"policies=[{{kind: base}}, {{kind: random}}, {PAIR}]",
    )
    both, alone = (
        run(folder, f"run-{seeds}", *settings, f"seeds={seeds}") for seeds in ("[0, 1]", "[1]")
    )

    ours, theirs = (
        [record for record in timeless_records(each) if record["seed"] == 1]
        for each in (both, alone)
    )
    assert ours == theirs


# --- Gradient alignment.


def test_what_looks_at_gradients_pays_for_every_window_that_it_picks_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[int, Cost]] = []
    measure = GradientAlignment.measure

    def seen(self: GradientAlignment, candidates: Any, validation: Any) -> Any:
        products, cost = measure(self, candidates, validation)
        measured.append((len(candidates), cost))
        return products, cost

    monkeypatch.setattr(GradientAlignment, "measure", seen)
    prepared = prepared_from(
        folder,
        "features.tier=gradient",
        "reward.control_episodes=1",
        f"policies=[{{kind: base}}, {{kind: random}}, {{kind: gradient_alignment}}, {PPO}]",
    )
    by_policy = {policy.label: policy for policy in prepared.config.policies}
    # None of the control's; one of an episode that PPO's library begins when all are over.
    num_windows = {"random": 0, "gradient_alignment": 3, "ppo": 4 * 3 + 1 + 3}

    for label, windows in num_windows.items():
        measured.clear()
        arm = arm_of(prepared, label, folder)

        assert [size for size, _ in measured] == [12] * windows
        expected = prepared.knowledge.cost(by_policy[label])
        for _, cost in measured:
            expected = expected.plus(cost)
        assert arm.costs["features"].tokens == expected.tokens
        assert arm.costs["features"].flops == pytest.approx(expected.flops, rel=1e-12)
    assert all(cost.flops > 0 for _, cost in measured)


@pytest.mark.parametrize(("tier", "num_columns"), [("cheap", 0), ("gradient", 1)])
def test_the_gradient_tier_adds_one_column_to_what_a_policy_sees(
    folder: Path, tier: str, num_columns: int
) -> None:
    prepared = prepared_from(folder, LEARNED, f"features.tier={tier}")
    policy = prepared.config.policies[-1]
    assert isinstance(policy, PpoConfig)

    environments = ArmEnvironments(prepared, policy, Ledger())

    num_static = prepared.training.features.shape[1]
    for env in (environments.learning(control=None), environments.final()):
        space = env.observation_space
        assert isinstance(space, Dict)
        assert space["candidates"].shape == (12, num_static + num_columns)


# --- The command line.


PPO_LINE = "  - {kind: ppo, episodes: 4, episodes_per_update: 2}\n"
TOGETHER = "  - {kind: ppo, parallel_episodes: 2, episodes: 4, episodes_per_update: 2}\n"
TOP_LAYERS = "{kind: top_layers, layers: 2}"

# One mistake each: what is replaced in the file by what, the value (or section) that the fault is
# shown at, and the fault.
LEARNING_FAULTS: dict[str, tuple[dict[str, str], str, str]] = {
    "episodes": (
        {"episodes: 4": "episodes: 5"},
        "5, episodes_per_update",
        "policies.5.episodes: episodes 5 should be a multiple of episodes_per_update 2; write 4 or "
        "6 episodes",
    ),
    "minibatches": (
        {"episodes: 4": "minibatches: 4, episodes: 4"},
        "4, episodes: 4",
        "policies.5.minibatches: minibatches 4 should not exceed 3, half of the 6 steps of an "
        "update (2 episodes of 3)",
    ),
    "parallel episodes in whole parts": (
        {"episodes: 4": "parallel_episodes: 3, episodes: 4"},
        "3, episodes: 4",
        "policies.5.parallel_episodes: parallel_episodes 3 should divide episodes_per_update 2: "
        "1, 2",
    ),
    "parallel episodes without gradients": (
        {PPO_LINE: TOGETHER, "features: {": "features: {tier: gradient, "},
        "2, episodes: 4",
        "policies.5.parallel_episodes: fine-tunings that step together have no gradient alignment "
        "yet; write 1 here, or another features.tier",
    ),
    "parallel episodes share layers": (
        {PPO_LINE: TOGETHER, TOP_LAYERS: "{kind: full}"},
        "2, episodes: 4",
        "policies.5.parallel_episodes: fine-tunings can step together only if they share frozen "
        "layers (trainable kind `top_layers` or `lora`); write 1 here",
    ),
    "parallel episodes without dropout": (
        {PPO_LINE: TOGETHER, TOP_LAYERS: "{kind: lora, dropout: 0.1}"},
        "2, episodes: 4",
        "policies.5.parallel_episodes: fine-tunings can step together only if there is no dropout, "
        "which would be drawn differently (lora.dropout 0); write 1 here",
    ),
    "reward of nobody": (
        {PPO_LINE: "", "evaluation:": "reward: {every: 1}\nevaluation:"},
        "reward: {every",
        "reward: has no effect: no policy learns; add `- kind: ppo` or remove it (`--set "
        "reward=null`)",
    ),
    "proxy of nobody": (
        {PPO_LINE: "", "evaluation:": "proxy_learner: {weight_decay: 0.0}\nevaluation:"},
        "proxy_learner: {",
        "proxy_learner: has no effect: no policy learns; add `- kind: ppo` or remove it (`--set "
        "proxy_learner=null`)",
    ),
    "rewards beyond the episode": (
        {"evaluation:": "reward: {every: 4}\nevaluation:"},
        "4}\nevaluation",
        "reward.every: should not exceed the steps of an episode, got 4, allowed: up to 3",
    ),
    "more items than there are": (
        {"evaluation:": "reward: {items: 7}\nevaluation:"},
        "7}\nevaluation",
        "reward.items: should not exceed data.reward_validation, got 7, allowed: up to 6",
    ),
    "auxiliary model without its tier": (
        {"features: {": "features: {auxiliary_model: model, "},
        "model, semantic_size",
        "features.auxiliary_model: has no effect with tier `cheap`; write `tier: model` or remove "
        "it",
    ),
}


@pytest.mark.parametrize(
    ("changes", "shown_at", "fault"), LEARNING_FAULTS.values(), ids=LEARNING_FAULTS
)
def test_check_places_every_fault_of_learning_in_the_file(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    shown_at: str,
    fault: str,
) -> None:
    file = folder / "small.yaml"
    text = file.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    file.write_text(text)
    assert text.count(shown_at) == 1
    before = text[: text.index(shown_at)]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")

    monkeypatch.setattr(sys, "argv", ["raise-mdit", "check", str(file)])
    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 2
    found = [each for each in capsys.readouterr().err.splitlines() if each.startswith(str(file))]
    assert found == [f"{file}:{line}:{column}: {fault}"]
