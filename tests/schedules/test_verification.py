"""Whatever happens to a bundle on its way is found, and named by file and row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raise_mdit.core import Message
from raise_mdit.errors import RunError
from raise_mdit.schedules.bundle import (
    CHAT_FILE,
    MANIFEST_FILE,
    POOL_FILE,
    SCHEDULE_FILE,
    STEPS_FILE,
    ScheduledRow,
    conversation_id,
    schedule_digest,
    seal,
    write_conversations,
    write_lines,
    write_rows,
)
from raise_mdit.schedules.verification import check, row_faults, verify

NUM_ROWS = 6


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Six rows of three steps."""
    conversations = [
        (Message("user", f"ask {at}"), Message("assistant", f"tell {at}")) for at in range(4)
    ]
    ids = [conversation_id(each) for each in conversations]
    rows = [
        ScheduledRow(
            step=at // 2,
            slot=at % 2,
            candidate=f"c{at}",
            kind="original",
            source="toy",
            task=None,
            ids=(ids[at % 4],),
            weights=(1.0,),
            score=at / 10,
            log_probability=-1.0,
        )
        for at in range(NUM_ROWS)
    ]
    write_rows(tmp_path, rows)
    write_conversations(tmp_path, dict(zip(ids, conversations, strict=True)))
    write_lines(tmp_path / STEPS_FILE, [{"step": step, "loss": 2.0 - step} for step in range(3)])
    write_lines(tmp_path / CHAT_FILE, [{"id": row.candidate, "slot": row.slot} for row in rows])
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "some.yaml").write_text("shuffle: false\n")
    digest = schedule_digest(rows, policy="ppo", seed=3)
    fields = {"policy": "ppo", "seed": 3, "num_rows": NUM_ROWS, "order_digest": digest}
    seal(tmp_path, fields)
    return tmp_path


def change_lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def change_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def without(rows: list[str], row: int) -> list[str]:
    return rows[:row] + rows[row + 1 :]


def swapped(rows: list[str], one: int, other: int) -> list[str]:
    rows[one], rows[other] = rows[other], rows[one]
    return rows


def test_a_bundle_as_it_was_written_is_sound(bundle: Path) -> None:
    found = verify(bundle)

    assert found.faults == ()
    assert found.num_rows == NUM_ROWS
    assert found.digest == json.loads((bundle / MANIFEST_FILE).read_text())["digest"]
    check(bundle)


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        (lambda rows: without(rows, 2), ("line 3: missing",)),
        (lambda rows: without(rows, 5), ("line 6: missing",)),
        (lambda rows: [*rows[:3], '{"id": "x"}\n', *rows[4:]], ("line 4: altered",)),
        (lambda rows: [*rows[:3], '{"id": "x"}\n', *rows[3:]], ("line 4: added",)),
        (lambda rows: [*rows, rows[1]], ("line 7: a copy of another row",)),
        (
            lambda rows: swapped(rows, 1, 4),
            ("line 2: out of order; it was line 5", "line 5: out of order; it was line 2"),
        ),
    ],
    ids=["a row out", "the last out", "another text", "a row in", "a row twice", "two exchanged"],
)
def test_what_became_of_a_line_is_told_by_its_number_in_an_editor(
    bundle: Path, change: Callable[[list[str]], list[str]], faults: tuple[str, ...]
) -> None:
    change_lines(bundle / CHAT_FILE, change)

    assert verify(bundle).faults == tuple(f"{CHAT_FILE}: {fault}" for fault in faults)


def test_what_became_of_a_row_of_a_table_is_told(bundle: Path) -> None:
    change_table(bundle / SCHEDULE_FILE, lambda table: table.take([0, 1, 3, 2, 4, 5]))
    change_table(bundle / POOL_FILE, lambda table: table.slice(1))

    assert verify(bundle).faults == (
        f"{POOL_FILE}: row 0 (from 0): missing",
        f"{SCHEDULE_FILE}: row 2 (from 0): out of order; it was row 3 (from 0)",
        f"{SCHEDULE_FILE}: row 3 (from 0): out of order; it was row 2 (from 0)",
        f"{SCHEDULE_FILE}: its order does not match the manifest's `order_digest`",
    )


