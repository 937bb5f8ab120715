"""What was read of a folder's files, so that a file that stayed as it was is not opened again.

It is kept for the process and, in a file for each data folder, under the cache's root for the next process. An entry is
used only while the file's inode, size and times are those that it was read with; of a file that was written within
`SETTLED` before, nothing is kept. A damaged file, one of another folder or of other code is made anew.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import PIL

from jaxfer import cache_folder
from jaxfer.data.lookup import SETTLED, fingerprint, parts, stamp

T = TypeVar("T")

FOLDER, SUFFIX = "index", ".json"
LIMIT = 2**30  # bytes of all files; 100,000 images take 16 MB
OPEN = 4  # folders, and results, that a process remembers
SUMS = 8  # fingerprints of a folder


class Index:
    """What is known of the files of one folder.

    Attributes:
      root: the folder, absolute.
      file: where it is kept; None keeps it for the process alone.
      stamps: {file: its inode, size and times when it was read}.
      facts: {kind: {file: value}}.
      sums: {what it depends on: a fingerprint}.
      changed: whether something is known that the file doesn't hold.
    """

    def __init__(self, root: str, file: Path | None):
        self.root, self.file, self.changed = root, file, False
        content = _load(file, root) if file else {}
        # Dicts of strings, which the collector leaves alone: with a list for each file, loading took twice as long.
        self.stamps: dict[str, str] = content.get("stamps", {})
        self.facts: dict[str, dict[str, Any]] = content.get("facts", {})
        self.sums: dict[str, str] = content.get("sums", {})

    def learn(self, name: str, stamp: str, kind: str, value: Any) -> None:
        """Remembers a fact of a file; those of other stamps are forgotten."""
        if self.stamps.get(name) != stamp:
            self._forget(name)
            self.stamps[name] = stamp
        self.facts.setdefault(kind, {})[name] = value
        self.changed = True

    def keep(self) -> None:
        """Writes what was learnt; files that are gone are forgotten. A full disk costs a line."""
        if not self.changed:
            return
        self.changed = False
        for name in [name for name in self.stamps if not os.path.exists(f"{self.root}/{name}")]:
            self._forget(name)
        if self.file is None:
            return
        body = json.dumps({"stamps": self.stamps, "facts": self.facts, "sums": self.sums}).encode()
        head = {"root": self.root, "files": len(self.stamps), "code": _code(), "sum": _sum(body)}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            cache_folder.write(self.file, json.dumps(head).encode() + b"\n" + body)
            cache_folder.make_room(self.file.parent, LIMIT)
        except OSError as error:
            cache_folder.not_kept("indexes of data", self.file.parent, str(error.strerror))

    def _forget(self, name: str) -> None:
        for values in (self.stamps, *self.facts.values()):
            values.pop(name, None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """Files as they were when they were last looked at.

    Attributes:
      root: the folder, as its user names it.
      index: what is known of it.
      stamps: {file, relative to root: its inode, size and times}.
      young: those written so recently that another change might not show in the stamp.
    """

    root: Path
    index: Index
    stamps: Mapping[str, str] = field(repr=False)
    young: Set[str]

    @functools.cached_property
    def version(self) -> str:
        """Changes with the files; empty where one is young."""
        if self.young:
            return ""
        parts = (f"{name}\0{stamp}" for name, stamp in self.stamps.items())
        return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()

    def fact(self, name: str, kind: str, read: Callable[[Path], T]) -> T:
        """What `read` returns for the file, a JSON value; it is called only if that is not known. Raises as it does."""
        stamp, known = self.stamps[name], self.index.facts.get(kind, {})
        if name in known and self.index.stamps.get(name) == stamp:
            return known[name]
        value = read(self.root / name)
        if name not in self.young:
            self.index.learn(name, stamp, kind, value)
        return value

    def sum(self, about: str, read: Callable[[], str]) -> str:
        """A fingerprint of all files, which `read` computes if it is not known; `about`: what else it depends on."""
        if not self.version:
            return read()
        key = fingerprint([self.version, about])
        if key not in self.index.sums:
            self.index.sums[key] = read()
            while len(self.index.sums) > SUMS:
                del self.index.sums[next(iter(self.index.sums))]
            self.index.changed = True
        return self.index.sums[key]

    def made(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, once a process as long as the files stay; `key`: what else it depends on."""
        if not self.version:
            return make()
        return _remembered(_MADE, (self.index.root, str(self.root), self.version, key), make)


