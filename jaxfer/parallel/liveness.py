"""Several processes, one run: how one that fails or is lost ends the others, in bounded time and with a line.

Without it they would wait for each other for ever: in a step, in a save, at JAX's own exit.
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
# The launcher's signals are meant for the process that it speaks for.
_SPEAKER = """
import signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if not sys.stdin.buffer.read():
    sys.exit(sys.argv[1])
"""
_ASK_SECONDS, _LINGER_SECONDS = 0.5, 5.0

SILENT_SECONDS = 30  # of a process, after which it counts as lost and the others end
ASSENT_SECONDS = 5  # in which every process must have met the same error; else it is one's own
# What a runtime says of a program or a machine, not of a lost peer: starting again would not help.
OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Ends this process at once where one of several fails: at its exit JAX would wait for the others, and they for it.

    What all have met ends each as if it were alone; what one has met ends the others with its exit code, and its line.
    A lost process ends the others with exit code 75, run me again: they are as good as killed between two checkpoints.
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
    """Leaves a word for the others; says so where that fails otherwise than it may.

    The first who notices a loss may have told them already, and process 0, which keeps the words, may be gone.
    """
    try:
        client.key_value_set(key, word, allow_overwrite=allow_overwrite)
    except jax.errors.JaxRuntimeError as error:
        if not any(kind in str(error) for kind in ("ALREADY_EXISTS", "UNAVAILABLE")):
            print(f"the other processes could not be told: {str(error).splitlines()[0][:200]}", file=sys.stderr)


def _described(error: Exception) -> tuple[int, str]:
    """(exit code, one line) of what ended this process; prints the traceback of a bug."""
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
    """Whether all processes come here: the error is in what they share, and each can end by itself."""
    try:
        client.wait_at_barrier("jaxfer/failed", ASSENT_SECONDS * 1000)
        return True
    except jax.errors.JaxRuntimeError:
        return False


class _Speaker:
    """Says on standard error that this process has ended, unless it is dismissed before.

    A process that is killed can't say it, nor one that JAX aborts: it does that, with a stack of C++ and before Python
    could know, to all who have lost process 0. So another one waits for this one's end of a pipe.
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
    """Ends this process when another says that one has failed, or when process 0, which keeps the word, is gone.

    A process that is killed while all wait for each other in a save is missed by nobody: each says that it lives.
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
    """When each process last said something new."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, float]] = {}

    def silent(self, heartbeats: Iterable[tuple[str, str]], now: float) -> str | None:
        """A process that has said nothing new for `SILENT_SECONDS` and has not left, in words."""
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
