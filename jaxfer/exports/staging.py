"""Write a folder atomically: in a temporary folder beside the target, renamed at the end and removed on failure."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator

from etils import epath

from jaxfer import files


@contextlib.contextmanager
def staged(target: epath.Path) -> Iterator[epath.Path]:
    """Yields an empty folder that replaces the target at the end; an error or SIGTERM removes it."""
    _clear(target)
    temporary = _beside(target, "tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _move(temporary, target)
    finally:
        if temporary.exists():
            temporary.rmtree()


@contextlib.contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise SystemExit(143), so that `finally` runs; only in the main thread and if unhandled."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(signum, frame):
        signal.signal(signum, signal.SIG_IGN)  # a second SIGTERM must not interrupt the cleanup
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _beside(target: epath.Path, kind: str) -> epath.Path:
    return target.parent / f".{target.name}.{socket.gethostname()}.{os.getpid()}.{kind}"


def _clear(target: epath.Path) -> None:
    """Removes leftovers of killed processes of this host, and restores a target that was moved aside."""
    if files.remote(target) or not target.parent.is_dir():
        return
    pattern = rf"\.{re.escape(target.name)}\.{re.escape(socket.gethostname())}\.(\d+)\.(tmp|old)"
    for entry in target.parent.iterdir():
        hit = re.fullmatch(pattern, entry.name)
        if not hit or (int(hit[1]) != os.getpid() and _alive(int(hit[1]))):
            continue
        if hit[2] == "old" and not target.exists():
            entry.rename(target)
        else:
            entry.rmtree()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _move(folder: epath.Path, target: epath.Path) -> None:
    """Moves the folder to the target; a former target is moved aside until then."""
    former = _beside(target, "old")
    if target.exists():
        target.rename(former)
    try:
        folder.rename(target)
    except BaseException:
        if former.exists():
            former.rename(target)
        raise
    if former.exists():
        former.rmtree()
