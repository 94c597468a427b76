"""A run directory, and why its policy picked what it picked."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers.arm_results import arm as arm_result
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save_file

from raise_mdit import cli
from raise_mdit.agents.scoring_policy import SetScoringPolicy
from raise_mdit.candidates import Candidate, Custom, Mdit, Original, Recipe, make_example
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import KINDS, Message, Observation
from raise_mdit.decisions import DecisionLog, read_decisions, write_decisions, write_features
from raise_mdit.envs.observation import DistinctSlots, Picks, Stage, observation_space, observe
from raise_mdit.errors import RunError
from raise_mdit.experiment_file import resolved_yaml
from raise_mdit.explanation import WAYS_OF_GROUPING, Explanation, explain, thirds
from raise_mdit.explanation_page import headline, picks_by_step, waterfall, write_page
from raise_mdit.explanation_tables import picks_table
from raise_mdit.features import FeatureTable
from raise_mdit.pool import Pool
from raise_mdit.progress import Silent
from raise_mdit.results import ArmResult, RankingTrial, read_result, to_json
from raise_mdit.runs import write_text
from raise_mdit.schedule import Pick, write_schedule

EVIL = "<b>[red]x"
NUM_STEPS, NUM_SLOTS, NUM_PICKS = 5, 6, 2
NAMES = ("prompt_tokens", "response_tokens", "semantic_0", *(f"is_{kind}" for kind in KINDS))
EXPERIMENT = {
    "name": "which-policy",
    "seeds": (1, 3),
    "data": {
        "sources": ({"name": "play", "kind": "playground"},),
        "pool": ({"source": "play"},),
        "reward_validation": ({"source": "play"},),
        "test": ({"source": "play"},),
    },
    "environment": {"budget": {"steps": NUM_STEPS}},
    "policies": ({"kind": "random"}, {"kind": "ppo"}, {"kind": "ppo", "name": "second"}),
}


class Step(NamedTuple):
    """What a policy saw and did."""

    observation: Observation
    scores: NDArray[np.float32]
    action: NDArray[np.int64]


class Run(NamedTuple):
    """A run directory, and what really happened in ppo s1."""

    directory: Path
    steps: list[Step]
    pool: Pool

    def arm(self, policy: str = "ppo", seed: int = 1) -> Path:
        return self.directory / "arms" / f"{policy}-s{seed}"


def make_pool() -> tuple[Pool, str]:
    """Nine originals of two sources, two interpolations and a custom one; and lines of texts."""
    sources = ["play"] * 6 + [EVIL] * 3
    examples = [
        make_example(
            source, [Message("user", f"ask {at}\n[b]"), Message("assistant", f"tell {at}")]
        )
        for at, source in enumerate(sources)
    ]
    recipes: list[tuple[Recipe, str]] = [(Original(each.id), each.source) for each in examples]
    recipes += [(Mdit(examples[0].id, examples[at].id, 0.75), "play") for at in (1, 2)]
    own = (Message("user", "own \x1b[31m words"), Message("assistant", "own answer " * 50))
    recipes.append((Custom((examples[0].id,), own), "play"))
    rows = [
        {"id": each.id, "source": each.source, "messages": [list(turn) for turn in each.messages]}
        for each in examples
    ]
    pool = Pool.of(Candidate(recipe, source, 9, 4) for recipe, source in recipes)
    return pool, "".join(json.dumps(row) + "\n" for row in rows)


def make_table(pool: Pool) -> FeatureTable:
    numbers = np.random.default_rng(5).normal(size=(len(pool), 3))
    kinds = np.eye(len(KINDS))[pool.kinds]
    strata = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 3])
    return FeatureTable(NAMES, np.column_stack([numbers, kinds]).astype(np.float32), strata)


def make_policy(seed: int, *, scale: float = 0.7) -> SetScoringPolicy:
    made = SetScoringPolicy(
        observation_space(NUM_SLOTS, len(NAMES) + 1, 12),
        DistinctSlots(NUM_SLOTS, NUM_PICKS),
        lambda _progress: 1e-3,
        hidden_size=8,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return made


def fine_tune(pool: Pool, table: FeatureTable, policy: SetScoringPolicy, seed: int) -> list[Step]:
    """An episode without a model: windows of 5, in 6 slots."""
    rng, counts = np.random.default_rng(seed), Picks(pool.kinds)
    steps = []
    for at in range(NUM_STEPS):
        observation = observe(
            rng.choice(len(pool), NUM_SLOTS - 1, replace=False),
            num_slots=NUM_SLOTS,
            features=table.values,
            picks=counts,
            stage=Stage(1.0 - 0.1 * at, at / NUM_STEPS, 0.05 * at),
            signal=rng.normal(size=NUM_SLOTS - 1).astype(np.float32),
        )
        action, _ = policy.predict(observation, deterministic=True)
        tensors, _ = policy.obs_to_tensor(observation)
        with torch.no_grad():
            distribution = policy.get_distribution(tensors)
        scores = distribution._scores_BN[0].numpy()  # type: ignore[attr-defined]  # Plackett-Luce
        steps.append(Step(observation, scores, action))
        counts.add(observation["window"][action])
    return steps


def result(policy: str, seed: int) -> ArmResult:
    return arm_result(
        policy,
        seed,
        1.0,
        kind="random" if policy == "random" else "ppo",
        steps=NUM_STEPS,
        picks=({"play": 2},) * NUM_STEPS,
    )


def write_arm(
    run: Run, label: str, seed: int, *, policy: SetScoringPolicy, steps: list[Step]
) -> None:
    folder = run.arm(label, seed)
    folder.mkdir(parents=True)
    log = DecisionLog(num_features=len(NAMES), extra_names=("gradient",))
    picks = []
    for at, step in enumerate(steps):
        log.add(step.observation, step.action)
        for slot, row in enumerate(step.observation["window"][step.action]):
            kind = KINDS[run.pool.kinds[row]]
            source = run.pool.sources[row]
            picks.append(Pick(label, seed, at, slot, run.pool.ids[row], kind, source, "a task"))
    write_decisions(folder / "decisions.safetensors", log.decisions)
    save_file(policy.state_dict(), folder / "policy.safetensors")
    write_schedule(folder, picks, {})
    write_text(folder / "result.json", to_json([result(label, seed)], []))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """random s1, and ppo with seeds 1 and 3 of other weights."""
    directory = tmp_path_factory.mktemp("made") / "run"
    directory.mkdir()
    pool, texts = make_pool()
    table = make_table(pool)
    config = ExperimentConfig.model_validate(EXPERIMENT)
    write_text(directory / "config.yaml", resolved_yaml(config))
    write_text(directory / "examples.jsonl", texts)
    pool.write(directory / "pool.parquet")
    write_features(directory / "features.safetensors", table)
    run = Run(directory, fine_tune(pool, table, make_policy(1), 1), pool)
    write_arm(run, "ppo", 1, policy=make_policy(1), steps=run.steps)
    other = fine_tune(pool, table, make_policy(3), 3)
    write_arm(run, "ppo", 3, policy=make_policy(3), steps=other)
    run.arm("random", 1).mkdir()
    write_text(run.arm("random", 1) / "result.json", to_json([result("random", 1)], []))
    return run


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    """The same, to be changed."""
    return made._replace(directory=Path(shutil.copytree(made.directory, tmp_path / "run")))


@pytest.fixture(scope="module")
def explanation(made: Run) -> Explanation:
    return explain(made.directory, progress=Silent(), policy="ppo", seed=1)


@pytest.mark.parametrize(("width", "lines_a_pick"), [(80, 2), (240, 1)])
def test_picks_fit_a_terminal_with_all_their_figures(
    explanation: Explanation, width: int, lines_a_pick: int
) -> None:
    console = Console(width=width, file=io.StringIO())
    console.print(picks_table(explanation, top=3))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for pick in explanation.strongest(3):
        own = [line for line in lines if line.split()[:2] == [str(pick.step), str(pick.slot)]]
        assert len(own) >= lines_a_pick
        told = " ".join(own).split()
        for figure in (f"{pick.score:.3f}", f"{pick.log_probability:.2f}"):
            assert figure in told
        assert {f"{part:+z.3f}" for part in pick.attributions} <= set(told)


def test_scores_are_those_by_which_the_policy_chose(made: Run, explanation: Explanation) -> None:
    for pick in explanation.picks:
        step = made.steps[pick.step]
        slot = step.action[pick.slot]
        assert pick.score == pytest.approx(step.scores[slot], abs=1e-5)
        assert pick.lift == pytest.approx(step.scores[slot] - step.scores[:-1].mean(), abs=1e-5)


def test_attributions_sum_to_the_score_above_the_mean(explanation: Explanation) -> None:
    lifts = [pick.lift for pick in explanation.picks]

    assert [pick.attributions.sum() for pick in explanation.picks] == pytest.approx(lifts, abs=1e-5)
    assert min(map(abs, lifts)) > 1e-3


def test_groups_are_those_that_the_policy_sees(explanation: Explanation) -> None:
    assert explanation.groups == (
        "stage", "difficulty", "semantic", "kind", "gradient", "availability",
    )  # fmt: skip
    assert explanation.column_groups == (
        "difficulty", "difficulty", "semantic", *["kind"] * 4, "gradient", "availability",
    )  # fmt: skip


def test_features_are_what_was_seen(made: Run, explanation: Explanation) -> None:
    for pick in explanation.picks:
        observation, _, action = made.steps[pick.step]
        slot = action[pick.slot]
        reuse = np.log1p(observation["selected"][slot])
        seen = dict(zip(explanation.columns, pick.features, strict=True))
        assert [*pick.features[:-1]] == [*observation["candidates"][slot]]
        assert seen["times_picked"] == pytest.approx(reuse)
        assert seen[f"is_{pick.kind}"] == 1
        assert pick.window_means[:-1] == pytest.approx(observation["candidates"][:-1].mean(axis=0))


def test_some_pick_was_picked_before(explanation: Explanation) -> None:
    """Or the availability above would be tested for zeros alone."""
    assert max(pick.features[-1] for pick in explanation.picks) > 0


def test_the_stage_owes_nothing_at_the_first_step(explanation: Explanation) -> None:
    owed = explanation.attributions[:, explanation.groups.index("stage")]

    assert owed[0] == pytest.approx(0, abs=1e-6)
    assert owed[1:].min() > 1e-4


def test_a_step_is_the_mean_of_its_picks(explanation: Explanation) -> None:
    for at in range(NUM_STEPS):
        parts = [np.abs(pick.attributions) for pick in explanation.picks if pick.step == at]
        assert explanation.attributions[at] == pytest.approx(np.mean(parts, axis=0))


def test_every_pick_is_counted_once_in_every_way(made: Run, explanation: Explanation) -> None:
    for way in WAYS_OF_GROUPING:
        assert [sum(step.values()) for step in explanation.counts[way]] == [NUM_PICKS] * NUM_STEPS
    for at, (observation, _, action) in enumerate(made.steps):
        kinds = [KINDS[made.pool.kinds[row]] for row in observation["window"][action]]
        assert explanation.counts["kind"][at] == {kind: kinds.count(kind) for kind in kinds}


def test_clusters_are_numbered_within_their_kind(made: Run, explanation: Explanation) -> None:
    names = {"0": "original 1", "1": "original 2", "2": "mdit 1", "3": "custom 1"}
    strata = make_table(made.pool).strata
    for pick in explanation.picks:
        stratum = strata[made.pool.rows_of([pick.id])[0]]
        assert pick.cluster == names[str(stratum)]


def test_one_pick_can_be_asked_for(made: Run, explanation: Explanation) -> None:
    one = explain(made.directory, progress=Silent(), step=2, slot=1)

    (pick,) = one.picks
    whole = explanation.picks[2 * NUM_PICKS + 1]
    assert (pick.step, pick.slot, pick.id) == (2, 1, whole.id)
    assert np.array_equal(one.attributions, explanation.attributions)


def test_the_strongest_picks_come_highest_first(explanation: Explanation) -> None:
    lifts = [pick.lift for pick in explanation.strongest(4)]

    assert lifts == sorted((pick.lift for pick in explanation.picks), reverse=True)[:4]


def test_the_first_policy_and_seed_that_can_be_explained_are_the_default(made: Run) -> None:
    found = explain(made.directory, progress=Silent())

    assert (found.result.policy, found.result.seed) == ("ppo", 1)
    assert found.notes == ("Left out, as they do not learn what to pick: random s1.",)


TAKEN = {"kind": "ppo", "name": "taken", "from": "runs/other"}
"""A policy that another run has trained."""

REASONS: Mapping[str, Sequence[str | dict[str, str]]] = {
    "they do not learn what to pick": ["base", "random", "longest", "greats"],
    "they learn one value for each group of candidates": ["exp3", "ucb", "thompson"],
    "they score by the weights of a regression that changes at every step": ["influence"],
    "a run keeps the weights of RAISE as printed, but no decisions": ["raise"],
    "they repeat the best of several random schedules": ["random_search"],
    "they were trained in another run": [TAKEN],
    "what a policy of your own scores by": [{"kind": "words:Mine", "name": "mine"}],
    "they ran in an older version": ["a2c"],
}
"""Policies without decisions, by the beginning of why they have none."""


def ask_for(run: Run, *policies: Mapping[str, Any]) -> ExperimentConfig:
    """What the run's experiment is, with these policies instead."""
    config = ExperimentConfig.model_validate({**EXPERIMENT, "policies": policies})
    write_text(run.directory / "config.yaml", resolved_yaml(config))
    return config


