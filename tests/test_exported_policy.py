"""A trained policy that left its run: it picks what it picked there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.small_experiment import run_small, small_experiment

from raise_mdit import experiment
from raise_mdit.agents.attribution import pick_log_probs
from raise_mdit.config import ExperimentConfig
from raise_mdit.decisions import Decisions, read_basis, read_decisions, read_features
from raise_mdit.errors import ConfigError, DataError, RunError
from raise_mdit.experiment_file import load_experiment
from raise_mdit.export import export_policy, export_schedule
from raise_mdit.exported_policy import ExportedPolicy, read_policy
from raise_mdit.policy_config import PpoConfig
from raise_mdit.policy_source import reward_examples, trained_policy, with_own_priors
from raise_mdit.progress import Silent
from raise_mdit.results import arms_from_json
from raise_mdit.schedule import read_schedule
from raise_mdit.schedules.bundle import read_bundle

pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

YAML = small_experiment(
    """
    features: {semantic_size: 3, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 1}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 4, budget: {steps: 3}}
    policies:
      - {kind: base}
      - {kind: random}
      - kind: ppo
        episodes: 2
        episodes_per_update: 1
        prior: {ranking: {kind: longest}, strength: 2.0}
    """,
    reward_validation={"left": 4},
    test={"left": 4},
)
PICKS = 4


@pytest.fixture(scope="module", autouse=True)
def folder(furnish_once: Callable[[str], Path]) -> Path:
    return furnish_once(YAML)


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """A finished run that trained a policy which sees a ranking too."""
    return run_small(folder, "source")


@pytest.fixture(scope="module")
def exported(folder: Path, source: Path) -> Path:
    return export_policy(source, policy=None, seed=None, to=folder / "alone").directory


@pytest.fixture(scope="module")
def policy(exported: Path) -> ExportedPolicy:
    return read_policy(exported)


@pytest.fixture(scope="module")
def decisions(source: Path) -> Decisions:
    return read_decisions(source / "arms" / "ppo-s0" / "decisions.safetensors")


def shown(source: Path, decisions: Decisions, step: int) -> np.ndarray[tuple[int, int], np.dtype]:
    """The columns of the window's candidates at a step."""
    values = read_features(source / "features.safetensors").values
    return np.column_stack([values[decisions.windows[step]], decisions.extra[step]])


def test_it_picks_what_it_picked_in_its_run(
    source: Path, policy: ExportedPolicy, decisions: Decisions
) -> None:
    assert (decisions.windows >= 0).all()
    assert policy.columns[-1] == "prior"
    for step, picks in enumerate(decisions.picks):
        rows = policy.select(
            shown(source, decisions, step),
            PICKS,
            selected=decisions.selected[step],
            context=decisions.context[step],
        )
        assert rows.tolist() == picks.tolist()


def test_draws_have_the_probabilities_of_plackett_and_luce(
    source: Path, policy: ExportedPolicy, decisions: Decisions
) -> None:
    features = shown(source, decisions, 0)[:4]
    scores = policy.scores(features).astype(np.float64)
    draws = [tuple(policy.select(features, 2, seed=seed).tolist()) for seed in range(2000)]

    for pair in {(0, 1), (3, 2), (1, 0)}:
        expected = np.exp(pick_log_probs(scores, np.array(pair)).sum())
        error = np.sqrt(expected * (1 - expected) / len(draws))
        assert abs(draws.count(pair) / len(draws) - expected) < 4 * error


def test_the_same_seed_draws_the_same_rows(
    source: Path, policy: ExportedPolicy, decisions: Decisions
) -> None:
    features = shown(source, decisions, 0)

    one, again, other = (policy.select(features, PICKS, seed=seed) for seed in (1, 1, 2))

    assert one.tolist() == again.tolist()
    assert one.tolist() != other.tolist()
    assert len(set(one.tolist())) == PICKS


def test_a_row_that_was_picked_before_loses_what_the_ranking_takes_off(
    source: Path, policy: ExportedPolicy, decisions: Decisions
) -> None:
    """A policy that began as a ranking takes a candidate once."""
    features = shown(source, decisions, 0)
    best = policy.select(features, 1)[0]
    selected = np.eye(len(features))[best]

    assert policy.scores(features, selected=selected)[best] < policy.scores(features)[best] - 4
    assert policy.select(features, 1, selected=selected)[0] != best


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[:, 1:], r"features: shape .*the columns prompt_tokens, .*, prior"),
        (lambda table: np.full_like(table, np.nan), "features: some are not finite"),
        (lambda table: table[:2], "k: 4 picks of 2 rows"),
    ],
)
def test_features_that_it_cannot_see_are_refused(
    source: Path,
    policy: ExportedPolicy,
    decisions: Decisions,
    change: Callable[
        [np.ndarray[tuple[int, int], np.dtype]], np.ndarray[tuple[int, int], np.dtype]
    ],
    message: str,
) -> None:
    with pytest.raises(DataError, match=message):
        policy.select(change(shown(source, decisions, 0)), PICKS)


def test_scores_of_the_schedule_are_those_that_it_gave(
    source: Path, policy: ExportedPolicy, decisions: Decisions, tmp_path: Path
) -> None:
    bundle = read_bundle(export_schedule(source, policy="ppo", seed=0, to=tmp_path).directory)

    for row in bundle.rows:
        scores = policy.scores(
            shown(source, decisions, row.step),
            selected=decisions.selected[row.step],
            context=decisions.context[row.step],
        )
        slots = decisions.picks[row.step]
        assert row.score == pytest.approx(scores[slots[row.slot]], rel=1e-6)
        left = np.delete(scores.astype(np.float64), slots[: row.slot])
        expected = scores[slots[row.slot]] - np.log(np.exp(left).sum())
        assert row.log_probability == pytest.approx(expected, rel=1e-5)


