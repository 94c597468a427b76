"""Keys that are valid by themselves and do not fit each other or the disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raise_mdit.config import ExperimentConfig
from raise_mdit.experiment_checks import consistency_faults, largest_pool

Fields = dict[str, Any]  # an experiment before validation


def faults(fields: Fields) -> dict[str, str]:
    """Messages by dotted key."""
    found = consistency_faults(ExperimentConfig.model_validate(fields))
    return {".".join(map(str, fault.where)): fault.message for fault in found}


def test_a_consistent_experiment_has_no_faults(fields: Fields) -> None:
    assert faults(fields) == {}


def test_faults_of_learned_policies_are_among_them(fields: Fields) -> None:
    fields["reward"] = {"every": 11}
    assert list(faults(fields)) == ["reward.every"]


def test_source_names_differ(fields: Fields) -> None:
    fields["data"]["sources"] += ({"name": "tasks", "kind": "playground"},)
    assert faults(fields) == {
        "data.sources.2.name": "another source has the name 'tasks' already; names must differ"
    }


@pytest.mark.parametrize("part", ["pool", "reward_validation", "model_selection", "test"])
def test_shares_name_a_source(fields: Fields, part: str) -> None:
    fields["data"][part] = ({"source": "tasks", "rows": 100}, {"source": "math", "rows": 1})
    assert faults(fields) == {
        f"data.{part}.1.source": "no source is called 'math', allowed: tasks, maths. "
        "Did you mean 'maths'?"
    }


def test_policy_labels_differ(fields: Fields) -> None:
    fields["policies"] += ({"kind": "ppo"}, {"kind": "longest", "name": "base"})
    found = faults(fields)
    assert found["policies.3.kind"].startswith("another policy is called 'ppo' already; give each")
    assert found["policies.4.name"].startswith("another policy is called 'base' already")


@pytest.mark.parametrize(("left_out", "kept"), [("base", "random"), ("random", "base")])
def test_base_and_random_belong_in_a_comparison(fields: Fields, left_out: str, kept: str) -> None:
    fields["policies"] = ({"kind": kept, "name": left_out},)
    message = faults(fields)["policies"]
    assert message.startswith("a comparison needs base and random: without ")
    assert message.endswith(f"add `- kind: {left_out}`")


def test_the_largest_pool_counts_every_kind(fields: Fields) -> None:
    fields["pools"] = {"mosaic": {"passes": 3}, "mdit": {"ratio": 0.505}}
    assert largest_pool(ExperimentConfig.model_validate(fields)) == 100 + 300 + 51


def test_without_originals_only_the_made_candidates_count(fields: Fields) -> None:
    fields["pools"] = {"original": False, "mosaic": {"passes": 2}}
    assert largest_pool(ExperimentConfig.model_validate(fields)) == 200


def test_a_pool_of_all_rows_has_no_known_size(fields: Fields) -> None:
    fields["data"]["pool"] = ({"source": "tasks"},)
    fields["environment"] = {"window": 10**6, "budget": {"steps": 10**6}}
    assert faults(fields) == {}


def test_the_budget_fits_the_pool_without_repetition(fields: Fields) -> None:
    fields["environment"]["budget"] = {"steps": 11}
    assert faults(fields) == {
        "environment.budget.steps": "budget larger than the pool without repetition: 11 steps of "
        "10 are 110 candidates, the pool has at most 100, and random repeats none; lower "
        "steps to 10 or ask for more rows in `data.pool`"
    }


def test_a_budget_in_tokens_may_repeat_nothing_known(fields: Fields) -> None:
    fields["environment"]["budget"] = {"tokens": 10**9}
    assert faults(fields) == {}


def test_mosaics_make_the_pool_larger(fields: Fields) -> None:
    fields["environment"]["budget"] = {"steps": 20}
    fields["pools"] = {"mosaic": {}}
    assert faults(fields) == {}


def test_the_window_fits_the_pool(fields: Fields) -> None:
    fields["environment"]["window"] = 101
    message = faults(fields)["environment.window"]
    assert message.startswith("should not exceed the pool, got 101, allowed: up to 100; lower it")


def test_the_batch_fits_a_window_that_is_the_pool(fields: Fields) -> None:
    fields["environment"] = {"window": "pool", "batch_size": 101, "budget": {"steps": 1}}
    found = faults(fields)
    assert found["environment.batch_size"].endswith("got at most 100 candidates by `data.pool`")
    assert found["environment.budget.steps"].endswith("one; ask for more rows in `data.pool`")


def test_a_window_may_be_the_whole_pool(fields: Fields) -> None:
    fields["environment"]["window"] = "pool"
    assert faults(fields) == {}


def test_faults_of_pools_are_among_them(fields: Fields) -> None:
    fields["pools"] = {"renew": "episode"}
    assert list(faults(fields)) == ["pools.renew"]


def test_a_wording_is_a_file(fields: Fields, tmp_path: Path) -> None:
    (tmp_path / "wording.yaml").touch()
    fields["pools"] = {"mosaic": {"wording": str(tmp_path / "wordings.yaml")}}
    message = faults(fields)["pools.mosaic.wording"]
    assert message.startswith("there is no file")
    assert "wording.yaml" in message.removeprefix("there is no file")
    fields["pools"] = {"mosaic": {"wording": str(tmp_path / "wording.yaml")}}
    assert faults(fields) == {}


def test_a_custom_pool_has_a_size_that_only_the_source_knows(fields: Fields) -> None:
    fields["pools"] = {"custom": ({"kind": "a:B", "name": "own"},)}
    assert largest_pool(ExperimentConfig.model_validate(fields)) is None


def test_replayed_examples_count(fields: Fields) -> None:
    fields["pools"] = {"original": False, "mosaic": {"passes": 2, "replay": 0.25}}
    assert largest_pool(ExperimentConfig.model_validate(fields)) == 200 + 25


def test_a_mosaic_fits_the_model(fields: Fields) -> None:
    fields["model"] = {"max_length": 128}
    fields["pools"] = {"mosaic": {"max_length": 129}}
    message = "should not exceed model.max_length, got 129, allowed: up to 128"
    assert faults(fields) == {"pools.mosaic.max_length": message}


def with_file(fields: Fields, file: str, **others: Any) -> Fields:  # any key of a source
    source = {"name": "mine", "kind": "dataset", "file": file, **others}
    fields["data"]["sources"] += (source,)
    return fields


def test_files_exist_below_the_root(fields: Fields, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    fields["data"]["root"] = str(tmp_path)
    assert faults(with_file(fields, "train.jsonl")) == {}
    assert faults(with_file(fields, "tain.jsonl", name="other")) == {
        "data.sources.3.file": f"there is no file '{tmp_path}/tain.jsonl'. "
        "Did you mean 'train.jsonl'?"
    }


def test_without_a_root_files_are_looked_for_where_the_command_is_called(
    fields: Fields, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    message = faults(with_file(fields, "train.jsonl"))["data.sources.2.file"]

    assert message == (
        f"there is no file 'train.jsonl' below '{tmp_path}', where the command is called."
    )


def test_a_missing_folder_of_a_file_is_named(fields: Fields, tmp_path: Path) -> None:
    fields["data"]["root"] = str(tmp_path)
    message = faults(with_file(fields, "a/b.json"))["data.sources.2.file"]
    assert message.endswith(f" There is no folder '{tmp_path}/a'.")


def test_files_have_a_format_that_can_be_read(fields: Fields) -> None:
    message = "should end in one of .json, .jsonl, .parquet, got 'data.csv'"
    assert faults(with_file(fields, "data.csv")) == {"data.sources.2.file": message}


def test_without_a_root_the_hub_is_read_instead(fields: Fields) -> None:
    hub = {"name": "openai/gsm8k"}
    assert faults(with_file(fields, "missing.jsonl", hub=hub)) == {}


def test_the_root_exists(fields: Fields, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    fields["data"]["root"] = str(tmp_path / "dta")
    message = f"there is no folder '{tmp_path}/dta'. Did you mean 'data'?"
    assert faults(with_file(fields, "a.json")) == {"data.root": message}


@pytest.mark.parametrize("name", ["smollm2-135m", "HuggingFaceTB/SmolLM2-135M"])
def test_bundled_and_hub_models_are_taken_by_name(fields: Fields, name: str) -> None:
    assert faults(fields | {"model": {"name": name}}) == {}


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_models_on_disk_hold_a_model(
    fields: Fields, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "model"
    make(path)
    assert "model.name" in faults(fields | {"model": {"name": str(path)}})


def test_folders_and_gguf_files_are_models(fields: Fields, tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model.gguf").touch()
    for path in (tmp_path, tmp_path / "model.gguf"):
        assert faults(fields | {"model": {"name": str(path)}}) == {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm-135m", "there is no model 'smollm-135m', allowed: 'smollm2-135m', a hub name"),
        ("a/b/c", "there is no model 'a/b/c', allowed: "),
        ("./missing", "there is no 'missing'."),
        ("/nowhere/model.gguf", "there is no '/nowhere/model.gguf'. There is no folder '/nowhere'"),
        ("x" * 5000 + ".gguf", "there is no 'xxx"),
    ],
)
def test_models_that_are_not_there(fields: Fields, name: str, expected: str) -> None:
    assert faults(fields | {"model": {"name": name}})["model.name"].startswith(expected)


def test_a_seed_is_given_once(fields: Fields) -> None:
    fields["seeds"] = (3, 0, 3)
    assert faults(fields) == {"seeds.2": "seed 3 is given twice and would count as two; keep one"}


@pytest.mark.parametrize(
    ("source", "is_sound"),
    [
        ({"kind": "playground"}, False),
        ({"kind": "dataset", "hub": {"name": "a/b"}, "format": "question_answer"}, False),
        ({"kind": "dataset", "hub": {"name": "a/b"}, "format": "multiple_choice"}, True),
        ({"kind": "dataset", "hub": {"name": "a/b"}}, True),
    ],
    ids=["playground", "question_answer", "multiple_choice", "auto"],
)
def test_options_are_scored_of_sources_that_can_have_some(
    fields: Fields, source: Fields, is_sound: bool
) -> None:
    fields["evaluation"] = {"task_metric": "option_likelihood"}
    fields["data"]["sources"] += ({"name": "exam", **source},)
    fields["data"]["test"] = ({"source": "exam"},)

    found = faults(fields)

    message = found.get("data.test.0.source", "").split(",")[0]
    assert message == ("" if is_sound else "source 'exam' has no options")
    assert set(found) <= {"data.test.0.source"}