def test_arms_that_are_left_out_stand_in_one_line_a_reason(run: Run) -> None:
    policies: list[dict[str, str]] = [
        {"kind": policy} if isinstance(policy, str) else policy
        for of_one_reason in REASONS.values()
        for policy in of_one_reason
    ]
    config = ask_for(run, {"kind": "ppo"}, *policies)
    for policy in config.policies[1:]:
        for seed in (1, 3):
            run.arm(policy.label, seed).mkdir(exist_ok=True)
            outcome = to_json([result(policy.label, seed)], [])
            write_text(run.arm(policy.label, seed) / "result.json", outcome)

    notes = explain(run.directory, progress=Silent()).notes

    assert len(notes) == len(REASONS)
    for note, (reason, of_one_reason) in zip(notes, REASONS.items(), strict=True):
        labels = [each if isinstance(each, str) else each["name"] for each in of_one_reason]
        assert note.startswith(f"Left out, as {reason}")
        assert note.endswith(": " + ", ".join(f"{label} s1 s3" for label in labels) + ".")


def test_texts_begin_with_prompt_and_response_on_one_line(made: Run) -> None:
    found = {
        pick.kind: pick.text
        for seed in (1, 3)
        for pick in explain(made.directory, progress=Silent(), seed=seed).picks
    }

    assert re.fullmatch(r"ask (\d) \[b\] → tell \1", found["original"])
    assert re.fullmatch(r"75% of: ask 0 .*tell 0 \| 25% of: ask [12] .*", found["mdit"])
    assert found["custom"].startswith("own \ufffd[31m words → own answer")
    assert len(found["custom"]) == 200


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 9])
def test_thirds_hold_every_step_once(num_steps: int) -> None:
    parts = thirds(num_steps)

    assert [step for part in parts for step in part] == list(range(num_steps))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"policy": "pp0"}, r"--policy 'pp0': .* ppo\. Did you mean 'ppo'\?"),
        ({"policy": "rand"}, r"'rand': no finished policy of this run; .* Did you mean 'random'\?"),
        ({"policy": "second"}, "--policy 'second': not finished yet; those that can .*: ppo$"),
        (
            {"policy": "random"},
            "--policy 'random': left out, as they do not learn .*; those .* explained: ppo$",
        ),
        ({"seed": 4}, "--seed 4: ppo has seeds 1, 3$"),
        ({"step": 5}, "--step 5: there are 0 to 4$"),
        ({"step": -1}, "--step -1: there are 0 to 4$"),
        ({"slot": 2}, "slot 2: there are 0 to 1$"),
    ],
    ids=str,
)
def test_what_the_run_lacks_is_named(asked: dict[str, str | int], message: str, made: Run) -> None:
    with pytest.raises(RunError, match=message):
        explain(made.directory, progress=Silent(), **asked)  # type: ignore[arg-type]  # by name


