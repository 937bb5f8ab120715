"""Where a run's time goes: seconds spent waiting for input, and a profiler's trace of some steps on request."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath

from jaxfer import files


class Waited:
    """Passes batches on and counts the seconds that their consumer waits for them."""

    def __init__(self, batches: Iterable[Any]):
        self._batches, self._seconds = iter(batches), 0.0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        begun = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self._seconds += time.perf_counter() - begun

    def take(self) -> float:
        """Seconds waited since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class Clock:
    """Counts a run's seconds; it stands still while others have their turn."""

    def __init__(self) -> None:
        self._total, self._since = 0.0, None

    @property
    def seconds(self) -> float:
        return self._total + (0.0 if self._since is None else time.perf_counter() - self._since)

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self._total, self._since = self.seconds, None

    def add(self, seconds: float) -> None:
        """Counts a share of what was done together with others."""
        self._total += seconds

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Lead:
    """Limits how far the host runs ahead of the device.

    Without a limit the host runs ahead by a whole log window, and SIGTERM has to wait for every step in flight. Two
    steps keep the device busy. Steps longer than half a second are not started ahead: their gaps are negligible.
    """

    STEPS, SLOW_SECONDS = 2, 0.5

    def __init__(self) -> None:
        self._allowed = self.STEPS

    def limit(self, outputs: Sequence[Any]) -> None:
        """Waits until few enough steps are in flight; `outputs` are those of the steps so far, the newest last."""
        if len(outputs) <= self._allowed:
            return
        begun = time.perf_counter()
        jax.block_until_ready(outputs[-1 - self._allowed])
        self._allowed = 0 if time.perf_counter() - begun > self.SLOW_SECONDS else self.STEPS


class Trace:
    """A trace of the steps `first` to `last`, both included and counted over the run, for TensorBoard or Perfetto.

    Args:
      steps: (first, last), or () for none; a run that resumes among them traces what is left.
      folder: where it is written.
    """

    def __init__(self, steps: tuple[int, ...], folder: epath.Path):
        self._first, self._last = steps or (0, -1)
        self._folder = folder
        self._step: Any = None  # the step under way, where it is traced
        self._place: Path | None = None  # where the profiler writes, while it does

    def begin(self, step: int, state: Any) -> None:
        """Before a step that `state` goes into."""
        if not self._first <= step <= self._last:
            return
        if self._place is None:
            jax.block_until_ready(state)  # keeps earlier steps out of the trace
            remote = files.remote(self._folder)  # the profiler knows this machine's files alone
            self._place = Path(tempfile.mkdtemp()) if remote else Path(self._folder)
            jax.profiler.start_trace(str(self._place))
        self._step = jax.profiler.StepTraceAnnotation("train", step_num=step)
        self._step.__enter__()

    def end(self, step: int, outputs: Any) -> None:
        """After the step has been started; waits for the outputs of the last."""
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None
        if self._place is not None and step >= self._last:
            jax.block_until_ready(outputs)
            self.close()

    def close(self) -> None:
        """Writes what has been traced, if the run leaves before the last of the steps."""
        if self._place is None:
            return
        place, self._place = self._place, None
        jax.profiler.stop_trace()
        for file in (file for file in place.rglob("*") if file.is_file()) if place != Path(self._folder) else ():
            copy = self._folder / file.relative_to(place).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
        if place != Path(self._folder):
            shutil.rmtree(place)
