"""Every kind of policy in whole experiments, on a small model with random weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from helpers.arm_results import opened
from helpers.small_experiment import small_experiment
from safetensors.torch import load_file

from raise_mdit import experiment
from raise_mdit.agents.influence import InfluencePolicy
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost
from raise_mdit.decisions import read_decisions, read_features
from raise_mdit.experiment_file import load_experiment, read_config
from raise_mdit.policy_config import BuiltInPolicyConfig
from raise_mdit.policy_section import PolicySection
from raise_mdit.pool import Pool
from raise_mdit.progress import Silent
from raise_mdit.results import ArmResult, arms_from_json
from raise_mdit.schedule import read_schedule

pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

STEPS, BATCH = 3, 4
YAML = small_experiment(
    """
    pools:
      mosaic: {passes: 3, max_instructions: 2}
      mdit: {tasks: source, ratio: 0.5, clusters: 2}
    features: {tier: model, semantic_size: 4, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 2}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 4, budget: {steps: 3}}
    policies:
      - {kind: base}
      - {kind: random}
      - {kind: mosaic_only}
      - {kind: mdit_only}
      - {kind: full, epochs: 2}
      - {kind: longest}
      - {kind: shortest}
      - {kind: perplexity, part: high}
      - {kind: ifd}
      - {kind: sspl}
      - {kind: k_center}
      - {kind: deita}
      - {kind: nearest_to_target}
      - {kind: nearest_to_target, name: twice, repeat: 2}
      - {kind: dsir, buckets: 64}
      - {kind: less, warmup_steps: 2, dimensions: 16}
      - {kind: in_turn, rankings: [{kind: longest}, {kind: shortest}]}
      - kind: best_of
        rankings: [{kind: longest}, {kind: shortest, repeat: 3}, {kind: dsir, buckets: 64}]
      - {kind: gradient_alignment}
      - {kind: greats}
      - {kind: random_search, episodes: 3}
      - {kind: exp3, episodes: 2}
      - {kind: ucb}
      - {kind: thompson}
      - {kind: influence, episodes: 1}
      - {kind: ppo, episodes: 4, episodes_per_update: 2}
      - kind: ppo
        name: from_target
        window: pool
        episodes: 4
        episodes_per_update: 2
        prior: {ranking: {kind: nearest_to_target}, strength: 20.0}
      - kind: ppo
        name: from_gains
        window: 16
        episodes: 2
        episodes_per_update: 2
        learning_rate: 1.0e-30
        prior: {ranking: {kind: influence, episodes: 3, ridge: 0.01}, strength: 3.0}
      - kind: ppo
        name: from_best
        window: pool
        episodes: 2
        episodes_per_update: 2
        final: best
        prior:
          ranking:
            kind: best_of
            rankings:
              - {kind: longest}
              - {kind: in_turn, rankings: [{kind: shortest}, {kind: nearest_to_target}]}
          strength: 20.0
      - {kind: influence, name: drawn, episodes: 1, final: sample}
      - {kind: influence, name: of_pool, window: pool, hint: {kind: nearest_to_target}}
      - kind: ppo
        name: from_hint
        episodes: 2
        episodes_per_update: 2
        prior: {ranking: {kind: influence, episodes: 1, hint: {kind: dsir, buckets: 64}}}
      - kind: ppo
        name: blind
        episodes: 2
        episodes_per_update: 1
        keep: last
        unseen: [stage, difficulty, semantic, availability]
      - {kind: a2c, episodes: 2, episodes_per_update: 1}
      - {kind: reinforce, episodes: 2, episodes_per_update: 1, final: sample}
      - {kind: raise, episodes: 2, classes: 2}
      - {kind: "own_policies:Told", name: told, episodes: 2, options: {shift: 1}}
      - {kind: "own_policies:Blind", name: own_blind}
    """,
    reward_validation={"left": 4, "right": 2},
    test={"left": 8},
)
OWN_POLICIES = """
import numpy as np