def test_while_no_learned_policy_has_finished_the_run_is_to_go_on(run: Run) -> None:
    for seed in (1, 3):
        (run.arm(seed=seed) / "result.json").unlink()

    with pytest.raises(RunError, match=r"yet; .* goes on with ppo s1 s3, second s1 s3$"):
        explain(run.directory, progress=Silent())


def test_a_run_without_learned_policies_says_what_to_do(run: Run) -> None:
    ask_for(run, {"kind": "ppo"})
    for seed in (1, 3):
        (run.arm(seed=seed) / "decisions.safetensors").unlink()

    with pytest.raises(RunError, match=r"can be explained.*such as kind ppo.*add one"):
        explain(run.directory, progress=Silent())


def test_a_run_of_a_transferred_policy_names_the_run_that_trained_it(run: Run) -> None:
    ask_for(run, {"kind": "random"}, TAKEN)

    told = (
        f"{run.directory}: taken picks here without learning; "
        "it is explained where it was trained, in runs/other"
    )
    with pytest.raises(RunError, match=f"^{re.escape(told)}$"):
        explain(run.directory, progress=Silent())


def test_beside_a_transferred_policy_another_has_a_reason_of_its_own(run: Run) -> None:
    ask_for(run, {"kind": "random"}, {"kind": "longest"}, TAKEN)
    (run.arm("longest") / "result.json").parent.mkdir(parents=True)
    (run.arm("longest") / "result.json").write_text("{}")

    with pytest.raises(RunError, match=r"^--policy 'longest': left out, as they do not learn"):
        explain(run.directory, progress=Silent(), policy="longest")


