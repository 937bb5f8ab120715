"""Compiled programs kept on disk between processes: a run's second start loads the programs of the first.

JAX decides what a program's key is (its code, the versions, flags and the kind of device); here is where entries lie,
how they are written, and how much of the disk they may take. A program that is read is the one that was compiled, so
results stay bitwise what they are without the cache.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from pathlib import Path

from jaxfer import borrowed
from jaxfer.errors import InputError, full

VARIABLE, OFF = "JAXFER_CACHE", "off"
LIMIT = 4 * 2**30  # bytes


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
        _not_kept(folder, f"no home folder; set HOME or {VARIABLE}")
        return None


def default() -> Path | None:
    """The folder for programs in `root`, which raises as it does."""
    # XLA splits a CPU program over the cores that it finds when it compiles, which JAX's key does not know.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    folder = root()
    return folder and folder / "xla" / f"{cores}-cores"


def enable(folder: Path | None) -> None:
    """Keeps the programs that this process compiles from now on in `folder`; None keeps none.

    A folder that the user gave JAX itself (JAX_COMPILATION_CACHE_DIR) stays in use as JAX uses it. One that can't be
    made costs a line on stderr and nothing else.
    """
    import jax

    if folder is None or in_use() is not None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # whoever writes here runs code in our processes
        _make_room(folder, LIMIT)
    except OSError as error:
        _not_kept(folder, error.strerror)
        return
    borrowed.set_program_store(lambda path: Entries(Path(path)))
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # No minimum compile time: a start compiles some fifty small programs besides the step.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    borrowed.reset_program_cache()  # earlier programs were compiled without the cache


def in_use() -> str | None:
    """The folder of this process; None where programs are not kept."""
    import jax

    return jax.config.jax_compilation_cache_dir


class Entries:
    """JAX's interface to a cache: bytes by key, one file each, whole or absent; the time of a file is its last use."""

    def __init__(self, folder: Path):
        self._path = folder

    def get(self, key: str) -> bytes | None:
        """The entry, None where there is none."""
        try:
            value = (self._path / key).read_bytes()
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            os.utime(self._path / key)
        return value

    def put(self, key: str, value: bytes) -> None:
        """Writes the entry; one that was there and could not be read is replaced. A full disk costs a line."""
        try:
            handle, temporary = tempfile.mkstemp(dir=self._path, prefix=".new-")
            try:
                with open(handle, "wb") as file:
                    file.write(value)
                os.replace(temporary, self._path / key)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            reason = full(error)
            if reason is None:
                raise
            _not_kept(self._path, reason)


@functools.lru_cache(maxsize=8)  # once: a start compiles fifty programs
def _not_kept(folder: Path, reason: str) -> None:
    print(f"warning: compiled programs are not kept: {folder}: {reason}", file=sys.stderr)


def _make_room(folder: Path, limit: int) -> None:
    """Removes the entries that have not been used for longest, until the others take at most `limit` bytes."""
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
