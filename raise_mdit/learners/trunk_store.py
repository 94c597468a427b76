"""Hidden states of frozen layers on disk, shared by steps, episodes, policies, runs and processes.

One file holds one row's states: a header and raw bfloat16. There is no index and there are no
locks: a file appears whole under its final name (written beside it, then renamed), is never changed
afterwards, and says when it was last used by its modification time. Nothing is flushed to the disk,
since what a power cut tears fails its checksum and is computed again.

Files are read, not mapped: 40 rows of 115 kB take 2.1 ms, checksums included, against 2.6 ms mapped
and copied (page cache, one core). A mapping handed out uncopied would keep a file descriptor open
for each row in memory, and end the process when a disk fails or a file is cut.

Shapes: ``T`` tokens of a row, ``H`` hidden size.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from raise_mdit.core import EncodedRow

logger = logging.getLogger(__name__)

STORE_VERSION = "2"
"""Raised when the meaning of stored states changes."""

STORED_DTYPE = torch.bfloat16

MAGIC = b"RMT1"
HEADER = struct.Struct("<4s16sIII")
"""Magic, the name that the file should have, T, H, checksum of what precedes it and of the states;
32 bytes, which keeps the states aligned."""
CHECKSUM_BYTES = 4

SUFFIX = ".states"
SCRATCH_SUFFIX = ".tmp"
SCRATCH_SECONDS = 3600.0
"""Age at which a temporary file was left behind by a writer that was killed."""

LOW_WATER = 0.9
"""Share of the bound that is left when it was exceeded, so that removals come seldom."""
SCAN_SHARE = 1 / 32
"""Share of the bound that a process writes before it looks again at what others wrote. A scan of
75,000 files takes 0.6 s, which is 8 GiB in rows of 115 kB."""
TOUCH_SECONDS = 60.0
"""Resolution of the time of last use: to mark every read would cost 40 % more."""

Trouble = Literal["damaged", "reading", "writing", "removing", "too large"]


class TrunkStore:
    """States by key, bounded on disk; the least recently used leave first, whoever wrote them.

    Every process that uses the folder keeps to its own bound. A process learns of the others' files
    by scanning, so P processes may exceed the bound together by at most (P - 1) / 32 of it.

    What cannot be written, read or removed (a full disk, a read-only folder) is warned of once and
    goes without: states can always be computed again.

    Args:
        folder: Shared by every model; made by the first entry.
        max_bytes: Room for all entries together.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._num_unscanned = 0
        self._warned: set[Trouble] = set()
        self._make_room()

    @property
    def num_bytes(self) -> int:
        """Size of the folder's entries at the last scan, and of what was put since."""
        return self._num_bytes

    def section(self, fingerprint: str) -> StoreSection:
        """The part that belongs to one model's layers; see :func:`trunk_fingerprint`."""
        return StoreSection(self, fingerprint)

    def get(self, key: str) -> torch.Tensor | None:
        """States of an entry, bfloat16 [T, H] on the CPU, owned by the caller; None if absent.

        A file that is cut short, altered or another entry's counts as absent and is removed.
        """
        path = self._path(key)
        try:
            with path.open("rb", buffering=0) as stream:
                status = os.fstat(stream.fileno())
                content = bytearray(status.st_size)
                stream.readinto(content)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once("reading", error)
            return None
        states_TH = _decode(key, content)
        if states_TH is None:
            self._warn_once("damaged", path)
            self._remove(path)
            return None
        _mark_used(path, status.st_mtime)
        return states_TH

    def put(self, key: str, states_TH: torch.Tensor) -> None:
        """Keep states under a key, rounded to bfloat16; an entry beyond the bound is not kept.

        Args:
            key: Covers everything that determines the states.
            states_TH: [T, H] of any floating type, on any device.
        """
        assert states_TH.ndim == 2, "states of one row"
        assert states_TH.numel() > 0, "a row has tokens"
        header, payload = _encode(key, states_TH)
        num_bytes = len(header) + len(payload)
        path = self._path(key)
        if num_bytes > self._max_bytes:
            self._warn_once("too large", f"{num_bytes} bytes of {self._max_bytes}")
            return
        try:
            _write(path, header, payload)
        except OSError as error:
            self._warn_once("writing", error)
            return
        self._num_bytes += num_bytes
        self._num_unscanned += num_bytes
        due = self._num_unscanned > SCAN_SHARE * self._max_bytes
        if due or self._num_bytes > self._max_bytes:
            self._make_room(kept=path)

    def _path(self, key: str) -> Path:
        name = _name(key).hex()
        return self._folder / name[:2] / f"{name}{SUFFIX}"

    def _make_room(self, *, kept: Path | None = None) -> None:
        """Count what all processes wrote; beyond the bound, remove what was used longest ago."""
        files = list(_scan(self._folder))
        self._remove_leftovers(files)
        entries = [file for file in files if file.path.endswith(SUFFIX)]
        self._num_bytes = sum(entry.num_bytes for entry in entries)
        self._num_unscanned = 0
        if self._num_bytes <= self._max_bytes:
            return
        for entry in sorted(entries):
            if self._num_bytes <= LOW_WATER * self._max_bytes:
                return
            if entry.path != str(kept):
                self._remove(Path(entry.path))
                self._num_bytes -= entry.num_bytes

    def _remove_leftovers(self, files: list[_File]) -> None:
        oldest_ns = time.time_ns() - int(SCRATCH_SECONDS * 1e9)
        for file in files:
            if file.path.endswith(SCRATCH_SUFFIX) and file.modified_ns < oldest_ns:
                self._remove(Path(file.path))

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)  # another process may have been faster
        except OSError as error:
            self._warn_once("removing", error)

    def _warn_once(self, trouble: Trouble, detail: object) -> None:
        if trouble not in self._warned:
            self._warned.add(trouble)
            logger.warning(
                "stored states in %s: %s (%s); they are computed again, and this is said once",
                self._folder,
                trouble,
                detail,
            )


