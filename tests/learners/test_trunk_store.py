"""The store of frozen layers' states: exact, bounded, and never fooled by a damaged file."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from raise_mdit.core import EncodedRow
from raise_mdit.learners import trunk_store
from raise_mdit.learners.trunk_store import TrunkStore, row_key, trunk_fingerprint

LARGE = 10**9
HEADER_BYTES = 32
T, H = 3, 4
ENTRY_BYTES = HEADER_BYTES + 2 * T * H
LONG_AGO = 10**9  # seconds since 1970

FINGERPRINT = {
    "model_digest": "5e1f",
    "split": 22,
    "precision": "float32",
    "device_type": "cpu",
}


def states(seed: int, *, length: int = T) -> torch.Tensor:
    return torch.randn(length, H, generator=torch.Generator().manual_seed(seed))


def files(folder: Path, suffix: str = "") -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file())


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def set_last_use(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def filled_store(folder: Path, *, count: int, max_bytes: int) -> tuple[TrunkStore, list[Path]]:
    """A store with entries "0", "1", ... last used in this order, long ago, and their files."""
    store = TrunkStore(folder, max_bytes=max_bytes)
    paths: list[Path] = []
    for number in range(count):
        before = set(files(folder))
        store.put(str(number), states(number))
        paths += set(files(folder)) - before
        set_last_use(paths[-1], LONG_AGO + number)
    return store, paths


def held(store: TrunkStore, count: int) -> set[int]:
    return {number for number in range(count) if store.get(str(number)) is not None}


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.view(torch.int16), right.view(torch.int16))


def mixed_row() -> EncodedRow:
    return EncodedRow(
        key="row",
        ids=np.array([5, 6, 7]),
        scored=np.array([1]),
        targets=np.array([[7, 9]]),
        target_weights=np.array([[0.5, 0.5]], np.float32),
        partner_ids=np.array([5, 8, 9]),
        mix=0.5,
    )


# --- Round trips.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_was_put_comes_back_rounded_to_bfloat16(tmp_path: Path, dtype: torch.dtype) -> None:
    store = TrunkStore(tmp_path, max_bytes=LARGE)
    given = states(0, length=50).to(dtype)

    store.put("row", given)
    found = store.get("row")

    assert found is not None
    assert found.dtype == torch.bfloat16
    assert found.shape == given.shape
    assert same_bits(found, given.bfloat16())


def test_every_bit_pattern_comes_back(tmp_path: Path) -> None:
    store = TrunkStore(tmp_path, max_bytes=LARGE)
    given = torch.arange(2**16).to(torch.int16).view(torch.bfloat16).view(256, 256)

    store.put("row", given)
    found = store.get("row")

    assert found is not None
    assert same_bits(found, given)


def test_a_transposed_tensor_with_gradients_is_stored(tmp_path: Path) -> None:
    store = TrunkStore(tmp_path, max_bytes=LARGE)
    given = torch.randn(H, T, requires_grad=True).T

    store.put("row", given)
    found = store.get("row")

    assert found is not None
    assert not found.requires_grad
    assert same_bits(found, given.detach().bfloat16())


def test_what_comes_back_is_the_callers(tmp_path: Path) -> None:
    store = TrunkStore(tmp_path, max_bytes=LARGE)
    store.put("row", states(0))
    found = store.get("row")
    assert found is not None

    found.zero_()

    again = store.get("row")
    assert again is not None
    assert same_bits(again, states(0).bfloat16())


def test_a_later_process_finds_what_was_put(tmp_path: Path) -> None:
    TrunkStore(tmp_path, max_bytes=LARGE).put("row", states(0))

    found = TrunkStore(tmp_path, max_bytes=LARGE).get("row")

    assert found is not None
    assert same_bits(found, states(0).bfloat16())


def test_the_last_put_under_a_key_counts(tmp_path: Path) -> None:
    store = TrunkStore(tmp_path, max_bytes=LARGE)
    store.put("row", states(0))

    store.put("row", states(1, length=7))

    found = store.get("row")
    assert found is not None
    assert same_bits(found, states(1, length=7).bfloat16())
    assert len(files(tmp_path)) == 1


def test_an_unknown_key_is_absent_and_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "missing"

    assert TrunkStore(folder, max_bytes=LARGE).get("row") is None
    assert not folder.exists()


def test_sections_share_a_folder_and_no_entries(tmp_path: Path) -> None:
    store = TrunkStore(tmp_path / "new" / "folder", max_bytes=LARGE)
    first, second = store.section("first"), store.section("second")

    first.put("row", states(0))
    assert second.get("row") is None
    second.put("row", states(1))

    for seed, section in enumerate((first, second)):
        found = section.get("row")
        assert found is not None
        assert same_bits(found, states(seed).bfloat16())


# --- Keys.


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ids": np.array([5, 6, 8])}, id="another token"),
        pytest.param({"ids": np.array([6, 5, 7])}, id="another order"),
        pytest.param({"partner_ids": np.array([5, 8, 8])}, id="another partner token"),
        pytest.param({"partner_ids": None}, id="no partner"),
        pytest.param(
            {"ids": np.array([5, 8, 9]), "partner_ids": np.array([5, 6, 7])}, id="parents swapped"
        ),
        pytest.param({"ids": np.array([5, 6]), "partner_ids": np.array([5, 8])}, id="a token less"),
        pytest.param({"mix": np.nextafter(0.5, 1)}, id="another mix"),
        pytest.param({"mix": 1.0}, id="no mix"),
    ],
)
def test_rows_that_read_something_else_have_other_keys(change: dict[str, object]) -> None:
    changed: EncodedRow = replace(mixed_row(), **change)  # type: ignore[arg-type]

    assert row_key(changed) != row_key(mixed_row())


def test_a_partner_is_not_mistaken_for_more_tokens() -> None:
    halves = replace(mixed_row(), ids=np.array([1, 2]), partner_ids=np.array([3, 4]))
    whole = replace(halves, ids=np.array([1, 2, 3, 4]), partner_ids=None)

    assert row_key(halves) != row_key(whole)


def test_rows_that_read_the_same_share_a_key() -> None:
    other = replace(
        mixed_row(),
        key="other",
        scored=np.array([0]),
        targets=np.array([[6, 8]]),
        target_weights=np.array([[0.2, 0.8]], np.float32),
    )

    assert row_key(other) == row_key(mixed_row())


@pytest.mark.parametrize(
    "change",
    [
        {"model_digest": "5e20"},
        {"split": 21},
        {"precision": "bfloat16"},
        {"device_type": "cuda"},
    ],
)
def test_a_fingerprint_depends_on_each_argument(change: dict[str, object]) -> None:
    changed = trunk_fingerprint(**(FINGERPRINT | change))  # type: ignore[arg-type]

    assert changed != trunk_fingerprint(**FINGERPRINT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STORE_VERSION", "another"),
        ("STORED_DTYPE", torch.float16),
        ("version", lambda _package: "0"),
        ("torch.__version__", "0"),
    ],
)
def test_a_fingerprint_depends_on_versions(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trunk_fingerprint(**FINGERPRINT)  # type: ignore[arg-type]

    monkeypatch.setattr(f"{trunk_store.__name__}.{name}", value)

    assert trunk_fingerprint(**FINGERPRINT) != before  # type: ignore[arg-type]


def test_a_fingerprint_is_the_same_each_time() -> None:
    assert trunk_fingerprint(**FINGERPRINT) == trunk_fingerprint(**FINGERPRINT)  # type: ignore[arg-type]


# --- Damage.


def assert_is_recomputable(store: TrunkStore, path: Path) -> None:
    """The damaged file is not served, is gone, and can be written again."""
    assert store.get("0") is None
    assert not path.exists()
    store.put("0", states(0))
    found = store.get("0")
    assert found is not None
    assert same_bits(found, states(0).bfloat16())


def test_a_flip_of_any_bit_is_noticed(tmp_path: Path) -> None:
    store, (path,) = filled_store(tmp_path, count=1, max_bytes=LARGE)
    intact = path.read_bytes()
    assert len(intact) == ENTRY_BYTES

    for position in range(len(intact)):
        for bit in range(8):
            damaged = bytearray(intact)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            assert store.get("0") is None, (position, bit)

    assert_is_recomputable(store, path)


def test_a_file_cut_at_any_place_is_noticed(tmp_path: Path) -> None:
    store, (path,) = filled_store(tmp_path, count=1, max_bytes=LARGE)
    intact = path.read_bytes()

    for length in range(len(intact)):
        path.write_bytes(intact[:length])
        assert_is_recomputable(store, path)


@pytest.mark.parametrize("damage", [b"", b"\0" * ENTRY_BYTES, b"garbage" * 100])
def test_other_content_is_noticed(tmp_path: Path, damage: bytes) -> None:
    store, (path,) = filled_store(tmp_path, count=1, max_bytes=LARGE)

    path.write_bytes(damage)

    assert_is_recomputable(store, path)


def test_a_longer_file_is_noticed(tmp_path: Path) -> None:
    store, (path,) = filled_store(tmp_path, count=1, max_bytes=LARGE)

    path.write_bytes(path.read_bytes() + b"\0")

    assert_is_recomputable(store, path)


def test_another_shape_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    store, (path,) = filled_store(tmp_path, count=1, max_bytes=LARGE)
    content = path.read_bytes()
    shape = T.to_bytes(4, "little") + H.to_bytes(4, "little")
    assert content.count(shape) == 1

    path.write_bytes(content.replace(shape, shape[4:] + shape[:4]))

    assert_is_recomputable(store, path)


def test_a_file_of_another_key_is_noticed(tmp_path: Path) -> None:
    store, (path, other) = filled_store(tmp_path, count=2, max_bytes=LARGE)

    other.replace(path)

    assert_is_recomputable(store, path)
    assert store.get("1") is None


def test_damage_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, paths = filled_store(tmp_path, count=3, max_bytes=LARGE)
    for path in paths:
        path.write_bytes(b"")

    assert held(store, 3) == set()

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "damaged" in record.getMessage()


def test_a_damaged_file_that_cannot_be_removed_is_still_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, (path,) = filled_store(tmp_path, count=1, max_bytes=LARGE)
    path.write_bytes(b"")
    monkeypatch.setattr(Path, "unlink", refuse(errno.EROFS))

    assert [store.get("0") for _ in range(3)] == [None, None, None]

    assert [record.getMessage().split(": ")[1][:8] for record in caplog.records] == [
        "damaged ",
        "removing",
    ]


def test_a_half_written_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TrunkStore(tmp_path, max_bytes=LARGE)
    seen = []
    rename = Path.replace

    def look_then_rename(self: Path, target: Path) -> Path:
        seen.append((store.get("0"), files(tmp_path, ".states"), self.suffix))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", look_then_rename)
    store.put("0", states(0))

    assert seen == [(None, [], ".tmp")]
    assert len(files(tmp_path, ".states")) == 1
    assert files(tmp_path, ".tmp") == []


# --- The bound.


def test_bytes_are_counted_over_all_sections(tmp_path: Path) -> None:
    store = TrunkStore(tmp_path, max_bytes=LARGE)
    store.section("a").put("row", states(0))
    store.section("b").put("row", states(0, length=9))

    expected = 2 * HEADER_BYTES + 2 * (T + 9) * H
    assert store.num_bytes == num_bytes(tmp_path) == expected
    assert TrunkStore(tmp_path, max_bytes=LARGE).num_bytes == expected


@pytest.mark.parametrize("seed", range(5))
def test_the_least_recently_used_leave_first(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    max_bytes = 10 * ENTRY_BYTES
    store, paths = filled_store(tmp_path, count=10, max_bytes=max_bytes)
    order = rng.permutation(10)
    for age, number in enumerate(order):
        set_last_use(paths[number], LONG_AGO + age)

    store.put("10", states(10))

    # 11 entries are too many; 9 are 90 % of the bound, so the two used longest ago leave.
    assert held(store, 11) == {*order[2:].tolist(), 10}
    assert store.num_bytes == num_bytes(tmp_path) == 9 * ENTRY_BYTES


def test_a_bound_that_is_met_exactly_removes_nothing(tmp_path: Path) -> None:
    store, _ = filled_store(tmp_path, count=10, max_bytes=10 * ENTRY_BYTES)

    assert held(store, 10) == set(range(10))


def test_the_bound_holds_after_every_put(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    max_bytes = 12 * ENTRY_BYTES
    store = TrunkStore(tmp_path, max_bytes=max_bytes)

    for number in range(100):
        key, length = str(rng.integers(40)), int(rng.integers(1, 10))
        store.put(key, states(number, length=length))

        assert num_bytes(tmp_path) <= max_bytes
        assert num_bytes(tmp_path) <= store.num_bytes
        found = store.get(key)
        assert found is not None
        assert same_bits(found, states(number, length=length).bfloat16())


def test_what_was_just_written_stays_even_if_clocks_disagree(tmp_path: Path) -> None:
    store, paths = filled_store(tmp_path, count=4, max_bytes=4 * ENTRY_BYTES)
    for path in paths:
        set_last_use(path, time.time() + 10**6)

    store.put("4", states(4))

    assert 4 in held(store, 5)


def test_an_entry_of_the_size_of_the_bound_drives_out_all_others(tmp_path: Path) -> None:
    store, _ = filled_store(tmp_path, count=4, max_bytes=4 * ENTRY_BYTES)
    length = (4 * ENTRY_BYTES - HEADER_BYTES) // (2 * H)

    store.put("4", states(4, length=length))

    assert held(store, 5) == {4}


def test_an_entry_beyond_the_bound_is_not_kept_and_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = filled_store(tmp_path, count=2, max_bytes=2 * ENTRY_BYTES)

    for number in (2, 3):
        store.put(str(number), states(number, length=100))

    assert held(store, 4) == {0, 1}
    (record,) = caplog.records
    assert "too large" in record.getMessage()


def test_use_keeps_an_entry_from_leaving(tmp_path: Path) -> None:
    max_bytes = 3 * ENTRY_BYTES
    store, _ = filled_store(tmp_path, count=3, max_bytes=max_bytes)

    TrunkStore(tmp_path, max_bytes=max_bytes).get("0")  # as another process
    store.put("3", states(3))

    assert held(store, 4) == {0, 3}


def test_an_entry_is_marked_as_used_at_most_once_a_minute(tmp_path: Path) -> None:
    store, (path,) = filled_store(tmp_path, count=1, max_bytes=LARGE)
    now = time.time()

    store.get("0")
    assert path.stat().st_mtime == pytest.approx(now, abs=30)

    set_last_use(path, int(now) - 10)
    store.get("0")
    assert path.stat().st_mtime == int(now) - 10


def test_entries_of_others_are_found_before_long(tmp_path: Path) -> None:
    max_bytes = 64 * ENTRY_BYTES  # of which a process writes 2 before it looks again
    store = TrunkStore(tmp_path, max_bytes=max_bytes)
    filled_store(tmp_path, count=64, max_bytes=max_bytes)

    for number in range(64, 70):
        store.put(str(number), states(number))
        assert num_bytes(tmp_path) <= max_bytes + 2 * ENTRY_BYTES

    assert num_bytes(tmp_path) <= max_bytes
    assert held(store, 70) == set(range(10, 70))  # 67 were found, of which 57.6 may stay


def test_a_smaller_bound_holds_from_the_opening(tmp_path: Path) -> None:
    filled_store(tmp_path, count=10, max_bytes=LARGE)

    store = TrunkStore(tmp_path, max_bytes=5 * ENTRY_BYTES)

    assert held(store, 10) == {6, 7, 8, 9}
    assert store.num_bytes == num_bytes(tmp_path)


def test_temporary_files_of_killed_writers_are_removed_after_an_hour(tmp_path: Path) -> None:
    _, (path,) = filled_store(tmp_path, count=1, max_bytes=LARGE)
    old, young = path.with_suffix(".1.tmp"), path.with_suffix(".2.tmp")
    for scratch, age in ((old, 3700), (young, 3500)):
        scratch.write_bytes(b"half")
        set_last_use(scratch, time.time() - age)

    store = TrunkStore(tmp_path, max_bytes=LARGE)

    assert files(tmp_path) == sorted([path, young])
    assert store.num_bytes == ENTRY_BYTES


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_bytes(b"x" * 1000)
    set_last_use(foreign, LONG_AGO - 1)

    filled_store(tmp_path, count=4, max_bytes=3 * ENTRY_BYTES)

    assert foreign.exists()


# --- Files that vanish, disks that are full.


def refuse(code: int) -> object:
    def fail(*_args: object, **_options: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_that_vanished_before_it_was_looked_at_is_no_error(tmp_path: Path) -> None:
    filled_store(tmp_path, count=2, max_bytes=LARGE)
    (tmp_path / "vanished.states").symlink_to(tmp_path / "nowhere")  # listed, and not there

    assert TrunkStore(tmp_path, max_bytes=LARGE).num_bytes == 2 * ENTRY_BYTES


def test_a_file_that_another_process_removed_first_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = filled_store(tmp_path, count=4, max_bytes=4 * ENTRY_BYTES)
    unlink = Path.unlink

    def too_late(self: Path, missing_ok: bool = False) -> None:
        unlink(self)
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", too_late)
    store.put("4", states(4))

    assert held(store, 5) == {2, 3, 4}
    assert caplog.records == []


def test_a_folder_that_was_deleted_meanwhile_is_made_anew(tmp_path: Path) -> None:
    store, (path,) = filled_store(tmp_path, count=1, max_bytes=LARGE)
    path.unlink()
    path.parent.rmdir()

    assert store.get("0") is None
    store.put("0", states(0))

    assert held(store, 1) == {0}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_cannot_be_written_is_not_stored_and_warned_of_once(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = filled_store(tmp_path, count=1, max_bytes=LARGE)
    with monkeypatch.context() as full:
        full.setattr(Path, "replace", refuse(code))
        for number in (1, 2):
            store.put(str(number), states(number))

    assert held(store, 3) == {0}
    assert store.num_bytes == num_bytes(tmp_path) == ENTRY_BYTES
    (record,) = caplog.records
    assert os.strerror(code) in record.getMessage()

    store.put("1", states(1))
    assert held(store, 3) == {0, 1}


def test_a_stopped_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_args: object) -> NoReturn:
        raise KeyboardInterrupt

    store = TrunkStore(tmp_path, max_bytes=LARGE)
    monkeypatch.setattr(Path, "replace", stop)

    with pytest.raises(KeyboardInterrupt):
        store.put("0", states(0))

    assert files(tmp_path) == []


def test_a_store_goes_without_a_folder_that_cannot_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "taken"
    taken.write_bytes(b"a file")
    store = TrunkStore(taken, max_bytes=LARGE)

    for number in (0, 1):
        store.put(str(number), states(number))
    assert held(store, 2) == set()

    assert len(caplog.records) == 2  # of writing, and of reading
    assert taken.read_bytes() == b"a file"


def test_a_read_only_store_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    filled_store(tmp_path, count=5, max_bytes=LARGE)
    monkeypatch.setattr(os, "utime", refuse(errno.EROFS))
    monkeypatch.setattr(Path, "unlink", refuse(errno.EROFS))

    store = TrunkStore(tmp_path, max_bytes=3 * ENTRY_BYTES)

    assert held(store, 5) == {0, 1, 2, 3, 4}
    (record,) = caplog.records
    assert "removing" in record.getMessage()


# --- Several processes.

READ_AND_WRITE = """
import random, sys, torch
from pathlib import Path
from raise_mdit.learners.trunk_store import TrunkStore