HEARD = []


class Told:
    def __init__(self, *, num_picks, rng, features, feature_names, groups, shift):
        assert features.shape == (len(groups), len(feature_names))
        self.num_picks, self.rng, self.shift = num_picks, rng, shift

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        slots = np.flatnonzero(observation["mask"])
        return slots[self.shift : self.shift + self.num_picks], state

    def learn(self, rows, gain):
        HEARD.append((rows.tolist(), gain))


class Blind:
    def __init__(self, num_picks, rng):
        self.num_picks, self.rng = num_picks, rng

    def predict(self, observation, state, episode_start, deterministic):
        return self.rng.permutation(len(observation["mask"]))[: self.num_picks], None
"""


@pytest.fixture(scope="module")
def asked_for_the_best() -> list[bool]:
    """Whether each pick of a regression was asked to be its best, in the order of all its arms."""
    return []


@pytest.fixture(scope="module")
def directory(
    tmp_path_factory: pytest.TempPathFactory,
    furnish: Callable[..., Path],
    asked_for_the_best: list[bool],
) -> Path:
    """A finished run of all kinds."""
    folder = furnish(tmp_path_factory.mktemp("policies"), YAML)
    (folder / "own_policies.py").write_text(OWN_POLICIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RAISE_MDIT_CACHE", str(folder / "cache"))
        patch.setattr(InfluencePolicy, "predict", listening(asked_for_the_best))
        experiment.run(config_in(folder), folder / "run", Silent())
    return folder / "run"


@pytest.fixture(scope="module")
def heard(directory: Path) -> Iterator[list[tuple[list[int], float]]]:
    """What the user's own policy was told, in the learning episodes and the final fine-tuning."""
    assert (directory / "results.json").is_file()
    yield sys.modules["own_policies"].HEARD
    del sys.modules["own_policies"]


@pytest.fixture(scope="module")
def config(directory: Path) -> ExperimentConfig:
    return read_config(directory)


@pytest.fixture(scope="module")
def arms(directory: Path) -> dict[str, ArmResult]:
    results = arms_from_json((directory / "results.json").read_text())
    return {arm.policy: arm for arm in results}


def config_in(folder: Path) -> ExperimentConfig:
    return load_experiment(folder / "small.yaml", ())


def listening(heard: list[bool]) -> Callable[..., Any]:
    """The regression's `predict`, which tells of each call whether it asks for the best picks."""
    predict: Callable[..., Any] = InfluencePolicy.predict

    def told(self: InfluencePolicy, *given: Any, deterministic: bool = False) -> Any:
        heard.append(deterministic)
        return predict(self, *given, deterministic=deterministic)

    return told


def picks_of(directory: Path, policy: str) -> list[list[str]]:
    """Candidates of each step, by id."""
    picks = read_schedule(directory / "arms" / f"{policy}-s0")
    steps = 1 + max(pick.step for pick in picks)
    return [[pick.id for pick in picks if pick.step == step] for step in range(steps)]


def kinds_in(directory: Path, policy: str) -> set[str]:
    return {pick.kind for pick in read_schedule(directory / "arms" / f"{policy}-s0")}


def test_every_kind_of_policy_is_in_this_run(config: ExperimentConfig) -> None:
    kinds = {get_args(each.model_fields["kind"].annotation)[0] for each in sections()}
    own = {"own_policies:Told", "own_policies:Blind"}
    assert {policy.kind for policy in config.policies} == kinds | own


def sections() -> tuple[type[PolicySection], ...]:
    return get_args(get_args(BuiltInPolicyConfig)[0])


def test_every_policy_spends_its_budget(
    config: ExperimentConfig, arms: dict[str, ArmResult]
) -> None:
    steps = {policy.label: STEPS for policy in config.policies}
    assert {label: arm.steps for label, arm in arms.items()} == steps | {
        "base": 0,
        "full": 2 * 40 // BATCH,
    }
    assert all(np.isfinite(opened(arm).loss) for arm in arms.values())


