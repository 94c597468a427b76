"""A schedule that leaves the run directory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raise_mdit.candidates import Candidate, Mdit, Original, Recipe, make_example
from raise_mdit.comparison import ArmResult, summarise, to_json
from raise_mdit.core import Cost, Example, Message
from raise_mdit.errors import RunError
from raise_mdit.export import export_schedule
from raise_mdit.pool import Pool
from raise_mdit.runs import write_text
from raise_mdit.schedule import Pick, order_digest, write_schedule

SUFFIXED = ("e.csv", "deep/e.jsonl", "e.parquet", "e.Z")

RECIPE: dict[str, object] = {"batch_size": 2, "max_length": 64, "model": "some/model"}


def example(text: str) -> Example:
    return make_example("toy", [Message("user", text), Message("assistant", text.upper())])


def arm(policy: str, seed: int, loss: float, *, returns: tuple[float, ...] = ()) -> ArmResult:
    return ArmResult(
        policy=policy,
        kind=policy,
        seed=seed,
        status="complete",
        test_loss=loss,
        metric=None,
        test_metric=None,
        target_losses={"toy": loss},
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
    write_schedule(directory, [], RECIPE)
    Pool.of(candidates).write(directory / "pool.parquet")
    rows = [
        {"id": each.id, "source": "toy", "messages": [list(turn) for turn in each.messages]}
        for each in examples
    ]
    write_text(directory / "examples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_text(directory / "results.json", to_json(arms, summarise(arms)))
    return directory


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_stand_in_the_order_of_training(run: Path, tmp_path: Path) -> None:
    export_schedule(run, policy="ppo", seed=3, to=tmp_path / "out")

    rows = lines(tmp_path / "out" / "sft.jsonl")
    prompts = [row["messages"][0]["content"] for row in rows]  # type: ignore[index]
    assert prompts == ["three", "one", "two", "three"]
    assert [row["step"] for row in rows] == [0, 0, 1, 1]


def test_an_interpolated_row_is_marked_and_keeps_its_recipe(run: Path, tmp_path: Path) -> None:
    export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out")

    marked = [bool(row.get("interpolated")) for row in lines(tmp_path / "out" / "sft.jsonl")]
    recipe = lines(tmp_path / "out" / "schedule.jsonl")[2]["recipe"]
    assert marked == [False, False, True, False]
    assert isinstance(recipe, dict)
    assert recipe["weight"] == 0.25
    assert "1 rows are interpolations" in (tmp_path / "out" / "README.md").read_text()


def test_the_manifest_says_what_the_rows_belong_to(run: Path, tmp_path: Path) -> None:
    exported = export_schedule(run, policy="ppo", seed=0, to=tmp_path / "out")

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    picks = [
        Pick(**{key: value for key, value in row.items() if key != "recipe"})  # type: ignore[arg-type]
        for row in lines(tmp_path / "out" / "schedule.jsonl")
    ]
    assert manifest["recipe"] == RECIPE
    assert manifest["num_rows"] == exported.num_rows == 4
    assert manifest["order_digest"] == order_digest(picks)


def test_the_best_learned_policy_is_the_default(run: Path) -> None:
    exported = export_schedule(run, policy=None, seed=None, to=None)

    assert (exported.policy, exported.seed) == ("ppo", 0)
    assert exported.directory == run / "export"


def test_the_best_over_several_targets_is_the_default(run: Path) -> None:
    """By the loss over all tokens ppo would be."""
    losses = {"base": (4.0, 2.0), "ppo": (4.0, 1.0), "other": (1.0, 1.9)}
    arms = [
        replace(
            arm(policy, seed, total, returns=() if policy == "base" else (0.1,)),
            target_losses=dict(zip(("short", "long"), losses[policy], strict=True)),
        )
        for policy, seed, total in (("base", 0, 2.1), ("ppo", 0, 1.2), ("other", 1, 1.8))
    ]
    write_text(run / "results.json", to_json(arms, summarise(arms)))

    assert export_schedule(run, policy=None, seed=None, to=None).policy == "other"

    write_text(run / "results.json", to_json(arms[1:], summarise(arms[1:])))
    with pytest.raises(RunError, match="base has not finished, against which several targets"):
        export_schedule(run, policy=None, seed=None, to=None)


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
