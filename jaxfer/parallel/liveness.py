"""Failure handling of multi-process runs: a failed or lost process ends the others, in bounded time and with a message.

Otherwise they would wait for each other for ever: in a step, in a save, at JAX's own exit.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from jaxfer import borrowed
from jaxfer.errors import InputError, NonFiniteLoss, Preempted, refused
from jaxfer.parallel.cluster import alone, leader

_LOST, _ALIVE, _LEFT = "jaxfer/lost", "jaxfer/alive", "left"
# The launcher's signals are meant for the parent process.
_SPEAKER = """
import signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if not sys.stdin.buffer.read():
    sys.exit(sys.argv[1])
"""
_ASK_SECONDS, _LINGER_SECONDS = 0.5, 5.0

SILENT_SECONDS = 30  # without a heartbeat before a process counts as lost and the others end
ASSENT_SECONDS = 5  # in which every process must fail for the error to count as shared
# Runtime errors about a program or a machine, not about a lost peer: a restart would not help.
OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Ends every process at once when one fails: at its exit JAX would wait for the others, and they for it.

    An error every process hits ends each normally; an error in one process stops the rest with its exit code and
    message. A lost process stops the others with exit code 75 (run me again), as if they were killed between two
    checkpoints.
    """
    if alone():
        yield
        return
    client, over, speaker = borrowed.coordination_client(), threading.Event(), _Speaker()
    watcher = threading.Thread(target=_watch, args=(client, over, speaker), name="cluster", daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        code, line = _described(error)
        if code != Preempted.exit_code and _everyones(client):
            raise
        _tell(client, _LOST, json.dumps([code, f"process {jax.process_index()}: {line}"]))
        _end(code, line, speaker)
    finally:
        over.set()
        watcher.join()
        speaker.dismiss()
        _tell(client, f"{_ALIVE}/{jax.process_index()}", _LEFT, allow_overwrite=True)


def _tell(client: Any, key: str, word: str, *, allow_overwrite: bool = False) -> None:
    """Leaves a message for the other processes; prints a line where that fails unexpectedly.

    The first who notices a loss may have told them already, and process 0, which keeps the words, may be gone.
    """
    try:
        client.key_value_set(key, word, allow_overwrite=allow_overwrite)
    except jax.errors.JaxRuntimeError as error:
        if not any(kind in str(error) for kind in ("ALREADY_EXISTS", "UNAVAILABLE")):
            print(f"the other processes could not be notified: {str(error).splitlines()[0][:200]}", file=sys.stderr)


def _described(error: Exception) -> tuple[int, str]:
    """The exit code and message of an error that ends this process; prints the traceback of a bug."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, (InputError, NonFiniteLoss)):
        return error.exit_code, reason
    if outside := refused(error):
        return InputError.exit_code, outside
    if isinstance(error, jax.errors.JaxRuntimeError) and not any(kind in reason for kind in OWN):
        return Preempted.exit_code, reason[:200]
    traceback.print_exception(error)
    return 1, f"{type(error).__name__}: {reason}"


def _everyones(client: Any) -> bool:
    """Whether all processes failed: then the error is in what they share, and each can end by itself."""
    try:
        client.wait_at_barrier("jaxfer/failed", ASSENT_SECONDS * 1000)
        return True
    except jax.errors.JaxRuntimeError:
        return False


class _Speaker:
    """Reports on standard error that this process has ended, unless it is dismissed before.

    A killed process can't report that itself, nor can one that JAX aborts: JAX aborts every process that has lost
    process 0, with a C++ stack trace and before Python notices. So a child process waits for this one's pipe to close.
    """

    def __init__(self) -> None:
        line = (
            f"process {jax.process_index()} of this run was killed, or ended because process 0 is gone; start all of "
            "them again to resume"
        )
        self._one = threading.Lock()  # the watcher and the run can end at the same time
        command = [sys.executable, "-I", "-S", "-c", _SPEAKER, line]
        self._other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def dismiss(self) -> None:
        with self._one:
            if not self._other.stdin.closed:
                self._other.communicate(b"dismissed")


def _watch(client: Any, over: threading.Event, speaker: _Speaker) -> None:
    """Ends this process when another reports a failure, or when process 0, which keeps the messages, is gone.

    Nothing else notices a process that is killed while all wait for each other in a save, so each sends heartbeats.
    """
    alive, heard = f"{_ALIVE}/{jax.process_index()}", _Heard()
    for count in itertools.count():
        if over.wait(_ASK_SECONDS):  # asks and sleeps: a thread that waits inside of the client can't be ended at exit
            return
        try:
            client.key_value_set(alive, str(count), allow_overwrite=True)
            if leader() and (silent := heard.silent(client.key_value_dir_get(_ALIVE), time.monotonic())):
                client.key_value_set(_LOST, json.dumps([Preempted.exit_code, silent]))
            code, line = json.loads(client.key_value_try_get(_LOST))
        except jax.errors.JaxRuntimeError as error:
            if any(kind in str(error) for kind in ("NOT_FOUND", "ALREADY_EXISTS")):
                continue
            code, line = Preempted.exit_code, f"process 0: {(str(error).splitlines() or [''])[0][:200]}"
        if not over.is_set():
            _end(code, line, speaker)


class _Heard:
    """When each process last sent a new heartbeat."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, float]] = {}

    def silent(self, heartbeats: Iterable[tuple[str, str]], now: float) -> str | None:
        """A message about a process that has sent nothing new for `SILENT_SECONDS` and has not left, else None."""
        for key, word in heartbeats:
            before, since = self._last.setdefault(key, (word, now))
            if word != before:
                self._last[key] = word, now
            elif word != _LEFT and now - since > SILENT_SECONDS:
                return f"process {key.rpartition('/')[2]}: silent for {now - since:.0f} s"
        return None


def _end(code: int, line: str, speaker: _Speaker) -> None:
    gone = f"another process of this run is gone ({line}); start all of them again to resume"
    sys.stdout.flush()
    os.write(2, f"{gone if code == Preempted.exit_code else f'error: {line}'}\n".encode())
    speaker.dismiss()
    if leader():  # it keeps the word: without it JAX ends the others by abort, before they have read it
        time.sleep(_LINGER_SECONDS)
    os._exit(code)