def test_a_transferred_policy_that_is_asked_for_is_explained_where_it_was_trained(
    run: Run,
) -> None:
    ask_for(run, {"kind": "ppo"}, TAKEN)

    with pytest.raises(RunError, match=r"^taken picks here without learning; .* in runs/other$"):
        explain(run.directory, progress=Silent(), policy="taken")


def test_an_exported_policy_is_explained_in_the_run_that_it_comes_from(run: Run) -> None:
    folder = run.directory / "policy"
    folder.mkdir()
    (folder / "policy.json").write_text("{}", "utf-8")
    ask_for(run, {**TAKEN, "from": str(folder)})

    told = rf"trained, in the run that {re.escape(str(folder))} was exported from$"
    with pytest.raises(RunError, match=told):
        explain(run.directory, progress=Silent())


def test_an_older_versions_policy_is_not_hidden_by_a_transferred_one(run: Run) -> None:
    ask_for(run, {"kind": "ppo"}, TAKEN)
    for seed in (1, 3):
        (run.arm(seed=seed) / "decisions.safetensors").unlink()

    with pytest.raises(RunError, match=r"run again what an older version ran$"):
        explain(run.directory, progress=Silent())


def test_weights_of_another_kind_of_policy_are_left_out(run: Run) -> None:
    save_file({"weight": torch.zeros(3)}, run.arm() / "policy.safetensors")

    found = explain(run.directory, progress=Silent())

    assert found.result.seed == 3
    assert "Left out, as their weights are of another kind of policy: ppo s1." in found.notes


