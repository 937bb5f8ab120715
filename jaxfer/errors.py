"""User errors and early stops of a run: each has a one-line message and an exit code."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


class InputError(ValueError):
    """Bad user input; the one-line message says what was expected, what was found and the fix. Exit code 2."""

    exit_code = 2


class RuleError(InputError):
    """A rule matches no parameter, or a parameter matches no rule."""


class NothingTrained(InputError):
    """A stage's config leaves every parameter frozen. Its arguments are the message and `where` in the config."""

    where = property(lambda self: self.args[1])

    def __str__(self) -> str:
        return self.args[0]


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the message says at which step and stage. Exit code 3."""

    exit_code = 3


class CellsFailed(RuntimeError):
    """Some runs of a comparison ended with an error; the others are done. Exit code 1."""

    exit_code = 1


class Preempted(SystemExit):
    """SIGTERM: the run is saved and can be resumed by the same command. Exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75

    def __init__(self, message: str):
        super().__init__(self.exit_code)
        self.message = message


class Interrupted(KeyboardInterrupt):
    """Ctrl-C: the run is saved and can be resumed by the same command. Exit code 130."""

    exit_code = 130


# The operating system's messages for a full file system; C++ libraries pass on only the message.
_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)))


def full(error: BaseException | None) -> str | None:
    """The operating system's message for a full disk, if this error or one of its causes has it; else None."""
    while error is not None:
        for reason in _FULL:
            if reason in str(error):
                return reason
        error = error.__cause__ or error.__context__
    return None


def refused(error: Exception) -> str | None:
    """One line for a full disk, an unusable path or a lack of memory; None for any other error."""
    if reason := full(error):
        place = getattr(error, "filename", None)
        where = f"{str(place)!r} can't be written" if place is not None else "files can't be written"
        return f"{where} ({reason}); free some space, then run the same command again: files already saved are intact"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)!r} can't be used ({error.strerror}); correct the path or its permissions"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        reason = (str(error).splitlines() or ["the allocation failed"])[0]
        return f"out of memory ({reason}); lower config.batch_size, or make the model or the data smaller"
    return None


def nearest(word: str, known: Iterable[str], limit: int = 3) -> str:
    """`; nearest: 'a', 'b'`, or `; known: ...` where nothing is close: the tail of an error about a wrong name."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=limit, cutoff=0.5)
    if close:
        return "; nearest: " + ", ".join(repr(name) for name in close)
    shown = [*known[:40], f"and {len(known) - 40} more"] if len(known) > 40 else known
    return "; known: " + (", ".join(shown) if shown else "none")
