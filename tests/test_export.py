"""A schedule that leaves the run directory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raise_mdit import tracking
from raise_mdit.candidates import Candidate, Mdit, Original, Recipe, make_example
from raise_mdit.comparison import summarise
from raise_mdit.config import ExperimentConfig, LearnerConfig
from raise_mdit.core import Cost, Example, Message
from raise_mdit.errors import RunError
from raise_mdit.experiment_file import resolved_yaml
from raise_mdit.export import export_schedule
from raise_mdit.pool import Pool
from raise_mdit.results import ArmResult, HeldOut, RankingTrial, to_json
from raise_mdit.runs import write_json, write_text
from raise_mdit.schedule import Pick, order_digest, read_schedule, write_schedule
from raise_mdit.schedules.bundle import ScheduledStep, read_bundle, read_manifest, write_lines
from raise_mdit.schedules.verification import verify

SUFFIXED = ("e.csv", "deep/e.jsonl", "e.parquet", "e.Z")

RECIPE: dict[str, object] = {
    "batch_size": 2,
    "learner": LearnerConfig().model_dump(mode="json"),
    "max_length": 64,
    "model": "some/model",
    "model_digest": "abc",
    "system_prompt": None,
}
TEMPLATE = "{{ messages }}"
EXPERIMENT = {
    "name": "to-export",
    "seeds": (0, 1, 3),
    "data": {
        "sources": ({"name": "toy", "kind": "playground"},),
        "pool": ({"source": "toy"},),
        "reward_validation": ({"source": "toy"},),
        "test": ({"source": "toy"},),
        "seed": 5,
    },
    "learner": {"learning_rate": 0.5, "schedule": "linear"},
    "environment": {"budget": {"steps": 2}},
    "policies": ({"kind": "random"}, {"kind": "ppo"}, {"kind": "ppo", "name": "other"}),
}


def example(text: str) -> Example:
    return make_example("toy", [Message("user", text), Message("assistant", text.upper())])


def arm(policy: str, seed: int, loss: float, *, returns: tuple[float, ...] = ()) -> ArmResult:
    return ArmResult(
        policy=policy,
        kind=policy,
        seed=seed,
        status="complete",
        test=HeldOut(loss=loss, target_losses={"toy": loss}),
        reward_validation_losses=(2.0, loss),
        episode_returns=returns,
        steps=2,
        tokens=10,
        picks=({"toy": 2}, {"toy": 2}),
        costs={"final_training": Cost(10)},
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory of four arms; each has the same schedule."""
    directory = tmp_path / "run"
    examples = [example(text) for text in ("one", "two", "three")]
    recipes: list[Recipe] = [
        *(Original(each.id) for each in examples),
        Mdit(examples[0].id, examples[1].id, 0.25),
    ]
    candidates = [Candidate(recipe, "toy", 4, 2) for recipe in recipes]
    ids = [candidate.id for candidate in candidates]
    arms = [
        arm("random", 0, 1.0),
        arm("ppo", 0, 1.5, returns=(0.1,)),
        arm("ppo", 3, 1.4, returns=(0.1,)),
        arm("other", 1, 1.6, returns=(0.2,)),
    ]
    records: list[dict[str, object]] = []
    for each in arms:
        folder = directory / "arms" / f"{each.policy}-s{each.seed}"
        folder.mkdir(parents=True)
        picks = [
            Pick(each.policy, each.seed, place // 2, place % 2, ids[row], "original", "toy", None)
            if row < 3
            else Pick(each.policy, each.seed, place // 2, place % 2, ids[row], "mdit", "toy", None)
            for place, row in enumerate([2, 0, 3, 2])
        ]
        write_schedule(folder, picks, RECIPE)
        records += [
            {
                "policy": each.policy,
                "seed": each.seed,
                tracking.TUNING_STEP: step,
                tracking.TUNING_LOSS: 3.0 - step,
                tracking.TUNING_TOKENS: 8 * step,
                tracking.BUDGET_SHARE_SPENT: step / 2,
            }
            for step in (1, 2)
        ]
        records.append({"policy": each.policy, "seed": each.seed, tracking.TEST_LOSS: 1.0})
    write_schedule(directory, [], RECIPE)
    Pool.of(candidates).write(directory / "pool.parquet")
    rows = [
        {"id": each.id, "source": "toy", "messages": [list(turn) for turn in each.messages]}
        for each in examples
    ]
    write_lines(directory / "examples.jsonl", rows)
    write_lines(directory / "metrics.jsonl", records)
    write_text(directory / "results.json", to_json(arms, summarise(arms)))
    config = ExperimentConfig.model_validate(EXPERIMENT)
    write_text(directory / "config.yaml", resolved_yaml(config))
    write_json(directory / "versions.json", {"torch": "1"})
    write_json(directory / "preparation.json", {"chat_template": TEMPLATE, "precision": "float32"})
    return directory


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _turns(text: str) -> list[dict[str, str]]:
    return [turn._asdict() for turn in example(text).messages]


def test_rows_stand_in_the_order_of_training(run: Path, tmp_path: Path) -> None:
    export_schedule(run, policy="ppo", seed=3, to=tmp_path / "out")

    rows = lines(tmp_path / "out" / "sft.jsonl")
    prompts = [row["messages"][0]["content"] for row in rows]
    assert prompts == ["three", "one", "two", "three"]
    assert [row["step"] for row in rows] == [0, 0, 1, 1]


def test_an_interpolated_row_is_marked_and_stands_as_its_heavier_parent(
    run: Path, tmp_path: Path
) -> None:
    export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out")

    rows = lines(tmp_path / "out" / "sft.jsonl")
    manifest = read_manifest(tmp_path / "out")
    assert [row["interpolated"] for row in rows] == [False, False, True, False]
    assert rows[2]["messages"] == _turns("two")
    assert manifest["lossy_in_jsonl"] is True
    assert manifest["num_interpolated"] == 1
    assert "1 of the 4 rows are interpolations" in (tmp_path / "out" / "README.md").read_text()


def test_the_schedule_keeps_both_parents_and_their_shares(run: Path, tmp_path: Path) -> None:
    export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out")

    read = read_bundle(tmp_path / "out")
    mixed = read.rows[2]
    assert (mixed.kind, mixed.weights) == ("mdit", (0.25, 0.75))
    assert [read.conversations[each] for each in mixed.ids] == [
        example("one").messages,
        example("two").messages,
    ]
    assert [row.weights for row in read.rows if row.kind == "original"] == [(1.0,)] * 3
    assert set(read.conversations) == {example(each).id for each in ("one", "two", "three")}


def test_the_manifest_says_what_the_rows_belong_to(run: Path, tmp_path: Path) -> None:
    exported = export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out")

    manifest = read_manifest(tmp_path / "out")
    recipe = manifest["recipe"]
    assert recipe.items() >= RECIPE.items()
    assert recipe["seed"] == 5
    assert recipe["learning_rate_schedule"]["kind"] == "linear"
    assert recipe["chat_template_sha256"] == hashlib.sha256(TEMPLATE.encode()).hexdigest()
    assert manifest["num_rows"] == exported.num_rows == 4
    assert manifest["order_digest"] == order_digest(read_schedule(run / "arms" / "ppo-s0"))
    assert manifest["digest"] == exported.digest
    assert manifest["provenance"]["versions"] == {"torch": "1"}


@pytest.mark.parametrize(
    ("trials", "greedy", "episode"),
    [
        ((), None, None),
        ((RankingTrial("shortest", 0.3),), 0.2, "the trial of shortest"),
        ((RankingTrial("shortest", 0.05),), 0.02, "episode 1"),
        ((RankingTrial("shortest", 0.3),), 0.4, None),  # the highest scores picked what is there
    ],
)
def test_what_scores_did_not_pick_is_said_to_be_repeated(
    run: Path,
    tmp_path: Path,
    trials: tuple[RankingTrial, ...],
    greedy: float | None,
    episode: str | None,
) -> None:
    arms = [replace(arm("ppo", 0, 1.5, returns=(0.1,)), trials=trials, greedy_return=greedy)]
    write_text(run / "results.json", to_json(arms, summarise(arms)))

    export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out")

    read_me = (tmp_path / "out" / "README.md").read_text()
    assert read_manifest(tmp_path / "out")["repeated_episode"] == episode
    assert ("was repeated as it was" in read_me) == (episode is not None)
    assert episode is None or f"and this is {episode}:" in read_me


def test_what_the_run_recorded_of_every_step_goes_along(run: Path, tmp_path: Path) -> None:
    """Linear decay: all of the rate while nothing of the budget is spent, half at half."""
    export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out")

    assert read_bundle(tmp_path / "out").steps == (
        ScheduledStep(step=0, loss=2.0, learning_rate=0.5, tokens=8),
        ScheduledStep(step=1, loss=1.0, learning_rate=0.25, tokens=8),
    )


def test_records_of_fewer_steps_than_were_taken_are_refused(run: Path) -> None:
    file = run / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))

    with pytest.raises(RunError, match=r"metrics\.jsonl: does not hold each step of random s0"):
        export_schedule(run, policy="random", seed=0, to=None)