def test_a_policy_without_scores_leaves_them_out(source: Path, tmp_path: Path) -> None:
    bundle = read_bundle(export_schedule(source, policy="random", seed=0, to=tmp_path).directory)

    assert {(row.score, row.log_probability) for row in bundle.rows} == {(None, None)}
    assert bundle.manifest["has_scores"] is False
    assert "`score` and `log_probability` are null" in (tmp_path / "README.md").read_text()


def config_from(folder: Path, place: Path, **settings: str) -> ExperimentConfig:
    """An experiment on another pool whose only scorer comes from a folder."""
    overrides = ["seeds=[7]", "data.seed=1", "policies=[{kind: base}, {kind: random}]"]
    config = load_experiment(folder / "small.yaml", overrides)
    moved = PpoConfig.model_validate({"kind": "ppo", "from": str(place), **settings})
    return config.model_copy(update={"policies": (*config.policies, moved)})


def test_from_the_folder_it_picks_what_it_picks_from_its_run(
    folder: Path, source: Path, exported: Path
) -> None:
    schedules = []
    for place in (source, exported):
        config = with_own_priors(config_from(folder, place))
        directory = folder / f"from-{place.name}"
        experiment.run(config_from(folder, place), directory, Silent())
        schedules.append([pick.id for pick in read_schedule(directory / "arms" / "ppo-s7")])
        arms = arms_from_json((directory / "results.json").read_text())
        assert config.policies[2].prior is not None  # type: ignore[union-attr]  # a PpoConfig
        assert arms[2].steps == 3

    assert schedules[0] == schedules[1]


def test_it_says_what_it_learned_from(source: Path, exported: Path) -> None:
    section = PpoConfig.model_validate({"kind": "ppo", "from": str(exported)})

    learned_from = reward_examples(source)
    assert learned_from
    assert trained_policy(section).reward_examples == frozenset(learned_from)


def test_it_knows_all_that_a_run_would_say_of_it(
    folder: Path, source: Path, exported: Path
) -> None:
    of_run, alone = (
        trained_policy(config_from(folder, place).policies[2])  # type: ignore[arg-type]  # likewise
        for place in (source, exported)
    )

    assert alone.policy == of_run.policy
    assert alone.columns == of_run.columns
    assert (alone.tier, alone.has_semantics) == (of_run.tier, of_run.has_semantics)
    assert alone.weights(0).read_bytes() == of_run.weights(0).read_bytes()
    assert alone.basis()[1] == read_basis(source / "basis.safetensors")[1]


def test_another_name_than_its_own_is_refused(folder: Path, exported: Path) -> None:
    wanted = config_from(folder, exported, from_policy="best").policies[2]

    with pytest.raises(ConfigError, match="holds no 'best' but ppo; remove it"):
        trained_policy(wanted)  # type: ignore[arg-type]  # likewise


def test_the_folder_holds_no_pickle_and_nothing_of_the_data(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        "policy.json",
        "policy.safetensors",
        "basis.safetensors",
    }


@pytest.mark.parametrize("name", ["policy.safetensors", "basis.safetensors"])
def test_an_altered_file_is_named(source: Path, tmp_path: Path, name: str) -> None:
    made = export_policy(source, policy="ppo", seed=0, to=tmp_path / "alone").directory
    (made / name).write_bytes((made / name).read_bytes()[:-1] + b"x")

    with pytest.raises(RunError, match=rf"{name}: altered since it was written"):
        read_policy(made)


def test_another_stage_is_refused(source: Path, tmp_path: Path) -> None:
    made = export_policy(source, policy="ppo", seed=0, to=tmp_path / "alone").directory
    fields = json.loads((made / "policy.json").read_text())
    (made / "policy.json").write_text(json.dumps({**fields, "context": ["moon"]}))

    with pytest.raises(RunError, match="trained on the stage moon"):
        read_policy(made)


def test_the_folder_of_another_policy_is_not_written_over(source: Path, tmp_path: Path) -> None:
    export_policy(source, policy="ppo", seed=0, to=tmp_path / "alone")
    again = export_policy(str(source), policy="ppo", seed=0, to=str(tmp_path / "alone"))
    read_policy(str(again.directory))
    fields = json.loads((tmp_path / "alone" / "policy.json").read_text())
    wanted = "name another directory, or remove that one"
    for changes, before, asked in (
        ({"seed": 5}, "ppo s5 of experiment 'small'", "ppo s0 of experiment 'small'"),
        (
            {"files": {**fields["files"], "policy.safetensors": "0"}},
            "ppo s0 of experiment 'small'",
            "the same of another run",
        ),
    ):
        (tmp_path / "alone" / "policy.json").write_text(json.dumps({**fields, **changes}))
        with pytest.raises(RunError) as caught:
            export_policy(source, policy="ppo", seed=0, to=tmp_path / "alone")
        assert f"holds the policy of {before}, and {asked} is to be" in str(caught.value)
        assert wanted in str(caught.value)


def test_a_policy_without_weights_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--policy random: a policy of kind random has no weights"):
        export_policy(source, policy="random", seed=0, to=tmp_path / "alone")
