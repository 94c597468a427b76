"""Readers: every format, every fault by its position."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raise_mdit.config import DatasetSource, HubConfig
from raise_mdit.errors import DataError
from raise_mdit.sources.records import BadRow, SourceRows, read_source
from raise_mdit.sources.row_formats import FormatName

SHARED = Path(__file__).parents[3] / "shared" / "data"

GOOD = {"question": "Why?", "answer": "Because."}
BLANK = {"question": "Why?", "answer": " "}


def write_lines(folder: Path, rows: Sequence[object], *, name: str = "rows.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(
    root: Path,
    *,
    file: str = "rows.jsonl",
    row_format: Literal["auto"] | FormatName = "auto",
    task_column: str | None = None,
    on_bad_row: Literal["stop", "skip"] = "stop",
) -> SourceRows:
    source = DatasetSource(
        name="mine", kind="dataset", file=file, hub=None, format=row_format, task_column=task_column
    )
    return read_source(source, root=str(root), on_bad_row=on_bad_row)


def turns_of(root: Path, row: Mapping[str, object]) -> list[tuple[str, str]]:
    write_lines(root, [row])
    return [(turn.role, turn.content) for turn in read(root).examples[0].messages]


def reason_for(root: Path, row: object) -> str:
    write_lines(root, [GOOD, row])
    (bad_row,) = read(root, on_bad_row="skip").bad_rows
    return bad_row.reason


USER = {"role": "user", "content": "Why?"}
ASSISTANT = {"role": "assistant", "content": "Because."}
SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
WHY_BECAUSE = [("user", "Why?"), ("assistant", "Because.")]
ROWS: dict[str, dict[str, object]] = {
    "alpaca": {"instruction": "Why?", "output": "Because."},
    "alpaca, blank input": {"instruction": "Why?", "input": "", "output": "Because."},
    "dolly": {"instruction": "Why?", "context": " ", "response": "Because."},
    "alpaca, null input": {"instruction": "Why?", "input": None, "output": "Because."},
    "prompt_completion": {"prompt": "Why?", "completion": "Because."},
    "prompt_completion, turns": {"prompt": [USER], "completion": [ASSISTANT]},
    "question_answer": {"question": "Why?", "answer": "Because.", "text": "ignored"},
    "messages": {"messages": [USER, ASSISTANT]},
    "sharegpt": {"conversations": SHAREGPT},
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_each_format_is_recognised_and_read(tmp_path: Path, row: Mapping[str, object]) -> None:
    assert turns_of(tmp_path, row) == WHY_BECAUSE


def test_alpaca_input_follows_the_instruction_on_its_own_line(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "3, 4", "output": "7"}

    assert turns_of(tmp_path, row)[0] == ("user", "Add.\n3, 4")


def test_several_turns_keep_their_order(tmp_path: Path) -> None:
    turns = [("system", "Be short."), ("user", "a"), ("assistant", "b"), ("user", "c")]
    turns.append(("assistant", "d"))

    rows = [{"role": role, "content": content} for role, content in turns]

    assert turns_of(tmp_path, {"messages": rows}) == turns


def test_json_list_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([GOOD, {**GOOD, "answer": "So."}]))

    assert [row.response for row in read(tmp_path, file="rows.json").examples] == [
        "Because.",
        "So.",
    ]


@pytest.mark.parametrize("row", [GOOD, {"messages": [USER, ASSISTANT]}], ids=["text", "turns"])
def test_parquet_is_read(tmp_path: Path, row: dict[str, object]) -> None:
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")

    assert list(read(tmp_path, file="rows.parquet").examples[0].messages) == WHY_BECAUSE


def test_file_without_root_is_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(tmp_path, [GOOD])
    monkeypatch.chdir(tmp_path)
    source = DatasetSource(name="mine", kind="dataset", file="rows.jsonl")

    assert len(read_source(source, root=None, on_bad_row="stop").examples) == 1


def test_byte_order_mark_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    text = "\ufeff" + json.dumps(GOOD) + "\r\n\r\n  \n" + json.dumps({**GOOD, "answer": "So."})
    (tmp_path / "rows.jsonl").write_bytes(text.encode())

    assert len(read(tmp_path).examples) == 2


def test_line_separators_within_text_do_not_end_a_row(tmp_path: Path) -> None:
    row = json.dumps({**GOOD, "answer": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "rows.jsonl").write_text(row, encoding="utf-8")

    assert read(tmp_path).examples[0].response == "one\u2028two"


def test_duplicates_keep_the_first_and_are_counted(tmp_path: Path) -> None:
    write_lines(tmp_path, [{**GOOD, "kind": "first"}, {**GOOD, "kind": "second"}])

    rows = read(tmp_path, task_column="kind")

    assert ([row.task for row in rows.examples], rows.num_duplicates) == (["first"], 1)


def test_task_column_names_the_task(tmp_path: Path) -> None:
    write_lines(tmp_path, [{**GOOD, "kind": "sums"}, {**GOOD, "answer": "So.", "kind": 3}])

    assert [row.task for row in read(tmp_path, task_column="kind").examples] == ["sums", "3"]


def test_missing_task_column_offers_the_nearest(tmp_path: Path) -> None:
    write_lines(tmp_path, [{**GOOD, "category": "sums"}])

    with pytest.raises(DataError, match=r"rows\.jsonl: `task_column`.*mean 'category'"):
        read(tmp_path, task_column="categry")


def test_row_without_its_task_is_bad(tmp_path: Path) -> None:
    write_lines(tmp_path, [{**GOOD, "kind": "sums"}, {**GOOD, "kind": None}])

    with pytest.raises(DataError, match=r"rows\.jsonl:2: the task column 'kind' is missing"):
        read(tmp_path, task_column="kind")


def test_bad_row_stops_with_position_reason_and_fix(tmp_path: Path) -> None:
    write_lines(tmp_path, [GOOD, BLANK])

    with pytest.raises(DataError) as caught:
        read(tmp_path)

    assert str(caught.value) == (
        "rows.jsonl:2: the response is blank\n"
        "Mend them, or leave such rows out with `data.on_bad_row: skip`."
    )


def test_many_bad_rows_are_listed_up_to_a_limit(tmp_path: Path) -> None:
    write_lines(tmp_path, [GOOD, *[BLANK] * 7])

    with pytest.raises(DataError, match=r"(?s)^7 rows.*rows\.jsonl:6: .*and 2 more"):
        read(tmp_path)


def test_bad_row_can_be_skipped_and_is_listed(tmp_path: Path) -> None:
    write_lines(tmp_path, [GOOD, BLANK])

    rows = read(tmp_path, on_bad_row="skip")

    assert rows.bad_rows == (BadRow("rows.jsonl:2", "the response is blank"),)
    assert len(rows.examples) == 1


@pytest.mark.parametrize("name", ["rows.json", "rows.parquet"])
def test_bad_row_of_a_table_is_named_by_its_index(tmp_path: Path, name: str) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([GOOD, BLANK]))
    pq.write_table(pa.Table.from_pylist([GOOD, BLANK]), tmp_path / "rows.parquet")

    assert read(tmp_path, file=name, on_bad_row="skip").bad_rows[0].where == f"{name} row 1"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": " ", "answer": "x"}, "the prompt is blank"),
        ({"question": "x"}, "column 'answer' is missing."),
        ({"question": "x", "anwser": "y"}, "column 'answer' is missing. Did you mean 'anwser'?"),
        ({"question": "x", "answer": 7}, "column 'answer' is a number, not text"),
        ({"question": "x", "answer": None}, "column 'answer' is null, not text"),
        ({"question": "x", "answer": ["y"]}, "column 'answer' is a list, not text"),
        (["x"], "not an object with columns"),
    ],
)
def test_unusable_row_says_why(tmp_path: Path, row: object, reason: str) -> None:
    assert reason_for(tmp_path, row) == reason


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    reason = reason_for(tmp_path, {"question": "x", "answer": "\ud800"})

    assert reason.startswith("column 'answer' is not Unicode")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "the conversation has no turns"),
        ([USER], "the last turn is the user's, not the assistant's"),
        ([ASSISTANT], "the prompt is blank"),
        ([{**USER, "role": "system"}, ASSISTANT], "the prompt is blank"),
        ([USER, {**ASSISTANT, "content": ""}], "the response is blank"),
        (
            [USER, {**ASSISTANT, "role": "asistant"}],
            r"messages\[1\].role is 'asistant'.*'assistant'?",
        ),
        ([USER, {**ASSISTANT, "content": None}], r"messages\[1\].content is null, not text"),
        ([USER, "Because."], r"messages\[1\] is text, not an object"),
        ([{"rôle": "user"}, ASSISTANT], r"messages\[0\] has the keys rôle, not role \+ content"),
        ("Why?", "column 'messages' is text, not a list of turns"),
    ],
)
def test_unusable_conversation_says_why(tmp_path: Path, turns: object, reason: str) -> None:
    write_lines(tmp_path, [{"messages": turns}])

    with pytest.raises(DataError, match=rf"^rows\.jsonl:1: {reason}"):
        read(tmp_path)


def test_broken_line_is_named_by_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{json.dumps(GOOD)}\n{{"a": 1 "b": 2}}\n')

    with pytest.raises(DataError, match=r"^rows\.jsonl:2:9: not JSON: Expecting ',' delimiter"):
        read(tmp_path)


def test_line_of_another_encoding_is_named_by_its_byte(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"question": "\xe9"}\n')

    with pytest.raises(DataError, match=r"rows\.jsonl:1:15: not UTF-8"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[\n{"a": 1 "b": 2}]', r"^rows\.json:2:9: Expecting ',' delimiter"),
        (b'{"a": 1}\n{"a": 2}', r"rows\.json:2:1: .*belong in a \.jsonl file"),
        (b'{"data": []}', r"rows\.json: a list of objects is needed. Save the list under 'data'"),
        (b"7", r"rows\.json: a list of objects is needed"),
        (b'["\xe9"]', r"rows\.json: not UTF-8 at byte 2"),
        (b"[]", r"rows\.json: no row to use: it is empty"),
    ],
)
def test_unusable_json_file_says_where(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.json").write_bytes(content)

    with pytest.raises(DataError, match=message):
        read(tmp_path, file="rows.json")


def test_unreadable_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"not parquet")

    with pytest.raises(DataError, match=r"rows\.parquet: not a readable Parquet file"):
        read(tmp_path, file="rows.parquet")


def test_file_of_bad_rows_only_is_an_error_though_they_are_skipped(tmp_path: Path) -> None:
    write_lines(tmp_path, [BLANK])

    with pytest.raises(DataError, match=r"no row to use: all .* bad\. rows\.jsonl:1: the response"):
        read(tmp_path, on_bad_row="skip")


def test_unknown_columns_list_the_formats_and_the_nearest_name(tmp_path: Path) -> None:
    write_lines(tmp_path, [{"instuction": "Why?", "response": "Because."}])

    with pytest.raises(DataError) as caught:
        read(tmp_path)

    assert str(caught.value) == (
        "rows.jsonl: no format fits the columns instuction, response. Formats: "
        "alpaca (instruction + output, optional input); dolly (instruction + response, "
        "optional context); messages (messages or conversations); "
        "multiple_choice (question + options + answer or question + choices + answer or "
        "question + choices + answerKey); prompt_completion (prompt + completion); "
        "question_answer (question + answer). "
        "Column 'instuction': Did you mean 'instruction'?"
    )


def test_columns_of_two_formats_ask_for_a_choice(tmp_path: Path) -> None:
    write_lines(tmp_path, [{**GOOD, "prompt": "a", "completion": "b"}])

    with pytest.raises(DataError, match="several formats: prompt_completion, question_answer"):
        read(tmp_path)
    assert read(tmp_path, row_format="question_answer").examples[0].prompt == "Why?"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("row.jsonl", r"has no 'row\.jsonl'\. Did you mean 'rows\.jsonl'\?"),
        ("foldr/rows.jsonl", r"has no 'foldr'\. Did you mean 'folder'\?"),
        ("rows.csv", r"ends in '\.csv'; .* \.json, \.jsonl, \.parquet"),
        ("rows", r"ends in 'nothing'"),
        ("folder/part.jsonl", r"is not a file"),
    ],
)
def test_missing_file_says_what_is_there(tmp_path: Path, file: str, message: str) -> None:
    write_lines(tmp_path, [GOOD])
    (tmp_path / "folder" / "part.jsonl").mkdir(parents=True)

    with pytest.raises(DataError, match=message):
        read(tmp_path, file=file)


def hub_source(name: str, *, split: str = "train", file: str | None = None) -> DatasetSource:
    return DatasetSource(
        name="mine", kind="dataset", hub=HubConfig(name=name, split=split), file=file
    )


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `datasets` reads like a hub repository; its caches stay beside it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


def test_hub_data_is_read_through_datasets(hub_folder: Path) -> None:
    write_lines(hub_folder, [GOOD, BLANK], name="train.jsonl")

    rows = read_source(hub_source(str(hub_folder)), root=None, on_bad_row="skip")

    assert list(rows.examples[0].messages) == WHY_BECAUSE
    assert rows.bad_rows[0].where == f"{hub_folder} row 1"


@pytest.mark.parametrize(
    ("content", "split", "reason"),
    [
        (GOOD, "tset", r"Unknown split \"tset\""),
        ("broken", "train", "JSON"),
        (None, "train", "doesn't contain any data files"),
    ],
)
def test_unreadable_hub_data_says_the_reason_and_the_fix(
    hub_folder: Path, content: object, split: str, reason: str
) -> None:
    if content is not None:
        text = "{broken" if content == "broken" else json.dumps(content)
        (hub_folder / "train.jsonl").write_text(text)

    with pytest.raises(DataError, match=rf"hub data set .*{reason}.*set data\.root to a folder"):
        read_source(hub_source(str(hub_folder), split=split), root=None, on_bad_row="stop")


def test_root_reads_the_file_rather_than_the_hub(tmp_path: Path) -> None:
    write_lines(tmp_path, [GOOD])
    source = hub_source("nobody/nothing", file="rows.jsonl")

    assert len(read_source(source, root=str(tmp_path), on_bad_row="stop").examples) == 1


def test_root_without_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'mine' has no `file`"):
        read_source(hub_source("nobody/nothing"), root=str(tmp_path), on_bad_row="stop")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the real data is not beside the project")
@pytest.mark.parametrize(
    ("file", "num_usable", "num_bad"),
    [
        ("alpaca_52k.json", 51_974, 28),  # 28 of Alpaca's 52,002 responses are empty
        ("gsm8k/train.jsonl", 7_473, 0),
        ("gsm8k/test.jsonl", 1_319, 0),
    ],
)
def test_published_data_is_read_whole(file: str, num_usable: int, num_bad: int) -> None:
    rows = read(SHARED, file=file, on_bad_row="skip")

    assert (len(rows.examples) + rows.num_duplicates, len(rows.bad_rows)) == (num_usable, num_bad)


# Multiple choice.

QUESTION = "Where is money kept?"
AS_LINES = {"question": QUESTION, "options": "\nA. bank\n\nB. new york", "answer": "B. new york"}
AS_LIST = {"question": QUESTION, "options": ["bank", " new  york\n"], "answer": "new york"}
LABELLED = {
    "question": QUESTION,
    "choices": {"text": ["bank", "new york"], "label": ["A", "B"]},
    "answerKey": "B",
}
BY_NUMBER = {"question": QUESTION, "choices": ["bank", "new york"], "answer": 1}


@pytest.mark.parametrize("row", [AS_LINES, AS_LIST, LABELLED, BY_NUMBER])
def test_a_question_lists_its_options_and_is_answered_by_text(
    tmp_path: Path, row: Mapping[str, object]
) -> None:
    write_lines(tmp_path, [row])

    (example,) = read(tmp_path, row_format="multiple_choice").examples

    assert example.prompt == f"{QUESTION}\nA. bank\nB. new york"
    assert example.response == "new york"
    assert example.choices == ("bank", "new york")


def test_labels_of_the_row_are_kept_and_go_before_texts(tmp_path: Path) -> None:
    row = {**LABELLED, "choices": {"label": ["1", "2"], "text": ["2", "1"]}, "answerKey": "1"}
    write_lines(tmp_path, [row])

    (example,) = read(tmp_path).examples

    assert (example.prompt, example.response) == (f"{QUESTION}\n1. 2\n2. 1", "2")


def test_other_options_make_another_example(tmp_path: Path) -> None:
    other = {**AS_LINES, "options": "A. bench\nB. new york"}
    write_lines(tmp_path, [AS_LINES, other, AS_LIST])

    found = read(tmp_path, row_format="multiple_choice")

    assert [example.choices for example in found.examples] == [
        ("bank", "new york"),
        ("bench", "new york"),
    ]
    assert found.num_duplicates == 1


def test_without_a_format_options_ask_for_a_choice(tmp_path: Path) -> None:
    write_lines(tmp_path, [AS_LINES])
    with pytest.raises(DataError, match="several formats: multiple_choice, question_answer"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": "B. new yorc"}, "none of the options. Did you mean 'B. new york'?"),
        ({"answer": "C"}, "column 'answer' is 'C', none of the options."),
        ({"answer": 2}, "column 'answer' is '2', none of the options."),
        ({"answer": -1}, "column 'answer' is '-1', none of the options."),
        ({"answer": None}, "column 'answer' is null, not text"),
        ({"options": "A. bank"}, "needs several options, each with its own label: A"),
        ({"options": []}, "needs several options, each with its own label: none"),
        ({"options": "A. bank\nA. new york"}, "each with its own label: A, A"),
        ({"options": ".\nA. bank\nB. new york"}, "has the line '.', which is no option"),
        ({"options": ["bank", " "]}, "has a blank option"),
        ({"options": ["bank", 3]}, "an option of column 'options' is a number, not text"),
        ({"options": {"label": ["A"], "text": ["a", "b"]}}, "has 1 labels for 2 options"),
        ({"options": {"text": ["a", "b"]}}, "column 'options' is an object, not a list of options"),
        ({"options": ["x"] * 27}, "has 26 labels for 27 options"),
    ],
)
def test_a_question_that_cannot_be_read_says_why(
    tmp_path: Path, changes: Mapping[str, object], reason: str
) -> None:
    write_lines(tmp_path, [AS_LINES, {**AS_LINES, **changes}])

    (bad_row,) = read(tmp_path, row_format="multiple_choice", on_bad_row="skip").bad_rows

    assert reason in bad_row.reason


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the real data is not beside the project")
def test_commonsense_questions_are_read_with_their_options() -> None:
    file = "commonsense_qa/validation.jsonl"

    rows = read(SHARED, file=file, row_format="multiple_choice", on_bad_row="skip")

    assert (len(rows.examples), len(rows.bad_rows)) == (1_216, 5)  # five have broken options
    for example in rows.examples:
        assert example.choices is not None
        assert example.response in example.choices
        assert len(example.choices) == (3 if "committed to eliminating" in example.prompt else 5)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the real data is not beside the project")
def test_commonsense_questions_of_the_test_have_no_answers() -> None:
    with pytest.raises(DataError, match="1140 rows cannot be used"):
        read(SHARED, file="commonsense_qa/test.jsonl", row_format="multiple_choice")