def test_the_system_prompt_of_the_run_stands_before_every_conversation(
    run: Path, tmp_path: Path
) -> None:
    folder = run / "arms" / "ppo-s0"
    write_schedule(folder, read_schedule(folder), {**RECIPE, "system_prompt": "be brief"})

    export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out")

    first = lines(tmp_path / "out" / "sft.jsonl")[0]["messages"]
    assert first == [{"role": "system", "content": "be brief"}, *_turns("three")]


def test_a_bundle_is_sound_as_it_is_written_and_so_is_the_one_in_its_place(
    run: Path, tmp_path: Path
) -> None:
    digests = [export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out").digest]
    (tmp_path / "out" / "recipes" / "train.py").write_text("altered\n")
    digests.append(export_schedule(run, policy="ppo", seed=0, to=str(tmp_path / "out")).digest)

    assert verify(tmp_path / "out").faults == ()
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("policy", "seed", "other"),
    [
        ("random", 0, "random s0 of experiment 'to-export'"),
        ("ppo", 3, "ppo s3 of experiment 'to-export'"),
    ],
)
def test_the_bundle_of_another_arm_is_not_replaced(
    run: Path, tmp_path: Path, policy: str, seed: int, other: str
) -> None:
    before = export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out").digest

    with pytest.raises(RunError) as caught:
        export_schedule(run, policy=policy, seed=seed, to=tmp_path / "out")

    assert str(caught.value) == (
        f"--to: {str(tmp_path / 'out')!r} holds the schedule of ppo s0 of experiment 'to-export', "
        f"and {other} is to be written; name another directory, or remove that one"
    )
    assert verify(tmp_path / "out") == ((), 4, before)


