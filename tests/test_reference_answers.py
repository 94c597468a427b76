"""Held-out data without answers are found before a run begins, from files alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raise_mdit.config import ExperimentConfig
from raise_mdit.corpus import read_corpus
from raise_mdit.encoding import ChatEncoder
from raise_mdit.errors import ConfigError, DataError
from raise_mdit.reference_answers import check_reference_answers
from raise_mdit.results import HELD_OUT

NUM_ROWS = 12


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., ExperimentConfig]:
    """An experiment on rows of which some have an answer behind `####`."""

    def make(answers: list[bool], **data: Any) -> ExperimentConfig:
        rows = (
            {"prompt": f"w{i}", "completion": f"#### {i}" if has else f"w{i}"}
            for i, has in enumerate(answers)
        )
        (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return ExperimentConfig.model_validate(
            {
                "name": "sums",
                "data": {
                    "root": str(tmp_path),
                    "sources": ({"name": "sums", "kind": "dataset", "file": "sums.jsonl"},),
                    "pool": ({"source": "sums", "rows": 4},),
                    "reward_validation": ({"source": "sums", "rows": 2},),
                    "test": ({"source": "sums", "rows": 3},),
                    **data,
                },
                "evaluation": {"task_metric": "answer_match", "max_new_tokens": 4},
                "environment": {"budget": {"steps": 1}},
                "policies": ({"kind": "base"}, {"kind": "random"}),
            }
        )

    return make


def test_references_without_answers_are_counted(made: Callable[..., ExperimentConfig]) -> None:
    with pytest.raises(ConfigError, match=r"^evaluation\.extractor: gsm8k finds no .*3 of 3 ref.*"):
        check_reference_answers(made([False] * NUM_ROWS))
    check_reference_answers(made([True] * NUM_ROWS))


@pytest.mark.parametrize("without", range(NUM_ROWS))
def test_only_the_rows_that_a_run_draws_need_answers(
    made: Callable[..., ExperimentConfig], tokenizer: Any, tmp_path: Path, without: int
) -> None:
    """What a run reads is the oracle."""
    chosen = ({"source": "sums", "rows": 3},)
    config = made([row != without for row in range(NUM_ROWS)], model_selection=chosen)
    encoder = ChatEncoder(tokenizer, system_prompt=None)
    corpus = read_corpus(config.data, encoder, max_length=48, cache=tmp_path)
    drawn = {
        int(each.example.prompt.removeprefix("w")): split
        for split in HELD_OUT
        for each in corpus.splits[split]
    }
    assert len(drawn) == 6

    if without not in drawn:
        check_reference_answers(config)
        return
    with pytest.raises(ConfigError, match=f"1 of 3 references of data.{drawn[without]}\\)"):
        check_reference_answers(config)


def test_rows_that_may_be_too_long_are_left_to_the_run(
    made: Callable[..., ExperimentConfig],
) -> None:
    some = [True, False] * (NUM_ROWS // 2)
    with pytest.raises(ConfigError):
        check_reference_answers(made(some, test=({"source": "sums", "rows": 6},)))
    left = {"test": ({"source": "sums", "rows": 6},), "on_long_row": "drop"}
    check_reference_answers(made(some, **left))
    with pytest.raises(ConfigError):
        check_reference_answers(made([False] * NUM_ROWS, **left))


def test_what_is_on_the_hub_is_left_to_the_run(made: Callable[..., ExperimentConfig]) -> None:
    hub = {"name": "sums", "kind": "dataset", "hub": {"name": "nobody/nothing"}}

    check_reference_answers(made([], root=None, sources=(hub,)))


def test_broken_data_are_told(made: Callable[..., ExperimentConfig]) -> None:
    with pytest.raises(DataError, match="20 asked"):
        check_reference_answers(made([True] * NUM_ROWS, test=({"source": "sums", "rows": 20},)))


def test_other_metrics_read_nothing(made: Callable[..., ExperimentConfig]) -> None:
    config = made([False] * NUM_ROWS, root="/nowhere")
    exact = config.evaluation.model_copy(update={"task_metric": "exact_match"})

    check_reference_answers(config.model_copy(update={"evaluation": exact}))
