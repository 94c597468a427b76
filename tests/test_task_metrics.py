"""What generated responses are worth: answers by hand, and functions of the user's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raise_mdit.config import EvaluationConfig
from raise_mdit.errors import ConfigError, DataError
from raise_mdit.task_metrics import (
    Answered,
    AnswerMetric,
    gsm8k_answer,
    last_number,
    load_answer_metric,
    same_answer,
)

OWN = """
import numpy as np

def overlap(prompt, generated, reference):
    wanted = set(reference.split())
    return len(wanted & set(generated.split())) / len(wanted)

def asked(prompt, generated, reference):
    return np.float32(prompt == "what")

def above(prompt, generated, reference):
    return 1.5

def text(prompt, generated, reference):
    return "good"

def nothing(prompt, generated, reference):
    return float("nan")

def raising(prompt, generated, reference):
    return 1 / len(generated)

def letter(text):
    return text.strip()[:1] or None

def number(text):
    return 3
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file of the user's in the working directory."""
    (tmp_path / "own_metric.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_metric", None)


def loaded(**fields: Any) -> AnswerMetric:
    metric = load_answer_metric(EvaluationConfig(**fields))
    assert metric is not None
    return metric


def worth(metric: AnswerMetric, generated: str, reference: str, prompt: str = "what") -> float:
    (score,) = metric.scores([Answered(prompt, generated, reference)])
    return score


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So 3 + 4 = 7.\n#### 7", "7"),
        ("#### 1,234,567", "1,234,567"),
        ("####-12.5 apples, then #### 9", "-12.5"),
        ("#### $18.", "$18"),
        ("####\n 0.5", "0.5"),
        ("the answer is 7", None),
        ("#### seven, or 7", None),
        ("", None),
    ],
)
def test_an_answer_of_gsm8k_stands_behind_its_mark(text: str, answer: str | None) -> None:
    assert gsm8k_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 3 cats and 12 dogs.", "12"),
        ("It costs $1,200.50.", "$1,200.50"),
        ("It is -4", "-4"),
        ("It is 16-3", "3"),
        ("f(2)-3", "3"),
        ("about .75 of it", ".75"),
        ("1, 2,3", "3"),
        ("none at all", None),
    ],
)
def test_the_last_number_of_a_text(text: str, answer: str | None) -> None:
    assert last_number(text) == answer


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("1,200", "1200.0", True),
        ("$18", "18.00", True),
        ("-0.5", "-.5", True),
        ("0.1", "0.10000000000000000001", False),
        ("12", "-12", False),
        ("Paris", "Paris", True),
        ("Paris", "paris", False),
        ("7", "seven", False),
        ("1,2", "12", False),
        ("nan", "nan", True),
    ],
)
def test_numbers_compare_as_numbers_and_the_rest_to_the_letter(
    first: str, second: str, same: bool
) -> None:
    assert same_answer(first, second) is same_answer(second, first) is same


@pytest.mark.parametrize(
    ("extractor", "generated", "reference", "score"),
    [
        ("gsm8k", "2 + 2 = 4\n#### 4.0", "It is 4. #### 4", 1.0),
        ("gsm8k", "It is 4", "#### 4", 0.0),
        ("gsm8k", "#### 5", "#### 4", 0.0),
        ("last_number", "It is 4.", "#### 4", 1.0),
        ("whole", " Paris\n", "Paris", 1.0),
        ("whole", "Paris, France", "Paris", 0.0),
        ("own_metric:letter", " b) the second", "b", 1.0),
        ("own_metric:letter", "", "b", 0.0),
    ],
)
def test_a_response_is_right_if_its_answer_is_the_references(
    extractor: str, generated: str, reference: str, score: float
) -> None:
    metric = loaded(task_metric="answer_match", extractor=extractor)

    assert worth(metric, generated, reference) == score


