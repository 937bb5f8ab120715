"""Finding data files, and telling whether they changed."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.errors import InputError


def fingerprint(parts: Iterable[str | bytes | np.ndarray]) -> str:
    """sha256 (hex) over strings, bytes, and arrays with their types and shapes."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            part = np.ascontiguousarray(part).tobytes()
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


# A file younger than this is read every time: file systems stamp in steps of up to two seconds, so that a second change
# within a step would leave the stamp as it is.
SETTLED = 2e9  # nanoseconds


def stamp(files: Iterable[Path]) -> tuple[tuple[Any, ...], bool]:
    """(a cache key that changes with the files, whether all are old enough for the key to be reliable)."""
    stats = [(str(file), os.stat(file)) for file in files]
    # A link may point elsewhere, which is another inode; a copy may keep mtime, but not ctime.
    stamps = tuple((name, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats)
    return stamps, time.time_ns() - max((s.st_mtime_ns for _, s in stats), default=0) > SETTLED


HUB = "hub:"  # begins the name of a data set on the Hugging Face Hub
# Of a data set whose folder is not named: tables, and the images and sounds of folders.
HUB_FILES = ("*.parquet", "*.csv", "*.tsv", "*.jsonl", "*.json", "*.arrow", "*.txt", "*.npz", "*.tar", "*.jpg", "*.png")
STATE = "state.json"  # in the folder of one split that `datasets` saved; it names the files of rows
SHARDED = (".parquet", ".arrow")
SHARD = re.compile(r"-\d{5}-of-\d{5}$")  # the end of the stem of one of several files of a split


def parts(file: Path) -> tuple[Path, ...]:
    """The files that hold a table: itself, its shards where it is the first, or those in the folder of a split."""
    if file.is_dir():
        try:
            named = [entry["filename"] for entry in json.loads((file / STATE).read_bytes())["_data_files"]]
            found = tuple(file / Path(name).name for name in named)
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"expected {STATE} with the files of a data set in {str(file)!r}; save it again") from None
        if not found:
            raise InputError(f"expected files of rows in {str(file)!r}, found none; save the data set again")
        return found
    if file.suffix.lower() not in SHARDED or not SHARD.search(file.stem):
        return (file,)
    return tuple(sorted(file.parent.glob(f"{glob.escape(SHARD.sub('', file.stem))}-*-of-*{file.suffix}")))


def locate(path: str, source: str, option: str = "path") -> Path:
    """`data.path` as written, else under the folder in the environment variable JAXFER_DATA; `hub:` is downloaded."""
    if not path:
        raise InputError(f"data source {source!r} needs a {option}; set data.{option}")
    if path.startswith(HUB):
        return _from_hub(path.removeprefix(HUB), option)
    if "://" in path:
        raise InputError(f"data.{option}={path!r}: expected a path on this machine, found a URL; copy the data here")
    tried = [expanded(path, f"data.{option}")]
    if os.environ.get("JAXFER_DATA"):
        tried.append(Path(os.environ["JAXFER_DATA"]) / path)
    for candidate in tried:
        if candidate.is_dir() or candidate.is_file():
            return candidate
        if candidate.exists():  # opening a pipe would block
            raise InputError(f"data.{option}: expected a file or a folder, found {str(candidate)!r}; correct it")
    where = " or ".join(repr(str(candidate)) for candidate in tried)
    fix = "correct it or set JAXFER_DATA to the data's folder"
    raise InputError(f"data.{option} does not exist: expected {where}; {fix}")


def _from_hub(named: str, option: str) -> Path:
    """The folder of a data set's files, of `ORGANISATION/NAME[@REVISION][/FOLDER]`."""
    hit = re.fullmatch(r"([\w][\w.-]*/[\w][\w.-]*)(?:@([\w.-]+))?(?:/(.+))?", named)
    if not hit:
        raise InputError(f"data.{option}: expected hub:ORGANISATION/NAME[@REVISION][/FOLDER], found {HUB + named!r}")
    name, revision, folder = hit.groups()
    from jaxfer.hub_download import snapshot  # late: few data come from there

    root = Path(snapshot(name, revision, [f"{folder}/*"] if folder else HUB_FILES, kind="dataset"))
    found = root / (folder or "")
    if not found.is_dir():
        held = sorted(place.name for place in root.iterdir() if place.is_dir()) or ["none"]
        raise InputError(f"data.{option}: {name} has no folder {folder!r}; it has {', '.join(held[:8])}")
    return found


def expanded(path: str, field: str) -> Path:
    """The path with its `~` or `~USER` replaced; `InputError` naming the field where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{field}={path!r}: {str(error).rstrip('.')}; write the full path") from None