def look(root: Path, names: Iterable[str]) -> Look:
    """The files with these names, relative to `root`, as they are now; `OSError` where one can't be reached."""
    absolute, now = os.path.abspath(root), time.time_ns()  # the time before: files may be written meanwhile
    stamps, young = {}, set()
    for name in names:
        found = os.stat(f"{absolute}/{name}")
        # A link may point elsewhere, which is another inode; a copy may keep mtime, but not ctime. The device is left
        # out: its number may change whenever it is mounted.
        stamps[name] = f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        if now - found.st_mtime_ns <= SETTLED:
            young.add(name)
    return Look(root=root, index=_index(absolute), stamps=stamps, young=young)


def fact(root: Path, name: str, kind: str, read: Callable[[Path], T]) -> T:
    """`Look.fact` of the file as it is now."""
    return look(root, [name]).fact(name, kind, read)


def once(read: Callable[..., T]) -> Callable[..., T]:
    """`read({split: file}, *options)` of files that are read whole: called once a process as long as they stay."""

    @functools.wraps(read)
    def made(files: Mapping[str, Path], *options: Hashable) -> T:
        version, settled = stamp(part for file in files.values() for part in parts(file))
        if not settled:
            return read(files, *options)
        return _remembered(_MADE, (read, tuple(files), version, options), lambda: read(files, *options))

    return made


def keep() -> None:
    """Writes what this process has learnt."""
    for index in _INDEXES.values():
        index.keep()


def folder() -> Path | None:
    """`index` under `cache_folder.root`, which raises as it does; None where nothing is kept."""
    root = cache_folder.root()
    return root and root / FOLDER


class Kept(NamedTuple):
    """An index as `jaxfer cache` lists it.

    Attributes:
      root: of the data; `?` where the file is damaged.
      files: how many it knows.
      size: bytes on the disk.
      used: seconds since 1970, its last use.
    """

    root: str
    files: int
    size: int
    used: float


def listed() -> list[Kept]:
    """All indexes on the disk, the one that has not been used for longest first."""
    where, found = folder(), []
    for file in where.glob(f"*{SUFFIX}") if where else ():
        with contextlib.suppress(FileNotFoundError):  # another process removes it
            stat = file.stat()
            with file.open("rb") as content:
                head = _json(content.readline())
            root, files = str(head.get("root", "?")), head.get("files")
            root = root if root.isprintable() else repr(root)[1:-1]  # Linux keeps names as bytes
            found.append(Kept(root, files if isinstance(files, int) else 0, stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda kept: kept.used)


def clear() -> int:
    """Removes all indexes; returns how many there were."""
    kept, where = listed(), folder()
    if where:
        shutil.rmtree(where, ignore_errors=True)
    return len(kept)


_INDEXES: OrderedDict[str, Index] = OrderedDict()
_MADE: OrderedDict[Hashable, Any] = OrderedDict()


def _index(root: str) -> Index:
    def opened() -> Index:
        where = folder()
        return Index(root, where and where / f"{fingerprint([os.fsencode(root)])[:32]}{SUFFIX}")

    return _remembered(_INDEXES, root, opened)


def _remembered(known: OrderedDict[Any, T], key: Hashable, make: Callable[[], T]) -> T:
    """The value of the key, made where there is none; the `OPEN` that were used last are kept."""
    if key not in known:
        known[key] = make()
        while len(known) > OPEN:
            known.popitem(last=False)
    known.move_to_end(key)
    return known[key]


def _load(file: Path, root: str) -> dict[str, Any]:
    """What the file holds; {} where there is none, or it is damaged, of another folder or of other code."""
    try:
        head, _, body = file.read_bytes().partition(b"\n")
        os.utime(file)  # used now
    except OSError:
        return {}
    said = _json(head)
    whole = said.get("sum") == _sum(body) and said.get("root") == root and said.get("code") == _code()
    return _json(body) if whole else {}


def _json(text: bytes) -> dict[str, Any]:
    """The object in the text; {} for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _sum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()


@functools.lru_cache(maxsize=1)
def _code() -> str:
    """sha256 (hex) of the code that reads data files: what another one found readable may be refused by this one."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return fingerprint([PIL.__version__, *(file.read_bytes() for file in files)])
