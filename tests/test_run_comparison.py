"""Runs that are compared with each other, from files alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.arm_results import arms, of_items, opened

from raise_mdit import cli
from raise_mdit.config import ExperimentConfig
from raise_mdit.errors import RunError
from raise_mdit.experiment import more_seeds
from raise_mdit.experiment_file import load_experiment, resolved_yaml
from raise_mdit.results import ArmResult, to_json
from raise_mdit.run_comparison import Gathered, gather
from raise_mdit.runs import arm_folder

EXPERIMENT = """\
name: toy
seeds: [0, 1]
model: {max_length: 64}
data:
  sources:
    - {name: toy, kind: playground}
    - {name: other, kind: playground, seed: 7}
  pool: [{source: toy}]
  reward_validation: [{source: toy, rows: 4}]
  test: [{source: toy, rows: 4}]
environment: {budget: {steps: 2}, window: 8, batch_size: 2}
policies: [{kind: base}, {kind: random}, {kind: longest}]
"""


def config(folder: Path, *overrides: str) -> ExperimentConfig:
    file = folder / "toy.yaml"
    file.write_text(EXPERIMENT)
    return load_experiment(file, list(overrides))


def run_of(folder: Path, name: str, results: list[ArmResult], *overrides: str) -> Path:
    directory = folder / name
    directory.mkdir()
    (directory / "config.yaml").write_text(resolved_yaml(config(folder, *overrides)))
    (directory / "results.json").write_text(to_json(results))
    return directory


def told(gathered: Gathered) -> tuple[str, ...]:
    """In what runs differ; most of these have more policies and seeds than have finished."""
    return tuple(note for note in gathered.notes if not note.endswith(" arms have finished."))


def test_a_single_run_is_what_it_holds(tmp_path: Path) -> None:
    results = arms("random", 1.0, 2.0)
    gathered = gather([run_of(tmp_path, "a", results)])
    assert gathered.arms == tuple(results)
    assert told(gathered) == ()


def test_runs_that_differ_in_seeds_and_policies_are_one_experiment(tmp_path: Path) -> None:
    first = arms("random", 1.0, 2.0)
    later = [replace(arm, seed=arm.seed + 2) for arm in first]
    ppo = arms("ppo", 0.5, 1.5)
    directories = [
        run_of(tmp_path, "a", first),
        run_of(
            tmp_path,
            "b",
            [*later, *ppo],
            "seeds=[0, 1, 2, 3]",
            "policies=[{kind: base}, {kind: random}, {kind: dsir}]",
        ),
    ]
    gathered = gather(directories)
    assert [(arm.policy, arm.seed) for arm in gathered.arms] == [
        *(("random", seed) for seed in range(4)),
        *(("ppo", seed) for seed in range(2)),
    ]
    assert told(gathered) == ()


def test_an_arm_that_two_runs_share_counts_once(tmp_path: Path) -> None:
    results = arms("random", 1.0, 2.0)
    gathered = gather([run_of(tmp_path, "a", results), run_of(tmp_path, "b", results)])
    assert gathered.arms == tuple(results)


def test_a_run_that_goes_on_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    """Arms that have finished since it was stopped last stand in folders of their own alone."""
    before, since = arms("base", 3.0), [*arms("random", 1.0, 2.0), *arms("base", 3.0)]
    stopped = run_of(tmp_path, "stopped", before)
    started = run_of(tmp_path, "started", [])
    (started / "results.json").unlink()
    for directory in (stopped, started):
        for arm in since:
            folder = arm_folder(directory, arm.policy, arm.seed)
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(to_json([arm]))

    for directory in (stopped, started):
        gathered = gather([directory])
        assert {(arm.policy, arm.seed) for arm in gathered.arms} == {
            ("base", 0), ("random", 0), ("random", 1),
        }  # fmt: skip
        assert gathered.notes == (f"{directory}: 3 of 6 arms have finished.",)


def test_a_run_of_which_nothing_has_finished_is_told(tmp_path: Path) -> None:
    directory = run_of(tmp_path, "a", [])
    (directory / "results.json").unlink()
    with pytest.raises(RunError, match=r"results\.json: no such file; was a run ever finished"):
        gather([directory])


def test_one_arm_with_two_outcomes_is_refused(tmp_path: Path) -> None:
    directories = [
        run_of(tmp_path, "a", arms("random", 1.0)),
        run_of(tmp_path, "b", arms("random", 1.5)),
    ]
    with pytest.raises(RunError, match=r"b: random with seed 0 .* another outcome"):
        gather(directories)


def test_what_else_differs_is_told_and_names_the_policies(tmp_path: Path) -> None:
    directories = [
        run_of(tmp_path, "slow", arms("random", 1.0)),
        run_of(tmp_path, "fast", arms("random", 1.5), "learner.learning_rate=0.01"),
    ]
    gathered = gather(directories)
    assert [arm.policy for arm in gathered.arms] == ["random (slow)", "random (fast)"]
    assert told(gathered) == ("The runs differ in learner.learning_rate: 0.0001 and 0.01.",)


def test_different_policies_of_one_name_are_told_apart(tmp_path: Path) -> None:
    directories = [
        run_of(tmp_path, "once", arms("longest", 1.0)),
        run_of(
            tmp_path,
            "twice",
            arms("longest", 1.5),
            "policies=[{kind: base}, {kind: random}, {kind: longest, repeat: 2}]",
        ),
    ]
    gathered = gather(directories)
    assert [arm.policy for arm in gathered.arms] == ["longest (once)", "longest (twice)"]
    assert told(gathered) == ("The runs differ in what they call longest.",)


def test_two_task_metrics_are_not_put_into_one_column(tmp_path: Path) -> None:
    first, other = (
        [
            replace(arm, metric=metric, test=replace(opened(arm), metric=0.5, item_metrics=(0.5,)))
            for arm in arms(policy, 1.0)
        ]
        for policy, metric in (("random", "option_likelihood"), ("ppo", "mine:score"))
    )
    directories = [
        run_of(tmp_path, "a", first),
        run_of(tmp_path, "b", other, "evaluation.task_metric=exact_match"),
    ]
    gathered = gather(directories)
    assert [(arm.metric, opened(arm).metric) for arm in gathered.arms] == [(None, None)] * 2
    assert [opened(arm).item_metrics for arm in gathered.arms] == [None] * 2
    assert "compared by loss alone" in told(gathered)[-1]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.max_length=32", "model.max_length: 64 and 32"),
        ("data.test=[{source: toy, rows: 5}]", "data.test"),
        ("data.seed=3", "data.seed: 0 and 3"),
        ("data.sources.toy.seed=5", r"data.sources.toy.seed: 0 and 5"),
    ],
)
def test_runs_on_other_data_are_refused_by_key(tmp_path: Path, override: str, key: str) -> None:
    directories = [
        run_of(tmp_path, "a", arms("random", 1.0)),
        run_of(tmp_path, "b", arms("random", 1.0), override),
    ]
    with pytest.raises(RunError, match=key):
        gather(directories)


def test_a_source_that_is_not_held_out_may_differ(tmp_path: Path) -> None:
    directories = [
        run_of(tmp_path, "a", arms("random", 1.0)),
        run_of(tmp_path, "b", arms("random", 1.5), "data.sources.other.seed=9"),
    ]
    assert told(gather(directories)) == ("The runs differ in data.sources.other.seed: 7 and 9.",)


def test_other_rows_of_the_same_share_are_refused(tmp_path: Path) -> None:
    first, other = (
        [replace(arm, test=of_items([1.0, 2.0], tokens)) for arm in arms(policy, 1.0)]
        for policy, tokens in (("random", [3, 4]), ("ppo", [3, 5]))
    )
    directories = [run_of(tmp_path, "a", first), run_of(tmp_path, "b", other)]
    with pytest.raises(RunError, match="different test items"):
        gather(directories)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a run directory \(no config.yaml\)"):
        gather([tmp_path])


def test_more_seeds_go_on_from_the_largest(tmp_path: Path) -> None:
    given = config(tmp_path, "seeds=[4, 1]")
    assert more_seeds(given, 2).seeds == (4, 1, 5, 6)
    assert more_seeds(given, 2).model_copy(update={"seeds": given.seeds}) == given


def test_compare_holds_every_policy_against_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [*arms("random", 3.0, 3.1), *arms("less", 2.0, 2.1), *arms("ppo", 1.0, 1.25)]
    directory = str(run_of(tmp_path, "a", results))

    monkeypatch.setattr(sys, "argv", ["raise-mdit", "compare", directory, "--against", "ppo"])
    with pytest.raises(SystemExit):
        cli.main()

    assert "minus ppo" in capsys.readouterr().out
