"""The benchmark of pools: what it compares with is the plain method, and its figures add up."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from raise_mdit.benchmarks.apart import call_here
from raise_mdit.benchmarks.plain_mosaics import compose_plainly
from raise_mdit.benchmarks.pools import main
from raise_mdit.candidates import make_example
from raise_mdit.core import Example, Message
from raise_mdit.sources.mosaic_wording import load_wording


@pytest.fixture
def examples() -> list[Example]:
    """Of three to seven words, no word twice."""
    return [
        make_example(
            "data",
            [
                Message("user", " ".join(f"ask{i}x{j}" for j in range(2 + i % 3))),
                Message("assistant", " ".join(f"tell{i}x{j}" for j in range(1 + i % 4))),
            ],
        )
        for i in range(60)
    ]


class Words:
    """A tokenizer of words that remembers what it was given."""

    chat_template = None
    eos_token = None
    all_special_tokens: Sequence[str] = ()

    def __init__(self) -> None:
        self.added_tokens_decoder: dict[int, Any] = {}
        self.texts: list[str] = []

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        raise AssertionError("not asked for")

    def __call__(self, text: list[str], **options: Any) -> Any:
        self.texts += text
        return {"input_ids": [each.split() for each in text]}


def composed(
    examples: Sequence[Example], tokenizer: Words, *, max_length: int = 20, passes: int = 2
) -> list[tuple[Message, ...]]:
    return compose_plainly(
        examples,
        passes=passes,
        max_instructions=5,
        max_length=max_length,
        tokenizer=tokenizer,
        wording=load_wording(),
        rng=np.random.default_rng(0),
    )


def test_every_instruction_stands_in_one_mosaic_a_pass(examples: list[Example]) -> None:
    made = composed(examples, Words())

    words = Counter(word for turns in made for word in turns[0].content.split())
    for example in examples:
        assert words[example.prompt.split()[-1]] == 2


def test_the_whole_text_is_tokenised_again_at_every_enlargement(examples: list[Example]) -> None:
    tokenizer = Words()
    made = composed(examples, tokenizer, max_length=10_000, passes=1)

    sizes = [sum(turns[0].content.count(e.prompt) for e in examples) for turns in made]
    assert max(sizes) == 5
    # A mosaic of k takes 1 + 2 + ... + k examples through the tokenizer.
    read = sum(text.count("ask") for text in tokenizer.texts)
    per_example = {len(e.prompt.split()) for e in examples}
    assert len(tokenizer.texts) == len(examples)
    assert read >= sum(k * (k + 1) // 2 for k in sizes) * min(per_example)


def test_instructions_and_responses_stay_below_the_limit(examples: list[Example]) -> None:
    tokenizer = Words()
    composed(examples, tokenizer, max_length=20)

    accepted = [len(text.split()) for text in tokenizer.texts]
    assert max(accepted) >= 20, "some enlargement was refused"
    assert composed(examples, Words(), max_length=3) == []


def test_the_command_prints_its_tables_and_writes_what_they_say(
    tmp_path: Path, random_llama: Callable[..., Any], tokenizer: Any
) -> None:
    random_llama().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"w{i} w{i + 1}", "completion": f"w{99 - i}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = Console(file=io.StringIO(), width=120, soft_wrap=True, record=True)

    code = main(
        [
            *("--data", str(tmp_path / "rows.jsonl"), "--model", str(tmp_path / "model")),
            *("--out", str(tmp_path / "out"), "--passes", "2", "--max-length", "500"),
            *("--million", "100", "--markdown"),
        ],
        call=call_here,
        out=shown,
        err=Console(file=io.StringIO()),
    )

    assert code == 0
    figures = json.loads((tmp_path / "out" / "pools.json").read_text())
    mosaics, large = figures["mosaics"], figures["large_pool"]
    assert figures["num_examples"] == 40
    assert figures["ratios"]["from_nothing"] == mosaics["plain"] / mosaics["from_nothing"]
    assert figures["ratios"]["counts_cached"] == mosaics["plain"] / mosaics["counts_cached"]
    assert 0 < mosaics["longest"] <= 500
    assert figures["mdit"]["num_kept"] == 40
    assert large["candidates"] == 100
    text = shown.export_text()
    assert "| plainly / this | mosaics |" in text.replace("an example and pass | ", "", 1)
    assert "A pool of 100 candidates" in text


def test_data_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    errors = io.StringIO()

    code = main(["--data", str(tmp_path / "no.json")], err=Console(file=errors, width=200))

    assert code == 2
    assert "no.json" in errors.getvalue()
