"""A policy that one run has trained, at work in another: on other data, with another window."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.arm_results import opened
from helpers.small_experiment import run_small, small_experiment

from raise_mdit import experiment
from raise_mdit.agents.attribution import load_scorer, window_scores
from raise_mdit.agents.pool_scoring import score_pool
from raise_mdit.arm_environments import ArmEnvironments
from raise_mdit.config import ExperimentConfig
from raise_mdit.decisions import read_basis, read_features
from raise_mdit.errors import ConfigError, RunError
from raise_mdit.experiment_file import load_experiment, read_config, resolved_yaml
from raise_mdit.export import export_policy
from raise_mdit.features import CLUSTERED_COMPONENTS, build_features, in_basis
from raise_mdit.ledger import Ledger
from raise_mdit.policy_config import PpoConfig
from raise_mdit.policy_source import (
    embeddings_in_words,
    reward_examples,
    trained_policy,
    with_own_priors,
)
from raise_mdit.policy_transfer import PROBES, Transfer, check_transfers, transferred_table
from raise_mdit.preparation import Preparation, prepare
from raise_mdit.progress import Silent
from raise_mdit.results import ArmResult, arms_from_json

pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

YAML = small_experiment(
    """
    features: {semantic_size: 3, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 2}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 4, budget: {steps: 3}}
    policies:
      - {kind: base}
      - {kind: random}
      - {kind: ppo, episodes: 2, episodes_per_update: 1}
      - kind: ppo
        name: ranked
        episodes: 2
        episodes_per_update: 1
        prior: {ranking: {kind: longest}, strength: 20.0}
    """,
    reward_validation={"left": 4, "right": 2},
    test={"left": 8},
)
ELSEWHERE = (
    "data.pool.0.rows=12",
    "data.pool.1.rows=25",
    "data.seed=1",
    "environment.window=9",
    "environment.batch_size=3",
    "environment.budget.steps=2",
    "features.semantic_size=5",
    "seeds=[7]",
)


@pytest.fixture(scope="module", autouse=True)
def folder(furnish_once: Callable[[str], Path]) -> Path:
    return furnish_once(YAML)


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """A finished run that trained two policies."""
    return run_small(folder, "source")


def elsewhere(folder: Path, *entries: str, overrides: tuple[str, ...] = ()) -> ExperimentConfig:
    """An experiment on another pool whose only scorers come from the source."""
    policies = ", ".join(("{kind: base}", "{kind: random}", *entries))
    wanted = (*ELSEWHERE, f"policies=[{policies}]", *overrides)
    return load_experiment(folder / "small.yaml", wanted)


class Noting(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.fixture(scope="module")
def moved(folder: Path, source: Path) -> tuple[Path, list[str]]:
    """A finished run with both policies on another pool, and what it told."""
    entries = (
        f"{{kind: ppo, name: moved, from: {source}, from_policy: ppo}}",
        f"{{kind: ppo, name: as_ranked, from: {source}, from_policy: ranked, window: 11}}",
    )
    listener = Noting()
    experiment.run(elsewhere(folder, *entries), folder / "moved", listener)
    return folder / "moved", listener.notes


@pytest.fixture(scope="module")
def arms(moved: tuple[Path, list[str]]) -> dict[tuple[str, int], ArmResult]:
    results = arms_from_json((moved[0] / "results.json").read_text())
    return {(arm.policy, arm.seed): arm for arm in results}


def preparation_of(config: ExperimentConfig, folder: Path) -> Preparation:
    return prepare(config, cache=folder / "cache", progress=Silent())


def transfer_in(preparation: Preparation, *, features: Any = None) -> Transfer:
    """Of the first policy that comes from another run."""
    (policy,) = (each for each in preparation.config.policies if isinstance(each, PpoConfig))
    if features is None:
        features = transferred_table(preparation, policy).values
    environments = ArmEnvironments(preparation, policy, Ledger(), features=features)
    return Transfer(environments, policy, seed=0)


def test_it_is_exported_from_where_it_was_trained(moved: tuple[Path, list[str]]) -> None:
    with pytest.raises(
        RunError, match=r"--policy moved: it came trained, from .*source; export it"
    ):
        export_policy(moved[0], policy="moved", seed=7, to=None)


def test_it_picks_without_learning(arms: dict[tuple[str, int], ArmResult]) -> None:
    for label in ("moved", "as_ranked"):
        arm = arms[label, 7]
        assert arm.steps == 2
        assert np.isfinite(opened(arm).loss)
        assert arm.episode_returns == ()
        assert arm.costs["policy_training"].flops == 0
        assert arm.costs["proxy_check"].flops > 0
        assert arm.costs["reward_evaluation"].flops > 0


def test_it_is_compared_with_training_here_before_it_is_used(
    moved: tuple[Path, list[str]],
) -> None:
    directory, told = moved
    written = json.loads((directory / "preparation.json").read_text())["notes"]
    who = [f"{label} s7" for label in ("moved", "as_ranked")]
    found = [note for note in told if note.startswith("Transferred policy ")]
    assert [note.split(" (of ")[0].removeprefix("Transferred policy ") for note in found] == who
    for note, offered in zip(found, (9, 11), strict=True):
        shown = rf" \(of \S+-s0; offered {offered} of \d+ candidates a step\): its scores"
        assert re.search(shown, note)  # there is no s7
    assert all(f"over {PROBES} short fine-tunings" in note for note in found)
    assert written[-len(found) :] == found


def test_the_experiment_is_written_as_it_was_asked_for(moved: tuple[Path, list[str]]) -> None:
    policy = read_config(moved[0]).policies[3]
    assert isinstance(policy, PpoConfig)
    assert policy.prior is None
    assert policy.from_policy == "ranked"
    assert "from: " in (moved[0] / "config.yaml").read_text()


def test_a_policy_that_began_as_a_ranking_is_shown_that_of_this_pool(
    folder: Path, source: Path
) -> None:
    entry = f"{{kind: ppo, from: {source}, from_policy: ranked}}"
    resolved = with_own_priors(elsewhere(folder, entry))
    policy = resolved.policies[2]
    assert isinstance(policy, PpoConfig)
    assert policy.prior is not None
    assert policy.prior.ranking.kind == "longest"
    assert policy.prior.strength == 20.0


def test_a_policy_that_learned_from_what_is_held_out_here_is_refused(
    folder: Path, source: Path
) -> None:
    """Splits are drawn by the seed of the data, so that of others may take the same rows."""
    entry = f"{{kind: ppo, from: {source}, from_policy: ppo}}"

    def drawn_by(seed: int) -> Preparation:
        return preparation_of(elsewhere(folder, entry, overrides=(f"data.seed={seed}",)), folder)

    def shared(preparation: Preparation) -> int:
        held_out = {each.example.id for each in preparation.corpus.splits["test"]}
        return len(held_out.intersection(reward_examples(source) or ()))

    own, other = drawn_by(0), drawn_by(3)
    assert shared(own) == 0
    assert shared(other) > 0
    check_transfers(own, progress=Silent())
    wanted = rf"policies\.ppo\.from: {shared(other)} of the 8 examples of data\.test are among"
    with pytest.raises(RunError, match=wanted):
        check_transfers(other, progress=Silent())


def test_of_a_run_that_does_not_say_what_it_learned_from_that_is_told(
    folder: Path, source: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(source, older)
    kept = json.loads((older / "preparation.json").read_text())
    del kept["reward_examples"]
    (older / "preparation.json").write_text(json.dumps(kept))
    config = elsewhere(folder, f"{{kind: ppo, from: {older}, from_policy: ppo}}")

    checked = check_transfers(preparation_of(config, folder), progress=Silent())

    (told,) = (note for note in checked.notes if "an older version trained it" in note)
    assert told.startswith("policies.ppo.from: ")


def test_it_is_offered_the_whole_pool_if_it_was_trained_so(
    folder: Path, source: Path, tmp_path: Path
) -> None:
    trained = read_config(source)
    offered = trained.policies[2].model_copy(update={"window": "pool"})
    whole = tmp_path / "whole"
    shutil.copytree(source, whole)
    changed = trained.model_copy(update={"policies": (*trained.policies[:2], offered)})
    (whole / "config.yaml").write_text(resolved_yaml(changed))

    entries = (
        f"{{kind: ppo, name: as_trained, from: {whole}}}",
        f"{{kind: ppo, name: as_asked, from: {whole}, window: 11}}",
        f"{{kind: ppo, name: as_others, from: {source}, from_policy: ppo}}",
    )
    resolved = with_own_priors(elsewhere(folder, *entries)).policies[2:]
    windows = [policy.window for policy in resolved if isinstance(policy, PpoConfig)]
    assert windows == ["pool", 11, None]


def test_on_its_own_pool_it_scores_as_it_did(folder: Path, source: Path) -> None:
    config = load_experiment(
        folder / "small.yaml",
        [f"policies=[{{kind: base}}, {{kind: random}}, {{kind: ppo, from: {source}, "
         "from_policy: ppo}]"],
    )  # fmt: skip
    preparation = preparation_of(config, folder)
    table = read_features(source / "features.safetensors")
    transfer = transfer_in(preparation)
    features = transfer.environments.pool.features
    context = np.array([1, 0, 0, 0, 0, 0, 0], np.float32)
    zeros = np.zeros(len(features), np.float32)

    scores = score_pool(
        transfer.scorer(transfer.environments.final()), features, selected=zeros, context=context
    )

    wanted = window_scores(
        load_scorer(source / "arms" / "ppo-s0" / "policy.safetensors"),
        candidates_WF=np.column_stack([table.values, zeros]),
        context_G=context,
        mask_W=np.ones(len(features), np.bool_),
    )
    np.testing.assert_allclose(features, table.values, atol=1e-4)
    np.testing.assert_allclose(scores, wanted, atol=1e-4)
    assert np.ptp(wanted) > 1e-3


def test_semantic_columns_lie_along_the_axes_of_the_source(folder: Path, source: Path) -> None:
    config = elsewhere(folder, f"{{kind: ppo, from: {source}, from_policy: ppo}}")
    preparation = preparation_of(config, folder)
    (policy,) = (each for each in preparation.config.policies if isinstance(each, PpoConfig))
    basis, _ = read_basis(source / "basis.safetensors")

    table = transferred_table(preparation, policy)

    assert table.names == read_features(source / "features.safetensors").names
    assert sum(name.startswith("semantic_") for name in preparation.table.names) == 5
    assert preparation.knowledge.features is not None
    embeddings = preparation.candidate_embeddings(preparation.knowledge.features.embeddings)
    along = (embeddings.astype(np.float64) - basis.mean) @ basis.components.T.astype(np.float64)
    wanted = (along - along.mean(axis=0)) / along.std(axis=0)
    columns = [i for i, name in enumerate(table.names) if name.startswith("semantic_")]
    np.testing.assert_allclose(table.values[:, columns], np.clip(wanted, -5, 5), atol=1e-4)
    rest = [i for i, name in enumerate(preparation.table.names) if "semantic_" not in name]
    others = [i for i in range(len(table.names)) if i not in columns]
    np.testing.assert_array_equal(table.values[:, others], preparation.table.values[:, rest])


def test_the_check_tells_a_policy_that_knows_from_one_that_is_wrong(
    folder: Path, source: Path
) -> None:
    """The oracle is a feature that holds what one step on each candidate gains."""
    entry = f"{{kind: ppo, from: {source}, from_policy: ppo}}"
    few = ("data.pool.0.rows=8", "data.pool.1.rows=10")
    config = elsewhere(folder, entry, overrides=few)
    preparation = preparation_of(config, folder)
    transfer = transfer_in(preparation)
    preparation.tuning.start_over()
    learner, items = preparation.tuning.learner, preparation.reward_items
    before = learner.evaluate(items).loss
    gains = []
    for row in preparation.training.rows:
        learner.update([row], progress=0.0)
        gains.append(before - learner.evaluate(items).loss)
        learner.restore(preparation.tuning.base)
    known = np.argsort(np.argsort(gains)).astype(np.float32) / len(gains)

    agreements = []
    for sign in (1.0, -1.0):
        scorer = load_scorer(source / "arms" / "ppo-s0" / "policy.safetensors")
        with torch.no_grad():
            for weights in scorer.parameters():
                weights.zero_()
            scorer.linear.weight[0, 0] = sign
        features = transfer.environments.pool.features.copy()
        features[:, 0] = known
        environments = replace(transfer.environments, features=features)
        knowing = Transfer(environments, transfer.policy, seed=0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("raise_mdit.policy_transfer.load_scorer", lambda path, it=scorer: it)
            agreements.append(knowing.check())

    right, wrong = agreements
    assert right.correlation.mean > 0.5
    assert right.correlation.is_above_zero
    assert "its scores rank candidates as training here does (rank" in right.sentence
    assert wrong.correlation.mean < -0.5
    assert "are not shown to rank candidates as training here does" in wrong.sentence
    assert np.all(np.diff(right.scores_P) >= 0)
    assert right.cost.flops == wrong.cost.flops > 0


def test_a_seed_that_was_not_trained_takes_the_first_that_was(folder: Path, source: Path) -> None:
    config = elsewhere(folder, f"{{kind: ppo, from: {source}, from_policy: ppo}}")
    policy = config.policies[2]
    assert isinstance(policy, PpoConfig)
    weights = source / "arms" / "ppo-s0" / "policy.safetensors"
    assert trained_policy(policy).weights(0) == weights
    assert trained_policy(policy).weights(7) == weights


@pytest.mark.parametrize(
    ("entry", "overrides", "message"),
    [
        ("", (), r"policies\.ppo\.from: .*source trained ppo, ranked; say which by `from_policy`"),
        (
            ", from_policy: rankd",
            (),
            r"from_policy: .* no 'rankd' of kind ppo, allowed: ppo, ranked\. Did you mean 'ranked'",
        ),
        (
            ", from_policy: ppo",
            ("features.tier=model",),
            r"policies\.ppo\.from: it was trained with `features\.tier: cheap`, and this",
        ),
    ],
)
def test_what_the_files_alone_tell_is_refused_at_once(
    entry: str, overrides: tuple[str, ...], message: str, folder: Path, source: Path
) -> None:
    config = elsewhere(folder, f"{{kind: ppo, from: {source}{entry}}}", overrides=overrides)
    with pytest.raises(ConfigError, match=message):
        with_own_priors(config)


def test_a_run_that_trained_no_such_policy_is_refused(
    folder: Path, moved: tuple[Path, list[str]]
) -> None:
    config = elsewhere(folder, f"{{kind: ppo, from: {moved[0]}}}")
    with pytest.raises(ConfigError, match=r"trained no policy of kind ppo; give another run"):
        with_own_priors(config)


def test_a_run_that_has_not_finished_the_policy_is_refused(
    folder: Path, source: Path, tmp_path: Path
) -> None:
    shutil.copy(source / "config.yaml", tmp_path)
    config = elsewhere(folder, f"{{kind: ppo, from: {tmp_path}, from_policy: ppo}}")
    with pytest.raises(RunError, match=r"policies\.ppo\.from: ppo has not finished in .*; resume"):
        with_own_priors(config)


@pytest.fixture(scope="module")
def other_model(folder: Path, random_llama: Callable[..., Any], tokenizer: Any) -> str:
    random_llama(seed=1).save_pretrained(folder / "other")
    tokenizer.save_pretrained(folder / "other")
    return f"model.name={folder / 'other'}"


def test_axes_of_another_model_are_refused(folder: Path, source: Path, other_model: str) -> None:
    entry = f"{{kind: ppo, from: {source}, from_policy: ppo}}"
    config = elsewhere(folder, entry, overrides=(other_model,))
    with pytest.raises(
        RunError,
        match=r"policies\.ppo\.from: its semantic components are of input embeddings of the model "
        r"\w+, which say nothing of .*; .* train it with `features\.semantic_size: 0`",
    ):
        preparation_of(config, folder)


def test_without_semantic_components_another_model_will_do_and_gradients_too(
    folder: Path, other_model: str
) -> None:
    blind = load_experiment(
        folder / "small.yaml",
        [
            "features.semantic_size=0",
            "features.tier=gradient",
            "policies=[{kind: base}, {kind: random}, "
            "{kind: ppo, episodes: 1, episodes_per_update: 1}]",
        ],
    )
    experiment.run(blind, folder / "blind", Silent())
    assert not (folder / "blind" / "basis.safetensors").exists()
    overrides = (other_model, "features.tier=gradient")
    config = elsewhere(folder, f"{{kind: ppo, from: {folder / 'blind'}}}", overrides=overrides)

    preparation = preparation_of(config, folder)
    checked = check_transfers(preparation, progress=Silent())

    names = transfer_in(checked).environments.pool.features.shape[1]
    assert names == len(read_features(folder / "blind" / "features.safetensors").names)
    assert set(checked.transfer_costs) == {("ppo", 7)}


def test_other_columns_are_refused(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparation = preparation_of(
        elsewhere(folder, f"{{kind: ppo, from: {source}, from_policy: ppo}}"), folder
    )
    (policy,) = (each for each in preparation.config.policies if isinstance(each, PpoConfig))
    table = preparation.table
    renamed = replace(preparation, table=table._replace(names=("chars", *table.names[1:])))
    with pytest.raises(RunError, match=r"missing here: prompt_tokens, only here: chars"):
        transferred_table(renamed, policy)


def test_no_axes_leave_no_semantic_columns(folder: Path, source: Path) -> None:
    preparation = preparation_of(
        elsewhere(folder, f"{{kind: ppo, from: {source}, from_policy: ppo}}"), folder
    )
    table = preparation.table_in(None)
    assert not [name for name in table.names if name.startswith("semantic_")]
    assert table.values.shape == (len(preparation.pool), len(table.names))


def test_embeddings_are_called_by_what_makes_them() -> None:
    from raise_mdit.config import FeaturesConfig

    words = {
        embeddings_in_words(features, digest)
        for digest in ("abc", "def")
        for features in (
            FeaturesConfig(),
            FeaturesConfig(tier="model"),
            FeaturesConfig(tier="model", auxiliary_model="one"),
            FeaturesConfig(sentence_encoder="two"),
        )
    }
    assert len(words) == 6  # two of them by the digest, which the others do not depend on
    assert embeddings_in_words(FeaturesConfig(tier="gradient"), "abc") in words


def test_large_pools_are_put_along_axes_block_by_block(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparation = preparation_of(
        elsewhere(folder, f"{{kind: ppo, from: {source}, from_policy: ppo}}"), folder
    )
    known = preparation.knowledge.features
    assert known is not None
    basis, _ = read_basis(source / "basis.safetensors")
    whole = preparation.table_in(basis).values
    rows = {each.example.id: row for row, each in enumerate(preparation.corpus.splits["pool"])}
    monkeypatch.setattr("raise_mdit.features.FITTED_ROWS", 34)

    tables = [
        build_features(preparation.pool, known, rows, semantic_size=size, num_clusters=2, seed=0)
        for size in (0, CLUSTERED_COMPONENTS)
    ]

    np.testing.assert_allclose(preparation.table_in(basis).values, whole, atol=1e-5)
    assert tables[0].basis is None
    assert not [name for name in tables[0].names if name.startswith("semantic_")]
    np.testing.assert_array_equal(tables[0].strata, tables[1].strata)
    fitted = tables[1].basis
    assert fitted is not None
    again = in_basis(tables[1], fitted, preparation.pool, known.embeddings, rows)
    assert again.names == tables[1].names
    np.testing.assert_allclose(again.values, tables[1].values, atol=1e-3)