def test_a_metric_of_ones_own_is_given_prompt_response_and_reference() -> None:
    overlap = loaded(task_metric="own_metric:overlap", max_new_tokens=7)

    assert overlap.max_new_tokens == 7
    assert worth(overlap, "a b x", "a b c d") == 0.5
    asked = loaded(task_metric="own_metric:asked")
    assert [worth(asked, "", "", prompt) for prompt in ("what", "why")] == [1.0, 0.0]
    assert type(worth(asked, "", "")) is float


@pytest.mark.parametrize("metric", [None, "exact_match", "option_likelihood"])
def test_other_metrics_generate_nothing(metric: str | None) -> None:
    assert load_answer_metric(EvaluationConfig(task_metric=metric)) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("above", "own_metric:above gives for the response 'long.*' is 1.5; return a number from"),
        ("nothing", "gives for the response 'long.*' is nan; return a number from 0 to 1"),
        ("text", "gives for the response 'long.*' is of type str; return a number from 0 to 1"),
    ],
)
def test_a_metric_that_gives_no_share_is_the_users_error(name: str, message: str) -> None:
    metric = loaded(task_metric=f"own_metric:{name}")

    with pytest.raises(DataError, match=rf"^evaluation\.task_metric: what .*{message}"):
        worth(metric, "long " * 100, "right")


def test_a_metric_that_raises_is_the_users_error() -> None:
    metric = loaded(task_metric="own_metric:raising")

    with pytest.raises(DataError) as caught:
        worth(metric, "", "right")

    assert str(caught.value) == (
        "evaluation.task_metric: own_metric:raising raised ZeroDivisionError: division by zero "
        "(own_metric.py:21) for the response '' to 'what'; mend it"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        ("gsm8k", r"gsm8k finds no answer in the reference 'four'; take .*\(gsm8k, last_number"),
        ("own_metric:number", "what own_metric:number gives for 'four' is of type int"),
        ("own_metric:letter", None),
    ],
)
def test_an_extractor_that_does_not_fit_is_the_users_error(
    extractor: str, message: str | None
) -> None:
    metric = loaded(task_metric="answer_match", extractor=extractor)

    if message is None:
        assert worth(metric, "four", "four") == 1.0
        return
    with pytest.raises(DataError, match=rf"^evaluation\.extractor: {message}"):
        worth(metric, "four", "four")


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"task_metric": "own_metric:scor"}, "evaluation.task_metric"),
        ({"task_metric": "answer_match", "extractor": "own_metri:letter"}, "evaluation.extractor"),
        ({"task_metric": "own_metric:letter"}, "evaluation.task_metric"),  # takes a text alone
    ],
)
def test_a_function_that_cannot_be_had_is_the_users_error(fields: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: "):
        load_answer_metric(EvaluationConfig(**fields))


def faults(make: Callable[[], EvaluationConfig]) -> str:
    with pytest.raises(ValidationError) as caught:
        make()
    return "; ".join(each["msg"] for each in caught.value.errors())


def test_a_name_that_is_neither_ours_nor_a_path_is_a_fault() -> None:
    assert faults(lambda: EvaluationConfig(task_metric="exact_mach")) == (
        "Value error, got 'exact_mach', allowed: exact_match, option_likelihood, answer_match, or "
        "`package.module:function`. Did you mean 'exact_match'?"
    )
    assert faults(lambda: EvaluationConfig(task_metric="answer_match", extractor="gsm")) == (
        "Value error, got 'gsm', allowed: gsm8k, last_number, whole, or `package.module:function`."
        " Did you mean 'gsm8k'?"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extractor": "whole"}, "extractor: has no effect without `task_metric: answer_match`"),
        (
            {"task_metric": "own_metric:overlap", "extractor": "whole"},
            "extractor: has no effect without `task_metric: answer_match`",
        ),
        (
            {"task_metric": "exact_match", "max_new_tokens": 9},
            "max_new_tokens: has no effect, as this `task_metric` generates nothing",
        ),
    ],
)
def test_a_setting_without_effect_is_a_fault(fields: Any, message: str) -> None:
    assert faults(lambda: EvaluationConfig(**fields)) == f"Value error, {message}"
