"""Compiled programs kept on disk between processes: a run's second start loads the programs of the first.

JAX decides what a program's key is (its code, the versions, flags and the kind of device); here is where entries lie,
how they are written, and how much of the disk they may take. A program that is read is the one that was compiled, so
results stay bitwise what they are without the cache.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from jaxfer import borrowed, cache_folder
from jaxfer.errors import full

LIMIT = 4 * 2**30  # bytes
PROGRAMS = "compiled programs"  # in warnings


def default() -> Path | None:
    """The folder for programs in `cache_folder.root`, which raises as it does."""
    # XLA splits a CPU program over the cores that it finds when it compiles, which JAX's key does not know.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    folder = cache_folder.root()
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
        cache_folder.make_room(folder, LIMIT)
    except OSError as error:
        cache_folder.not_kept(PROGRAMS, folder, error.strerror)
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
            cache_folder.write(self._path / key, value)
        except OSError as error:
            reason = full(error)
            if reason is None:
                raise
            cache_folder.not_kept(PROGRAMS, self._path, reason)