@pytest.mark.parametrize(
    ("ranking", "began"),
    [
        ({"kind": "dsir"}, "dsir: what is owed to `prior` is owed to that ranking"),
        (
            {"kind": "in_turn", "rankings": ({"kind": "dsir"}, {"kind": "shortest"})},
            "dsir and shortest in turn: what is owed to `prior` is owed to that ranking",
        ),
        ({"kind": "influence", "episodes": 6}, "what influence had learned from 6 fine-tunings"),
    ],
    ids=str,
)
def test_what_a_policy_began_as_is_told(run: Run, ranking: Mapping[str, Any], began: str) -> None:
    ask_for(run, {"kind": "ppo", "window": "pool", "prior": {"ranking": ranking}})

    assert f"ppo began as {began}." in explain(run.directory, progress=Silent()).notes


def test_a_policy_of_the_run_that_it_began_as_is_not_said_to_be_missing(run: Run) -> None:
    """What was tried is told; `random`, an arm of its own, stands for any ranking that was."""
    trials = tuple(RankingTrial(ranking, 0.1) for ranking in ("random", "dsir"))
    for folder, chosen in ((run.arm(), trials[:1]), (run.arm(seed=3), trials[1:])):
        arm = dataclasses.replace(read_result(folder), trials=chosen)
        write_text(folder / "result.json", to_json([arm], []))

    known, missing = (explain(run.directory, progress=Silent(), seed=seed) for seed in (1, 3))

    assert known.notes[0].endswith("began as random.")
    assert missing.notes[0].endswith("No policy here is dsir: add it to see what learning adds.")


def test_decisions_of_another_arm_are_refused(run: Run) -> None:
    shutil.copy(run.arm(seed=3) / "decisions.safetensors", run.arm())

    with pytest.raises(RunError, match="does not belong to the schedule"):
        explain(run.directory, progress=Silent())


def test_weights_for_other_features_are_refused(run: Run) -> None:
    path = run.arm() / "decisions.safetensors"
    decisions = read_decisions(path)
    write_decisions(path, decisions._replace(extra=decisions.extra[..., :0], extra_names=()))

    with pytest.raises(RunError, match=r"for 9 features and 7 numbers .* hold 8 and 7"):
        explain(run.directory, progress=Silent())


