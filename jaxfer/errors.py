"""The errors a user can cause, and the two ways a run stops early: one line each, one exit code each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong: one line saying what was expected, what was found and the fix. Exit code 2."""

    exit_code = 2


class RuleError(InputError):
    """A rule matches nothing, or a parameter is matched by no rule."""


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


def refused(error: Exception) -> str | None:
    """What the machine refused, in one line: a path that can't be used, or memory; None for any other error."""
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
