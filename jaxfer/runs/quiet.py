"""Silences orbax's tasks and threads when a save or a restore fails: their tracebacks would bury the reported error."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Silences the other tasks of orbax when one fails."""
    hook = sys.unraisablehook
    logging.getLogger("asyncio").addFilter(_not_orbaxs)  # for good: some are collected long after
    sys.unraisablehook = _silent
    try:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            yield
    finally:
        sys.unraisablehook = hook


_former_hook: Callable[[Any], Any] | None = None


def quiet_late_tasks() -> None:
    """Silences tensorstore's threads, each of which prints a traceback once a failed save has closed its event loop."""
    global _former_hook
    if sys.unraisablehook is not _without_late_tasks:
        _former_hook, sys.unraisablehook = sys.unraisablehook, _without_late_tasks
        logging.getLogger("asyncio").addFilter(_not_orbaxs)


def _without_late_tasks(unraisable: Any) -> None:
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
        _former_hook(unraisable)


def _not_orbaxs(record: logging.LogRecord) -> bool:
    return "orbax" not in record.getMessage()


def _silent(_: Any) -> None:
    """Ignores the error. A module-level function, since CPython holds no reference to a hook while a thread runs it.

    A `lambda` was freed under tensorstore's late threads, and that was a segmentation fault (Python 3.12.1).
    """
