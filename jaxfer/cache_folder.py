"""The folder of what is kept between runs: compiled programs, features, what was read of data files."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from pathlib import Path

from jaxfer.errors import InputError

VARIABLE, OFF = "JAXFER_CACHE", "off"


def root() -> Path | None:
    """`$JAXFER_CACHE`, else `~/.cache/jaxfer`; None where JAXFER_CACHE is `off` or nobody has a home.

    Raises:
      InputError: JAXFER_CACHE begins with the home of a user that there isn't.
    """
    setting = os.environ.get(VARIABLE)
    if setting == OFF:
        return None
    folder = Path(setting) if setting else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "jaxfer")
    try:
        return folder.expanduser().absolute()
    except RuntimeError:  # a container's user has no entry in the password file
        if setting:
            raise InputError(f"{VARIABLE}: expected a folder or {OFF!r}, found {setting!r}: no such user") from None
        not_kept("compiled programs, features and indexes of data", folder, f"no home folder; set HOME or {VARIABLE}")
        return None


@functools.lru_cache(maxsize=8)  # once: a start compiles fifty programs
def not_kept(what: str, folder: Path, reason: str) -> None:
    """Says on stderr that something can't be kept, which costs time and nothing else."""
    print(f"warning: {what} are not kept: {folder}: {reason}", file=sys.stderr)


def write(path: Path, value: bytes) -> None:
    """Writes a file whole or not at all; raises `OSError` where it can't."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with open(handle, "wb") as file:
            file.write(value)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def make_room(folder: Path, limit: int) -> None:
    """Removes the files that have not been used for longest, until the others take at most `limit` bytes."""
    stats = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process makes room too
            stats.append((file.stat().st_mtime, file.stat().st_size, file))
    excess = sum(size for _, size, _ in stats) - limit
    for _, size, file in sorted(stats):
        if excess <= 0:
            break
        file.unlink(missing_ok=True)
        excess -= size