@dataclass(frozen=True, slots=True)
class StoreSection:
    """The part of a store that belongs to one model's layers."""

    store: TrunkStore
    fingerprint: str
    """See :func:`trunk_fingerprint`."""

    def get(self, key: str) -> torch.Tensor | None:
        """States of a row; see :meth:`TrunkStore.get` and :func:`row_key`."""
        return self.store.get(f"{self.fingerprint}/{key}")

    def put(self, key: str, states_TH: torch.Tensor) -> None:
        """Keep states of a row; see :meth:`TrunkStore.put` and :func:`row_key`."""
        self.store.put(f"{self.fingerprint}/{key}", states_TH)


SectionOf = Callable[[int], StoreSection]
"""The part of a store for a model whose so many lower layers are frozen."""


def trunk_fingerprint(*, model_digest: str, split: int, precision: str, device_type: str) -> str:
    """Hash of what determines states besides the row.

    Versions of torch and transformers, the stored type and :data:`STORE_VERSION` are part of it.

    Args:
        model_digest: Hash of the model's weights.
        split: The layer that the states enter.
        precision: Arithmetic of the passes.
        device_type: `cpu` or `cuda`: they round differently.
    """
    libraries = (torch.__version__, version("transformers"))
    parts = (model_digest, split, precision, device_type, STORED_DTYPE, STORE_VERSION, *libraries)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def sections_of(
    store: TrunkStore, *, model_digest: str, precision: str, device_type: str
) -> SectionOf:
    """The parts of a store for one model, by how many of its layers are frozen.

    Args:
        store: Shared by all models.
        model_digest: As for :func:`trunk_fingerprint`, as are the others.
        precision: Arithmetic of the passes.
        device_type: `cpu` or `cuda`.
    """

    def section(split: int) -> StoreSection:
        fingerprint = trunk_fingerprint(
            model_digest=model_digest, split=split, precision=precision, device_type=device_type
        )
        return store.section(fingerprint)

    return section


def row_key(row: EncodedRow) -> str:
    """Hash of what determines a row's states: its ids, its partner's and their mix.

    Token ids subsume tokenizer, template and text. What is scored and ``row.key`` have no part in
    it, so rows that read the same share an entry.
    """
    digest = hashlib.sha256(float(row.mix).hex().encode())
    for ids in (row.ids, row.partner_ids):
        if ids is not None:
            digest.update(len(ids).to_bytes(8, "big"))
            digest.update(ids.tobytes())
    return digest.hexdigest()[:32]


class _File(NamedTuple):
    """A file of the store; the one used longest ago sorts first."""

    modified_ns: int
    path: str
    num_bytes: int


def _scan(folder: Path) -> Iterator[_File]:
    for parent, _folders, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
            except FileNotFoundError:  # another process was faster
                continue
            yield _File(status.st_mtime_ns, path, status.st_size)


def _write(path: Path, header: bytes, payload: memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{secrets.token_hex(8)}{SCRATCH_SUFFIX}")
    try:
        with scratch.open("xb") as stream:
            stream.writelines((header, payload))
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _mark_used(path: Path, modified: float) -> None:
    if time.time() - modified > TOUCH_SECONDS:
        # Just removed by another process, or read-only: the time of writing stands.
        with contextlib.suppress(OSError):
            os.utime(path)


def _name(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()[:16]


def _encode(key: str, states_TH: torch.Tensor) -> tuple[bytes, memoryview]:
    rounded_TH = states_TH.detach().to(STORED_DTYPE).cpu().contiguous()
    payload = rounded_TH.view(torch.uint8).flatten().numpy().data  # numpy has no bfloat16
    fields = (MAGIC, _name(key), *rounded_TH.shape)
    checksum = _checksum(HEADER.pack(*fields, 0), payload)
    return HEADER.pack(*fields, checksum), payload


def _decode(key: str, content: bytearray) -> torch.Tensor | None:
    """The states in a file, sharing its memory; None unless it is this key's and undamaged."""
    if len(content) < HEADER.size:
        return None
    magic, name, length, hidden, checksum = HEADER.unpack_from(content)
    view = memoryview(content)
    header, payload = view[: HEADER.size], view[HEADER.size :]
    if (magic, name) != (MAGIC, _name(key)):
        return None
    if len(payload) != length * hidden * STORED_DTYPE.itemsize:
        return None
    if checksum != _checksum(header, payload):
        return None
    return torch.frombuffer(payload, dtype=STORED_DTYPE).view(length, hidden)


def _checksum(header: bytes | memoryview, payload: memoryview) -> int:
    """CRC-32: against accidents, not malice; at 4.5 GB/s three times as fast as SHA-256."""
    return zlib.crc32(payload, zlib.crc32(header[:-CHECKSUM_BYTES]))