def test_features_of_another_pool_are_refused(run: Run) -> None:
    table = make_table(run.pool)
    fewer = table._replace(values=table.values[:9], strata=table.strata[:9])
    write_features(run.directory / "features.safetensors", fewer)

    with pytest.raises(RunError, match=r"features.safetensors: of 9 candidates, .* has 12"):
        explain(run.directory, progress=Silent())


@pytest.mark.parametrize(
    "name", ["config.yaml", "features.safetensors", "pool.parquet", "examples.jsonl"]
)
def test_a_missing_file_is_named(name: str, run: Run) -> None:
    (run.directory / name).unlink()

    with pytest.raises(RunError, match=re.escape(name)):
        explain(run.directory, progress=Silent())


def test_the_headline_names_the_groups_that_matter_most(explanation: Explanation) -> None:
    means = explanation.attributions.mean(axis=0)
    first, second = np.argsort(-means)[:2]

    said = headline(explanation)

    assert f"{explanation.groups[first]} ({means[first] / means.sum():.0%}" in said
    assert f"then {explanation.groups[second]} ({means[second] / means.sum():.0%})" in said


def test_a_policy_that_learned_nothing_is_told(run: Run) -> None:
    save_file(make_policy(1, scale=0.0).state_dict(), run.arm() / "policy.safetensors")

    assert "scores all candidates alike" in headline(explain(run.directory, progress=Silent()))


def test_the_waterfall_ends_at_the_score_above_the_mean(explanation: Explanation) -> None:
    pick = explanation.picks[3]
    (bars,) = waterfall(explanation, pick).data

    assert sum(bars.x[:-1]) == pytest.approx(bars.x[-1], abs=1e-5)
    assert bars.x[-1] == pick.lift
    assert list(bars.measure) == ["relative"] * len(explanation.groups) + ["total"]


@pytest.mark.parametrize("way", WAYS_OF_GROUPING)
def test_shares_of_picks_add_up_to_one_at_each_step(way: str, explanation: Explanation) -> None:
    figure = picks_by_step(explanation, way)

    assert [sum(parts) for parts in zip(*(bar.y for bar in figure.data), strict=True)] == (
        pytest.approx([1.0] * NUM_STEPS)
    )
    assert list(figure.data[0].x) == list(range(NUM_STEPS))


def test_the_page_needs_no_network_and_shows_names_as_text(
    explanation: Explanation, tmp_path: Path
) -> None:
    write_page(tmp_path / "explanation.html", explanation, top=20)
    page = (tmp_path / "explanation.html").read_text("utf-8")

    assert "default-src 'none'" in page
    assert not re.search(r"<(?:script|img|link)[^>]*(?:src|href)=", page)
    assert "&lt;b&gt;[red]x" in page
    assert "<b>[red]" not in page
    assert page.count('class="plotly-graph-div"') == 5


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of ``raise-mdit`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["raise-mdit", *arguments])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_command_prints_tables_and_writes_the_page(
    run: Run,
    explanation: Explanation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "explain", str(run.directory), "--top", "20") == 0

    shown = capsys.readouterr().out
    arm = explanation.result
    assert (run.directory / f"explanation-{arm.policy}-s{arm.seed}.html").is_file()
    for pick in explanation.picks:
        line = rf"^ *{pick.step} +{pick.slot} +{pick.score:.3f} +\{pick.lift:+z.3f} .* {pick.kind} "
        assert re.search(line, shown, re.MULTILINE)
    assert EVIL in shown
    assert "first third" in shown
    assert "Left out, as they do not learn what to pick: random s1." in shown
    assert "\x1b" not in shown


def test_the_command_shows_one_step(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "explain", str(run.directory), "--step", "3", "--seed", "3") == 0

    shown = capsys.readouterr().out
    assert set(re.findall(r"^ *(\d) +(\d) ", shown, re.MULTILINE)) == {("3", "0"), ("3", "1")}
    assert shown.startswith("ppo s3: ")


def test_the_commands_mistakes_end_in_one_message(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "explain", str(run.directory), "--policy", "pppo") == 2

    assert "Did you mean 'ppo'?" in capsys.readouterr().err


def test_help_teaches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "explain", "--help") == 0

    assert "Shapley" in capsys.readouterr().out