def test_the_bundle_of_another_run_is_not_replaced_though_its_picks_are_the_same(
    run: Path, tmp_path: Path
) -> None:
    export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("schedule: linear", "schedule: cosine"))

    with pytest.raises(RunError, match=r"ppo s0 of .*, and the same of another run is to be"):
        export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out")


def test_an_export_that_is_refused_makes_no_folder(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--policy 'nobody'"):
        export_schedule(run, policy="nobody", seed=None, to=tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_the_same_run_gives_the_same_bundle(run: Path, tmp_path: Path) -> None:
    one, two = (export_schedule(run, policy="ppo", seed=0, to=tmp_path / each) for each in "ab")

    assert one.digest == two.digest


def test_a_folder_that_holds_something_else_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()

    with pytest.raises(RunError, match=r"holds what is no part of an export, such as 'thesis.tex'"):
        export_schedule(run, policy="ppo", seed=0, to=tmp_path / "mine")


def finished(policy: str, seed: int, *, test: float, validation: float) -> ArmResult:
    """A learned arm."""
    made = arm(policy, seed, test, returns=(0.1,))
    return replace(made, reward_validation_losses=(2.0, validation))


def on_targets(short: float, long: float) -> HeldOut:
    return HeldOut(loss=(short + long) / 2, target_losses={"short": short, "long": long})


def exported_by_default(run: Path, arms: list[ArmResult]) -> str:
    write_text(run / "results.json", to_json(arms, summarise(arms)))
    return export_schedule(run, policy=None, seed=None, to=None).policy


def test_the_best_learned_policy_is_the_default(run: Path) -> None:
    """Random has the lowest loss of all."""
    exported = export_schedule(run, policy=None, seed=None, to=None)

    assert (exported.policy, exported.seed) == ("ppo", 0)
    assert exported.directory == run / "export"


def test_the_default_is_chosen_without_the_test(run: Path) -> None:
    arms = [
        finished("ppo", 0, test=1.1, validation=1.6),
        finished("other", 1, test=1.9, validation=1.5),
    ]

    assert exported_by_default(run, arms) == "other"


def test_the_default_is_chosen_by_the_mean_over_seeds(run: Path) -> None:
    """The lowest arm of all is one of ppo."""
    arms = [
        finished("ppo", 0, test=1.0, validation=1.0),
        finished("ppo", 3, test=1.0, validation=1.9),
        finished("other", 1, test=1.0, validation=1.4),
    ]

    assert exported_by_default(run, arms) == "other"


def test_the_default_is_chosen_on_model_selection_data_where_there_are_such(run: Path) -> None:
    """By shares of base's losses; by the sum of both targets, and on reward-validation, ppo is."""
    arms = [
        replace(arm("base", 0, 2.1), model_selection=on_targets(4.0, 20.0)),
        replace(
            finished("ppo", 0, test=1.0, validation=1.0), model_selection=on_targets(4.0, 16.0)
        ),
        replace(
            finished("other", 1, test=1.0, validation=1.4), model_selection=on_targets(1.0, 19.5)
        ),
    ]

    assert exported_by_default(run, arms) == "other"


def test_a_run_whose_learned_policies_have_not_finished_names_them(run: Path) -> None:
    arms = [arm("random", seed, 1.0) for seed in (0, 1)]
    write_text(run / "results.json", to_json(arms, summarise(arms)))

    with pytest.raises(RunError, match=r"goes on with other s0 s1 s3, ppo s0 s1 s3; --policy"):
        export_schedule(run, policy=None, seed=None, to=None)
    with pytest.raises(RunError, match=r"not finished yet: ppo s0 s1 s3; raise-mdit run .* goes"):
        export_schedule(run, policy="ppo", seed=None, to=None)
    with pytest.raises(RunError, match=r"not finished yet: random s3; raise-mdit run"):
        export_schedule(run, policy="random", seed=3, to=None)
    assert export_schedule(run, policy="random", seed=None, to=None).seed == 0


def test_where_nothing_learns_the_default_waits_for_nobody(run: Path) -> None:
    config = ExperimentConfig.model_validate(
        {**EXPERIMENT, "policies": ({"kind": "random"}, {"kind": "longest"})}
    )
    write_text(run / "config.yaml", resolved_yaml(config))
    arms = [arm("random", 0, 1.0)]
    write_text(run / "results.json", to_json(arms, summarise(arms)))

    assert export_schedule(run, policy=None, seed=None, to=None).policy == "random"


@pytest.mark.parametrize("name", ["nowhere", "nowhere/below"])
def test_a_link_to_nothing_is_no_folder(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone" / "there")

    with pytest.raises(RunError, match=r"--to: .*nowhere"):
        export_schedule(run, policy="ppo", seed=0, to=tmp_path / name)


@pytest.mark.parametrize(
    ("policy", "seed", "message"),
    [
        ("pp0", None, "'pp0'.*other, ppo, random.*Did you mean 'ppo'"),
        ("ppo", 7, r"--seed 7: ppo has seeds \[0, 3\]"),
    ],
)
def test_what_the_run_lacks_is_named(
    policy: str, seed: int | None, message: str, run: Path
) -> None:
    with pytest.raises(RunError, match=message):
        export_schedule(run, policy=policy, seed=seed, to=None)


def test_an_altered_text_is_detected(run: Path) -> None:
    file = run / "examples.jsonl"
    file.write_text(file.read_text().replace("TWO", "2"))

    with pytest.raises(RunError, match=r"examples.jsonl:2: altered"):
        export_schedule(run, policy=None, seed=None, to=None)


def test_a_missing_file_is_named(run: Path) -> None:
    (run / "examples.jsonl").unlink()

    with pytest.raises(RunError, match=r"examples.jsonl: no such file"):
        export_schedule(run, policy=None, seed=None, to=None)


def test_a_run_without_results_is_not_exported(run: Path) -> None:
    (run / "results.json").unlink()

    with pytest.raises(RunError, match="not a finished run"):
        export_schedule(run, policy=None, seed=None, to=None)


@pytest.mark.parametrize("name", SUFFIXED)
def test_a_place_that_is_named_like_a_file_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match=r"--to: .* ends like a file, .* folder of sft\.jsonl"):
        export_schedule(run, policy=None, seed=None, to=tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_place_that_is_a_file_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(RunError, match="is a file; an export is a folder"):
        export_schedule(run, policy=None, seed=None, to=tmp_path / "there")


@pytest.mark.parametrize("name", ["v1.2", "plain", ".hidden"])
def test_a_folder_may_have_a_dot_in_its_name(run: Path, tmp_path: Path, name: str) -> None:
    assert export_schedule(run, policy=None, seed=None, to=tmp_path / name).num_rows > 0
    (tmp_path / "made.before").mkdir()
    assert export_schedule(run, policy=None, seed=None, to=tmp_path / "made.before").num_rows > 0
