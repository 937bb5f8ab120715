"""Process setup for a command: output streams that may be closed or full, and Ctrl-C at any time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from jaxfer.errors import Interrupted

INTERRUPTED = "interrupted; run the same command again, which goes on from what is saved"

_pressed = False  # whether Ctrl-C was pressed: the next one stops at once


def prepare() -> None:
    """Sets this process up for a command, for the rest of its life."""
    for descriptor in range(3):  # a file that took the place of a closed one would receive what is printed
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number: `descriptor`
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - it lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a locale without `·` or `±`
    # A run must not end because nobody can read its progress.
    sys.stdout, sys.stderr = _Stream(sys.stdout, lossy=False), _Stream(sys.stderr, lossy=True)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)


class _Stream:
    """Wraps a stream and records its first error."""

    def __init__(self, stream: Any, *, lossy: bool):
        self._stream, self._lossy = stream, lossy
        self.fault: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._attempt(self._stream.write, text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, call: Callable[..., Any], *args: str) -> Any:
        try:
            return call(*args)
        except OSError as error:
            self.fault = self.fault or error
            if not self._lossy:
                raise


def say(line: str) -> None:
    """Writes one line to standard error; safe in a signal handler and beside a thread stuck in C."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def impatient() -> None:
    """Makes the next Ctrl-C stop at once: an earlier one waits for a save, or the interpreter is shutting down."""
    global _pressed
    _pressed = True


def owns(handler: Any) -> bool:
    """Whether the command installed this SIGINT handler; a notebook's process must survive a second Ctrl-C."""
    return handler is _interrupt


def stop_at_once() -> NoReturn:
    """Ends the process without output from threads that are still writing; the last checkpoint is complete."""
    say(INTERRUPTED)
    os._exit(Interrupted.exit_code)


def _interrupt(signum: int, frame: Any) -> None:
    global _pressed
    if _pressed or _importing(frame):  # a C extension would print the exception, or make an ImportError of it
        stop_at_once()
    _pressed = True
    raise KeyboardInterrupt


def _importing(frame: Any) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def output_fault() -> OSError | None:
    """The error of standard output, if it had one; elsewhere the same error may come from a disk or a worker."""
    return getattr(sys.stdout, "fault", None)


def drop_output() -> None:
    """Discards what is still to be flushed to standard output, so that the interpreter's exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