def test_policies_without_repetition_pick_every_candidate_once(
    config: ExperimentConfig, directory: Path
) -> None:
    for policy in config.policies:
        if policy.most_uses == 1:
            picked = [each for step in picks_of(directory, policy.label) for each in step]
            assert len(set(picked)) == len(picked) == STEPS * BATCH, policy.label


def test_a_ranking_that_may_be_used_twice_takes_half_as_many_candidates(directory: Path) -> None:
    once = [each for step in picks_of(directory, "nearest_to_target") for each in step]
    twice = [each for step in picks_of(directory, "twice") for each in step]
    assert set(twice) == set(once[: STEPS * BATCH // 2])
    assert all(twice.count(each) == 2 for each in twice)


def test_full_data_passes_over_every_original_in_each_epoch(directory: Path) -> None:
    picked = [each for step in picks_of(directory, "full") for each in step]
    assert kinds_in(directory, "full") == {"original"}
    assert len(set(picked[:40])) == len(set(picked[40:])) == 40
    assert picked[:40] != picked[40:]


@pytest.mark.parametrize("kind", ["mosaic", "mdit"])
def test_policies_of_one_kind_pick_that_kind(directory: Path, kind: str) -> None:
    assert kinds_in(directory, f"{kind}_only") == {kind}


def test_a_policy_that_begins_as_a_ranking_sees_it_as_normal_scores(
    directory: Path, config: ExperimentConfig
) -> None:
    """Among the offered, the one ranked first is the one whose prior is highest."""
    decisions = read_decisions(directory / "arms" / "from_target-s0" / "decisions.safetensors")
    ids = Pool.read(directory / "pool.parquet").ids
    ranked = [each for step in picks_of(directory, "nearest_to_target") for each in step]
    assert decisions.extra_names == ("prior",)
    for window, prior in zip(decisions.windows, decisions.extra[:, :, 0], strict=True):
        places = {
            ranked.index(ids[row]): prior[slot]
            for slot, row in enumerate(window)
            if ids[row] in ranked
        }
        assert places
        assert [places[place] for place in sorted(places)] == sorted(places.values(), reverse=True)


def test_a_policy_that_begins_as_a_regression_goes_on_with_its_weights(directory: Path) -> None:
    """It learned too slowly to move, so that its picks are still those of a linear score."""
    folder = directory / "arms" / "from_gains-s0"
    decisions, table = (
        read_decisions(folder / "decisions.safetensors"),
        read_features(directory / "features.safetensors"),
    )
    weights = load_file(folder / "policy.safetensors")["scorer.first_linear"][0].numpy()
    assert (table.values @ weights[:-1]).std() == pytest.approx(3.0, rel=1e-4)
    ids = Pool.read(directory / "pool.parquet").ids
    scores = table.values[decisions.windows[0]] @ weights[:-1]
    best = [ids[row] for row in decisions.windows[0][np.argsort(-scores)[:BATCH]]]
    assert picks_of(directory, "from_gains")[0] == best


def test_a_policy_learns_nothing_from_what_it_is_kept_from(directory: Path) -> None:
    """All but the kinds has weight zero; those moved."""
    weights = load_file(directory / "arms" / "blind-s0" / "policy.safetensors")
    names = [*read_features(directory / "features.safetensors").names, "times_picked"]
    linear = weights["scorer.linear.weight"][0].numpy()
    kinds = np.array([name.startswith("is_") for name in names])
    num_stage = weights["scorer.encoder.0.weight"].shape[1] - len(names)
    assert not linear[~kinds].any()
    assert linear[kinds].any()
    assert not weights["scorer.encoder.0.weight"][:, np.flatnonzero(~kinds)].any()
    assert not weights["scorer.encoder.0.weight"][:, -num_stage:].any()


def test_policies_have_windows_of_their_own(directory: Path, config: ExperimentConfig) -> None:
    widths = {
        label: read_decisions(
            directory / "arms" / f"{label}-s0" / "decisions.safetensors"
        ).windows.shape[1]
        for label in ("ppo", "from_gains", "from_target")
    }
    assert widths == {
        "ppo": 12,
        "from_gains": 16,
        "from_target": len(Pool.read(directory / "pool.parquet")),
    }


def test_a_regression_draws_in_the_end_where_it_is_told_to(
    arms: dict[str, ArmResult], asked_for_the_best: list[bool]
) -> None:
    """One seed, in the order of the file: priors and learning episodes draw, finals differ."""
    drawn, best = [False] * STEPS, [True] * STEPS
    assert asked_for_the_best == [
        *(drawn + best),  # influence, one episode
        *(3 * drawn),  # the prior of from_gains
        *(drawn + drawn),  # drawn, one episode
        *best,  # of_pool, without episodes
        *drawn,  # the prior of from_hint
    ]
    assert arms["drawn"].steps == STEPS


def test_random_search_plays_its_best_episode_again(
    directory: Path, arms: dict[str, ArmResult]
) -> None:
    """The learner is the same and no draw is left: the final return is the best one."""
    arm = arms["random_search"]
    assert gained(arm) == pytest.approx(max(arm.episode_returns), abs=1e-9)


def test_rankings_that_take_turns_give_each_its_first(directory: Path) -> None:
    longest, shortest, turns = (
        [each for step in picks_of(directory, policy) for each in step]
        for policy in ("longest", "shortest", "in_turn")
    )
    each = STEPS * BATCH // 2
    assert not {*longest[:each]} & {*shortest[:each]}  # a pool large enough for both
    assert turns[::2] == longest[:each]
    assert turns[1::2] == shortest[:each]


def gained(arm: ArmResult) -> float:
    """The share of the loss on reward-validation that the final fine-tuning took off."""
    before, *_, after = arm.reward_validation_losses
    return (before - after) / before


def test_the_ranking_that_does_best_is_followed(
    directory: Path, arms: dict[str, ArmResult]
) -> None:
    """What is tried is what those rankings do as policies, the one that draws included."""
    arm = arms["best_of"]
    longest, _, dsir = (trial.episode_return for trial in arm.trials)
    assert longest == pytest.approx(gained(arms["longest"]), abs=1e-9)
    assert dsir == pytest.approx(gained(arms["dsir"]), abs=1e-9)
    assert [trial.ranking for trial in arm.trials] == ["longest", "shortest", "dsir"]
    assert arm.best_trial is not None
    assert gained(arm) == pytest.approx(arm.best_trial.episode_return, abs=1e-9)
    assert arm.episode_returns == ()
    chosen = arm.trials.index(arm.best_trial)
    different = {each for step in picks_of(directory, "best_of") for each in step}
    assert len(different) == (BATCH if chosen == 1 else STEPS * BATCH)


def test_the_best_episode_is_played_again(arms: dict[str, ArmResult]) -> None:
    """Two rankings were tried, two episodes were learned from, and one has the highest scores."""
    arm = arms["from_best"]
    tried = [trial.episode_return for trial in arm.trials]
    assert (len(tried), len(arm.episode_returns)) == (2, 2)
    assert tried[0] == pytest.approx(gained(arms["longest"]), abs=1e-9)
    assert arm.trials[1].ranking == "shortest and nearest_to_target in turn"
    assert arm.greedy_return is not None
    best = max(*tried, *arm.episode_returns, arm.greedy_return)
    assert gained(arm) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(("name", "per_update"), [("ppo", 2), ("a2c", 1)])
def test_the_weights_of_the_best_rollout_are_kept(
    arms: dict[str, ArmResult], name: str, per_update: int
) -> None:
    returns = np.reshape(arms[name].episode_returns, (-1, per_update))

    assert arms[name].kept_updates == returns.mean(axis=1).argmax()


def test_of_weights_that_were_not_compared_nothing_is_told(arms: dict[str, ArmResult]) -> None:
    assert arms["blind"].kept_updates is None  # keep: last
    assert arms["raise"].kept_updates is None
    assert arms["random"].kept_updates is None


def test_a_policy_begins_as_the_best_of_what_was_tried(
    directory: Path, arms: dict[str, ArmResult]
) -> None:
    """Of all candidates, the chosen ranking's first is the one whose prior is highest."""
    folder = directory / "arms" / "from_best-s0"
    decisions = read_decisions(folder / "decisions.safetensors")
    pool = Pool.read(directory / "pool.parquet")
    best = arms["from_best"].best_trial
    assert best is not None
    wanted = "longest" if best.ranking == "longest" else "shortest"
    assert decisions.extra_names == ("prior",)
    highest = pool.ids[decisions.windows[0][decisions.extra[0, :, 0].argmax()]]
    assert highest == picks_of(directory, wanted)[0][0]
    metrics = (directory / "metrics.jsonl").read_text().splitlines()
    episodes = [
        record["rollout/episode"]
        for record in map(json.loads, metrics)
        if record["policy"] == "from_best" and "rollout/episode" in record
    ]
    assert episodes == [1, 2, 3, 4, 5]


def test_policies_pay_for_what_they_look_at(arms: dict[str, ArmResult]) -> None:
    spent = {label: arm.costs["features"].flops for label, arm in arms.items()}
    assert spent["base"] == spent["full"] == 0.0
    assert spent["longest"] == spent["dsir"] == spent["random"]  # embeddings make interpolations
    assert spent["ifd"] == spent["deita"] >= spent["perplexity"] == spent["sspl"]
    assert spent["nearest_to_target"] > spent["perplexity"]
    assert spent["less"] > spent["random"]
    assert spent["greats"] > spent["gradient_alignment"] > spent["ppo"]
    assert spent["of_pool"] > spent["influence"] == spent["from_hint"]  # dsir reads no model
    assert spent["from_target"] > spent["ppo"] == spent["a2c"] == spent["raise"]


def test_policies_that_learn_pay_for_their_episodes(
    config: ExperimentConfig, arms: dict[str, ArmResult]
) -> None:
    for policy in config.policies:
        costs: dict[str, Cost] = arms[policy.label].costs
        assert (costs["policy_training"].flops > 0) == (policy.learning_episodes > 0), policy.label
        looked = policy.sees_stage or policy.learning_episodes > 0
        assert (costs["reward_evaluation"].flops > 0) == looked, policy.label
        arm = arms[policy.label]
        played = [*arm.trials, *arm.episode_returns, *filter(None, [arm.greedy_return])]
        assert len(played) == policy.learning_episodes, policy.label


def test_a_policy_of_ones_own_is_told_of_every_step(
    directory: Path, arms: dict[str, ArmResult], heard: list[tuple[list[int], float]]
) -> None:
    arm, ids = arms["told"], Pool.read(directory / "pool.parquet").ids
    losses = np.array(arm.reward_validation_losses)
    gains = [gain for _, gain in heard]
    assert len(heard) == 3 * STEPS
    assert [sum(gains[:STEPS]), sum(gains[STEPS:-STEPS])] == pytest.approx(arm.episode_returns)
    assert gains[-STEPS:] == pytest.approx(-np.diff(losses) / losses[0])
    assert [[ids[row] for row in rows] for rows, _ in heard[-STEPS:]] == picks_of(directory, "told")


def test_what_a_scorer_saw_and_picked_is_kept(directory: Path, config: ExperimentConfig) -> None:
    table = read_features(directory / "features.safetensors")
    for label in ("ppo", "a2c", "reinforce"):
        folder = directory / "arms" / f"{label}-s0"
        decisions = read_decisions(folder / "decisions.safetensors")
        assert decisions.windows.shape == (STEPS, 12)
        assert decisions.windows.max() < len(table.values)
        assert decisions.extra.shape == (STEPS, 12, 0)
        assert (folder / "policy.safetensors").is_file()