def test_one_number_of_a_row_is_enough(bundle: Path) -> None:
    scores = pa.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5000000001])
    column = pq.read_table(bundle / SCHEDULE_FILE).schema.get_field_index("score")
    change_table(bundle / SCHEDULE_FILE, lambda table: table.set_column(column, "score", scores))

    assert verify(bundle).faults == (f"{SCHEDULE_FILE}: row 5 (from 0): altered",)


def test_equal_rows_in_other_bytes_are_told_apart_from_other_rows(bundle: Path) -> None:
    pq.write_table(pq.read_table(bundle / POOL_FILE), bundle / POOL_FILE, compression="none")

    (fault,) = verify(bundle).faults
    assert fault == f"{POOL_FILE}: written anew; its rows are as they were, but not its bytes"


def test_files_that_are_missing_changed_or_new_are_named(bundle: Path) -> None:
    (bundle / STEPS_FILE).unlink()
    (bundle / "recipes" / "some.yaml").write_text("shuffle: true\n")
    (bundle / "recipes" / "new.yaml").touch()

    assert verify(bundle).faults == (
        "recipes/new.yaml: not part of the bundle",
        "recipes/some.yaml: altered",
        f"{STEPS_FILE}: missing",
    )


def test_a_file_that_is_no_table_any_more_is_named(bundle: Path) -> None:
    (bundle / POOL_FILE).write_bytes(b"PAR1 cut short")

    (fault,) = verify(bundle).faults
    assert fault.startswith(f"{POOL_FILE}: altered; ")


def test_a_link_is_no_file_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    content = (bundle / STEPS_FILE).read_bytes()
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_bytes(content)
    (bundle / STEPS_FILE).unlink()
    (bundle / STEPS_FILE).symlink_to(outside)

    assert verify(bundle).faults == (f"{STEPS_FILE}: a link, where the bundle had a file",)


@pytest.mark.parametrize("key", ["policy", "num_rows", "files"])
def test_a_manifest_that_was_changed_is_found(bundle: Path, key: str) -> None:
    path = bundle / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    manifest[key] = {**manifest[key], STEPS_FILE: "0"} if key == "files" else "7"
    path.write_text(json.dumps(manifest))

    faults = verify(bundle).faults
    assert f"{MANIFEST_FILE}: altered; its digest does not match what it says" in faults


@pytest.mark.parametrize("changes", [{"format": "other"}, {"format_version": 2}])
def test_another_format_is_refused_by_name(bundle: Path, changes: dict[str, object]) -> None:
    path = bundle / MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    (given_value,) = changes.values()
    with pytest.raises(
        RunError, match=rf"{given_value!r}.*reads format 'raise-mdit/bundle' version 1"
    ):
        verify(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no bundle \(no manifest\.json\)"):
        verify(tmp_path)


def test_a_policy_that_was_exported_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text("{}")
    with pytest.raises(RunError, match="no bundle, but a policy that was exported: `from:` of an"):
        verify(tmp_path)


def test_a_check_names_every_fault(bundle: Path) -> None:
    (bundle / STEPS_FILE).unlink()
    change_lines(bundle / CHAT_FILE, lambda rows: rows[::-1])

    with pytest.raises(RunError, match=r"(?s)not as it was .*line 1: out.*steps\.jsonl: mis"):
        check(bundle)


@given(st.permutations(list("abcdef")))
def test_rows_in_another_order_are_named_exactly(order: list[str]) -> None:
    moved = [row for row, each in enumerate(order) if each != "abcdef"[row]]

    faults = list(row_faults("abcdef", order, row_name=str))

    assert [int(fault.split(":")[0]) for fault in faults] == moved


@given(st.sets(st.sampled_from("abcdef")))
def test_rows_left_out_are_named_exactly(gone: set[str]) -> None:
    left = [each for each in "abcdef" if each not in gone]

    faults = list(row_faults("abcdef", left, row_name=str))

    assert faults == [f"{'abcdef'.index(each)}: missing" for each in sorted(gone)]
