"""From files to encoded splits: what is left out is counted, and nothing too long gets in.

A row of ``p`` words in the prompt and ``r`` in the response has ``p + r + 3`` tokens: one for each
word, one for each turn's role and one for the end of the response.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raise_mdit.config import (
    DataConfig,
    DatasetSource,
    PlaygroundSource,
    PoolShareConfig,
    ShareConfig,
)
from raise_mdit.corpus import Corpus, SpecialRow, read_corpus
from raise_mdit.encoding import ChatEncoder
from raise_mdit.errors import DataError
from raise_mdit.splits import SPLITS, SplitName

Row = dict[str, str]


def row(number: int, *, prompt: int = 3, response: int = 2) -> Row:
    """A row of so many words, no two rows alike."""
    asked = " ".join([f"w{number}", *["w98"] * (prompt - 1)])
    return {"prompt": asked, "completion": " ".join([f"w{number}"] * response)}


@pytest.fixture
def rows() -> list[Row]:
    """Eight rows of eight tokens."""
    return [row(number) for number in range(8)]


def write(folder: Path, rows: list[Row], name: str = "mine") -> None:
    lines = (json.dumps(each) + "\n" for each in rows)
    (folder / f"{name}.jsonl").write_text("".join(lines))


def config(folder: Path, **changes: Any) -> DataConfig:
    """Four rows for the pool, two for reward-validation and two for the test."""
    default: dict[str, Any] = {
        "root": str(folder),
        "sources": (DatasetSource(name="mine", kind="dataset", file="mine.jsonl"),),
        "pool": (PoolShareConfig(source="mine"),),
        "reward_validation": (ShareConfig(source="mine", rows=2),),
        "test": (ShareConfig(source="mine", rows=2),),
    }
    return DataConfig(**{**default, **changes})


def read(data: DataConfig, tokenizer: Any, max_length: int = 16) -> Corpus:
    assert data.root is not None
    cache = Path(data.root) / "cache"
    return read_corpus(data, ChatEncoder(tokenizer), max_length=max_length, cache=cache)


def num_examples(corpus: Corpus) -> dict[SplitName, int]:
    return {split: len(corpus.splits[split]) for split in SPLITS}


def only_pool(folder: Path, **changes: Any) -> DataConfig:
    """The source `mine` is the pool's alone; held-out rows are the playground's."""
    held_out = PlaygroundSource(name="play", kind="playground", rows_per_family=1)
    share = (ShareConfig(source="play", rows=1, tasks=("arithmetic_story",)),)
    return config(
        folder,
        sources=(DatasetSource(name="mine", kind="dataset", file="mine.jsonl"), held_out),
        reward_validation=share,
        test=(ShareConfig(source="play", rows=1, tasks=("sorting",)),),
        **changes,
    )


# --- What fits.


def test_every_row_is_in_one_split(tmp_path: Path, tokenizer: Any, rows: list[Row]) -> None:
    write(tmp_path, rows)

    corpus = read(config(tmp_path), tokenizer)

    assert num_examples(corpus) == {
        "test": 2,
        "model_selection": 0,
        "reward_validation": 2,
        "pool": 4,
    }
    prompts = [each.example.prompt for split in SPLITS for each in corpus.splits[split]]
    assert sorted(prompts) == sorted(each["prompt"] for each in rows)


def test_rows_are_encoded_with_their_own_text(
    tmp_path: Path, tokenizer: Any, rows: list[Row]
) -> None:
    write(tmp_path, rows)

    corpus = read(config(tmp_path), tokenizer)

    for split in SPLITS:
        for each, encoded in zip(corpus.splits[split], corpus.encoded(split), strict=True):
            prompt, response = each.example.prompt, each.example.response
            text = f"<user> {prompt} <assistant> {response} </s>"
            assert tokenizer.decode(encoded.ids) == text
            assert tokenizer.decode(encoded.targets[:, 0]) == f"{response} </s>"
            assert encoded.key == each.example.id


def test_the_notes_count_what_was_taken(tmp_path: Path, tokenizer: Any, rows: list[Row]) -> None:
    write(tmp_path, rows)

    assert read(config(tmp_path), tokenizer).notes == [
        "Splits: test 2, model_selection 0, reward_validation 2, pool 4 examples.",
        "Overlap removed: none found.",
        "Duplicates within a source: 0, across the sources of a split: 0. Rows that could not be "
        "read: 0. Too long: 0 dropped, "
        "0 truncated.",
    ]


def test_the_notes_count_label_noise(tmp_path: Path, tokenizer: Any, rows: list[Row]) -> None:
    write(tmp_path, rows)
    pool = (PoolShareConfig(source="mine", label_noise=0.5),)

    notes = read(config(tmp_path, pool=pool), tokenizer).notes

    assert "Label noise: the response of another stands in 2 examples of the pool." in notes


def test_files_and_the_playground_stand_together(
    tmp_path: Path, tokenizer: Any, rows: list[Row]
) -> None:
    write(tmp_path, rows)

    corpus = read(only_pool(tmp_path), tokenizer, max_length=512)

    assert num_examples(corpus) == {
        "test": 1,
        "model_selection": 0,
        "reward_validation": 1,
        "pool": 8,
    }
    (held_out,) = corpus.splits["test"]
    assert (held_out.example.source, held_out.example.task) == ("play", "sorting")
    assert {each.example.source for each in corpus.splits["pool"]} == {"mine"}


# --- What is too long.


def test_long_rows_stop_the_run_and_the_longest_is_shown(tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path, [*map(row, range(8)), row(20, prompt=65), row(21, prompt=70)])

    with pytest.raises(DataError) as fault:
        read(only_pool(tmp_path), tokenizer, max_length=64)

    message = str(fault.value)
    assert message.startswith("data.pool: 2 of 10 examples are longer than model.max_length 64;")
    assert "the longest has 75 tokens" in message
    assert f"source 'mine': '{row(21, prompt=70)['prompt'][:60]}'" in message
    assert message.endswith("set data.on_long_row to drop or truncate")


def test_a_row_may_be_as_long_as_the_limit(tmp_path: Path, tokenizer: Any, rows: list[Row]) -> None:
    write(tmp_path, rows)

    corpus = read(config(tmp_path), tokenizer, max_length=8)

    assert {each.num_tokens for each in corpus.encoded("pool")} == {8}


def test_long_rows_are_dropped_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path, [*map(row, range(8)), row(20, prompt=70), row(21, response=80)])

    corpus = read(only_pool(tmp_path, on_long_row="drop"), tokenizer, max_length=64)

    assert num_examples(corpus)["pool"] == 8
    assert (corpus.num_dropped, corpus.num_truncated) == (2, 0)
    assert "2 dropped, 0 truncated" in corpus.notes[-1]


def test_long_rows_are_cut_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path, [*map(row, range(8)), row(20, prompt=3, response=80)])

    corpus = read(only_pool(tmp_path, on_long_row="truncate"), tokenizer, max_length=64)

    (cut,) = (each for each in corpus.encoded("pool") if each.num_tokens > 8)
    assert cut.num_tokens == 64
    assert cut.num_scored == 64 - 5  # the prompt's three words and two roles
    assert (corpus.num_dropped, corpus.num_truncated) == (0, 1)
    assert "0 dropped, 1 truncated" in corpus.notes[-1]


@pytest.mark.parametrize("prompt", [62, 63, 90])
def test_rows_whose_response_would_be_cut_off_are_dropped(
    prompt: int, tmp_path: Path, tokenizer: Any
) -> None:
    write(tmp_path, [*map(row, range(8)), row(20, prompt=prompt), row(21, response=80)])

    corpus = read(only_pool(tmp_path, on_long_row="truncate"), tokenizer, max_length=64)

    assert num_examples(corpus)["pool"] == 9
    assert (corpus.num_dropped, corpus.num_truncated) == (1, 1)


def test_the_last_token_that_fits_may_be_the_only_one_of_the_response(
    tmp_path: Path, tokenizer: Any
) -> None:
    write(tmp_path, [*map(row, range(8)), row(20, prompt=61)])

    corpus = read(only_pool(tmp_path, on_long_row="truncate"), tokenizer, max_length=64)

    assert sorted(each.num_scored for each in corpus.encoded("pool")) == [1, *[3] * 8]
    assert (corpus.num_dropped, corpus.num_truncated) == (0, 1)


@pytest.mark.parametrize("choice", ["drop", "truncate"])
def test_a_split_that_nothing_is_left_of_is_named(
    choice: str, tmp_path: Path, tokenizer: Any
) -> None:
    write(tmp_path, [row(number, prompt=80) for number in range(4)])

    with pytest.raises(DataError, match=r"data\.pool: no example fits in model\.max_length 64"):
        read(only_pool(tmp_path, on_long_row=choice), tokenizer, max_length=64)


# --- What is left out for other reasons.


def test_bad_rows_stop_the_run(tmp_path: Path, tokenizer: Any, rows: list[Row]) -> None:
    write(tmp_path, [*rows, {"prompt": "w1"}])

    with pytest.raises(DataError, match=r"mine\.jsonl:9: .*completion"):
        read(config(tmp_path), tokenizer)


def test_skipped_bad_rows_are_listed_and_counted(
    tmp_path: Path, tokenizer: Any, rows: list[Row]
) -> None:
    write(tmp_path, [*rows[:3], {"prompt": "w1"}, *rows[3:], {"prompt": "w2", "completion": " "}])

    corpus = read(config(tmp_path, on_bad_row="skip"), tokenizer)

    assert [bad.where for bad in corpus.bad_rows] == ["mine.jsonl:4", "mine.jsonl:10"]
    assert "Rows that could not be read: 2." in corpus.notes[-1]
    assert sum(num_examples(corpus).values()) == 8


def test_the_first_rows_that_could_not_be_read_are_told_one_by_one(
    tmp_path: Path, tokenizer: Any, rows: list[Row]
) -> None:
    bad = {"prompt": "w2", "completion": " "}
    data = config(tmp_path, on_bad_row="skip")
    reason = "the response is blank"

    write(tmp_path, [*rows, bad, bad])
    assert (
        f"Not read: mine.jsonl:9: {reason}; mine.jsonl:10: {reason}." in read(data, tokenizer).notes
    )
    write(tmp_path, [*rows, *[bad] * 28])
    (told,) = (note for note in read(data, tokenizer).notes if note.startswith("Not read"))

    assert told.count(reason) == 5
    assert told.endswith(
        f"mine.jsonl:13: {reason}; and 23 more, all in the preparation.json of a run."
    )


@pytest.mark.parametrize("column", ["prompt", "completion"])
def test_rows_that_hold_a_special_token_are_left_out_listed_and_told(
    tmp_path: Path, tokenizer: Any, rows: list[Row], column: str
) -> None:
    planted = [row(number) for number in range(20, 23)]
    planted[0][column] += " </s>"
    planted[1][column] += "<s>w1"
    write(tmp_path, rows)
    write(tmp_path, planted, name="other")
    sources = tuple(
        DatasetSource(name=name, kind="dataset", file=f"{name}.jsonl") for name in ("mine", "other")
    )
    pool = (PoolShareConfig(source="mine"), PoolShareConfig(source="other"))

    corpus = read(config(tmp_path, sources=sources, pool=pool), tokenizer)

    clean = {each["prompt"] for each in (*rows, planted[2])}
    prompts = [each.example.prompt for split in SPLITS for each in corpus.splits[split]]
    assert sorted(prompts) == sorted(clean)
    ends = tokenizer.eos_token_id
    assert all((each.ids == ends).sum() == 1 for split in SPLITS for each in corpus.encoded(split))
    assert {(each.split, each.source, each.token) for each in corpus.special_rows} == {
        ("pool", "other", "</s>"),
        ("pool", "other", "<s>"),
    }
    assert {each.opening for each in corpus.special_rows} == {
        each["prompt"] for each in planted[:2]
    }
    assert (
        "2 examples of the pool hold text that the tokenizer reads as special tokens "
        "('</s>', '<s>') and are left out."
    ) in corpus.notes


def test_held_out_rows_that_hold_a_special_token_are_left_out_too(
    tmp_path: Path, tokenizer: Any, rows: list[Row]
) -> None:
    write(tmp_path, rows)
    write(tmp_path, [row(20), {"prompt": "w21 <pad>", "completion": "w22"}], name="other")
    sources = tuple(
        DatasetSource(name=name, kind="dataset", file=f"{name}.jsonl") for name in ("mine", "other")
    )
    held_out = (ShareConfig(source="other"),)

    corpus = read(config(tmp_path, sources=sources, reward_validation=held_out), tokenizer)

    assert [each.example.prompt for each in corpus.splits["reward_validation"]] == ["w20 w98 w98"]
    (left_out,) = corpus.special_rows
    assert left_out == SpecialRow("reward_validation", "other", left_out.id, "<pad>", "w21 <pad>")
    assert (
        "1 example of the reward-validation holds text that the tokenizer reads as special tokens "
        "('<pad>') and is left out."
    ) in corpus.notes


def test_a_split_of_which_every_row_holds_a_special_token_is_refused(
    tmp_path: Path, tokenizer: Any
) -> None:
    write(tmp_path, [{"prompt": "w1", "completion": "w2 </s>"}])

    with pytest.raises(DataError, match=r"data\.pool: every example holds text .* as '</s>'"):
        read(only_pool(tmp_path), tokenizer, max_length=64)


def test_bad_rows_and_duplicates_of_all_sources_are_counted_together(
    tmp_path: Path, tokenizer: Any, rows: list[Row]
) -> None:
    write(tmp_path, [*rows, rows[0], {"prompt": "w1"}])
    others = [row(number) for number in range(20, 23)]
    write(tmp_path, [*others, others[0], others[2], {"prompt": "w1"}], name="other")
    sources = tuple(
        DatasetSource(name=name, kind="dataset", file=f"{name}.jsonl") for name in ("mine", "other")
    )
    pool = (PoolShareConfig(source="mine"), PoolShareConfig(source="other"))

    corpus = read(config(tmp_path, sources=sources, pool=pool, on_bad_row="skip"), tokenizer)

    assert num_examples(corpus)["pool"] == 4 + 3
    assert corpus.num_duplicates == 3
    assert [bad.where for bad in corpus.bad_rows] == ["mine.jsonl:10", "other.jsonl:6"]
    assert "Duplicates within a source: 3," in corpus.notes[-1]


def test_overlap_between_splits_is_removed_and_noted(
    tmp_path: Path, tokenizer: Any, rows: list[Row]
) -> None:
    write(tmp_path, rows)
    copies = [{**rows[number], "completion": "w97"} for number in (0, 1, 2)]
    write(tmp_path, [*copies, row(20)], name="other")
    sources = tuple(
        DatasetSource(name=name, kind="dataset", file=f"{name}.jsonl") for name in ("mine", "other")
    )

    corpus = read(
        config(
            tmp_path,
            sources=sources,
            pool=(PoolShareConfig(source="other"),),
            reward_validation=(ShareConfig(source="mine", rows=1),),
            test=(ShareConfig(source="mine"),),
        ),
        tokenizer,
    )

    assert num_examples(corpus)["pool"] == 1
    assert corpus.notes[1] == "Overlap removed: 3 exact from pool."


def test_the_same_file_gives_the_same_corpus(
    tmp_path: Path, tokenizer: Any, rows: list[Row]
) -> None:
    write(tmp_path, rows)

    first, second = (read(config(tmp_path), tokenizer) for _ in range(2))

    for split in SPLITS:
        for one, other in zip(first.encoded(split), second.encoded(split), strict=True):
            assert one.key == other.key
            np.testing.assert_array_equal(one.ids, other.ids)
