"""Features kept on disk between runs: a row for each example of a data column, each with a checksum of its own.

A row is there when its checksum is right, so a kill in the middle of a write, a damaged disk or a file of another
length cost the rows in question and nothing else. Rows are written one by one and never change: whoever has the key of
a file would write the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from jaxfer import cache_folder, files

FOLDER = "features"
LIMIT = 8 * 2**30  # bytes of all files
DIGEST = 16  # bytes
ROWS, ABOUT, LOCK = "rows", "about.json", "lock"
BLOCK = 2**26  # bytes in memory at once
_TYPES = {"float32": "<f4", "bfloat16": "<u2"}  # NumPy has no bfloat16 of its own


def root() -> Path | None:
    """`$JAXFER_CACHE/features`, else `~/.cache/jaxfer/features`; None where nothing is kept.

    Raises:
      InputError: as `cache_folder.root` has it.
    """
    folder = cache_folder.root()
    return folder and folder / FOLDER


@dataclasses.dataclass(frozen=True, kw_only=True)
class Store:
    """One file of features: [count, *shape].

    Attributes:
      folder: where it lies.
      count: rows of the data column.
      shape: of a row.
      dtype: `float32` or `bfloat16`.
    """

    folder: Path
    count: int
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def row(self) -> np.dtype:
        """A row of the file: the checksum of its number and its values, and these."""
        return np.dtype([("sum", f"V{DIGEST}"), ("values", _TYPES[self.dtype], self.shape)])

    @property
    def value_bytes(self) -> int:
        """Bytes of a value."""
        return np.dtype(_TYPES[self.dtype]).itemsize

    @functools.cached_property
    def _mapped(self) -> np.ndarray:
        return np.memmap(self.folder / ROWS, self.row, "r", shape=(self.count,))

    @property
    def values(self) -> np.ndarray:
        """What is there, read from the disk when it is looked at; a row that is missing holds anything."""
        return self._mapped["values"].view(self.dtype)

    def open(self, about: dict[str, Any]) -> None:
        """Makes the file where there is none, or one of another length; marks it as used now."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_json(epath.Path(self.folder / ABOUT), about)  # first: what has none would never be listed
        path, size = self.folder / ROWS, self.count * self.row.itemsize
        if not path.exists() or path.stat().st_size != size:
            path.unlink(missing_ok=True)
            with path.open("wb") as file:
                file.truncate(size)  # holes take no room

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Those of these rows whose checksum is not right, ascending, each once."""
        rows, lost = np.unique(rows), []
        size = max(1, BLOCK // self.row.itemsize)
        for some in np.split(rows, range(size, len(rows), size)):
            block = self._mapped[some]
            there = zip(some.tolist(), block["sum"], block["values"], strict=True)
            lost += [row for row, found, values in there if found.tobytes() != _sum(row, values)]
        return np.array(lost, np.int64)

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Writes these rows; zeros at a row's end, as of short texts, stay holes. Raises `OSError` on a full disk."""
        values = np.asarray(values, np.dtype(self.dtype)).view(_TYPES[self.dtype])
        with (self.folder / ROWS).open("r+b", buffering=0) as file:
            for row, value in zip(rows.tolist(), values, strict=True):
                content = _sum(row, value) + value.tobytes()
                data, start = content.rstrip(b"\0"), row * self.row.itemsize
                # A hole is read without being filled, which in a file system in memory a map would do.
                if os.pread(file.fileno(), len(content) - len(data), start + len(data)).strip(b"\0"):
                    data = content  # of a damaged row
                if os.pwrite(file.fileno(), data, start) < len(data):
                    raise OSError(errno.ENOSPC, "No space left on device", str(self.folder / ROWS))

    @contextlib.contextmanager
    def locked(self, waits: Callable[[], None]) -> Iterator[None]:
        """One process at a time; `waits` is called where there is another. A killed process's lock goes with it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self.folder / LOCK, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                waits()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """A file of features as `jaxfer cache` lists it.

    Attributes:
      folder: where it lies.
      size: bytes on the disk.
      used: seconds since 1970, its last use.
      about: what it holds.
    """

    folder: Path
    size: int
    used: float
    about: dict[str, Any]


def listed() -> list[Kept]:
    """All files, the one that has not been used for longest first."""
    folder, found = root(), []
    for path in folder.glob(f"*/{ABOUT}") if folder else ():
        with contextlib.suppress(FileNotFoundError):  # another process removes it
            size = sum(file.stat().st_blocks * 512 for file in path.parent.iterdir())
            found.append(Kept(folder=path.parent, size=size, used=path.stat().st_mtime, about=_about(path)))
    return sorted(found, key=lambda kept: kept.used)


def make_room(needed: int, keep: Path) -> bool:
    """Removes what has not been used for longest, until so many bytes more are within the limit; whether they are."""
    others = [kept for kept in listed() if kept.folder != keep]
    excess = sum(kept.size for kept in others) + needed - LIMIT
    for kept in others:
        if excess <= 0:
            break
        shutil.rmtree(kept.folder, ignore_errors=True)  # who reads it has it open
        excess -= kept.size
    return excess <= 0


def clear() -> int:
    """Removes all files; returns how many there were."""
    kept, folder = listed(), root()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    return len(kept)


def _about(path: Path) -> dict[str, Any]:
    """What a file says of itself; {} where that is damaged: it counts, and can be removed, all the same."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return {}


def _sum(row: int, values: np.ndarray) -> bytes:
    return hashlib.blake2b(int(row).to_bytes(8, "little") + values.tobytes(), digest_size=DIGEST).digest()