folder, seed, max_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store, rng, hits = TrunkStore(folder, max_bytes=max_bytes), random.Random(seed), 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(500):
    number = rng.randrange(24)
    right = torch.full((1 + number % 5, 4), number, dtype=torch.bfloat16)
    found = store.get(str(number))
    if found is None:
        store.put(str(number), right)
    else:
        hits += 1
        assert torch.equal(found, right), (number, found)
print(hits)
"""

DIE_BEFORE_THE_RENAME = """
import os, signal, sys, torch
from pathlib import Path
from raise_mdit.learners.trunk_store import TrunkStore

store = TrunkStore(Path(sys.argv[1]), max_bytes=10**9)
store.put("whole", torch.ones(3, 4))
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.put("half", torch.ones(3, 4))
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_write_and_read_the_same_keys_at_once(tmp_path: Path) -> None:
    max_bytes = 12 * ENTRY_BYTES  # for about half of the keys
    processes = [start(READ_AND_WRITE, tmp_path, seed, max_bytes) for seed in (0, 1)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    for process in processes:
        hits, faults = process.communicate(timeout=60)
        assert process.returncode == 0, faults
        assert "stored states" not in faults
        assert 50 < int(hits) < 450

    assert 0 < num_bytes(tmp_path) <= max_bytes
    assert files(tmp_path, ".tmp") == []


def test_a_killed_writer_leaves_a_usable_store(tmp_path: Path) -> None:
    process = start(DIE_BEFORE_THE_RENAME, tmp_path)
    _, faults = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, faults
    assert len(files(tmp_path, ".tmp")) == 1

    store = TrunkStore(tmp_path, max_bytes=LARGE)

    assert store.num_bytes == ENTRY_BYTES
    assert store.get("whole") is not None
    assert store.get("half") is None
    store.put("half", states(0))
    found = store.get("half")
    assert found is not None
    assert same_bits(found, states(0).bfloat16())
