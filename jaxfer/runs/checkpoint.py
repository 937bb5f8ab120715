"""Checkpoints, for resuming a run exactly: the only file that imports orbax. `pretrained/` reads foreign weights.

A checkpoint is a flat {name: array} and a JSON record, every byte of both under a checksum. Each device's part is
written as it lies, and read as the run that resumes lays it out, on however many devices. Restoring is strict: the
names, shapes and types must be the expected ones. A checkpoint that can't be read is reported and removed, and the one
before it takes its place.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import gc
import json
import logging
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxfer import borrowed, files
from jaxfer.errors import InputError
from jaxfer.parallel import cluster
from jaxfer.runs.checksum import array_sum
from jaxfer.state import State

# The fields a State is rebuilt from besides its config: the key and the hparams follow from the config alone.
SAVED = ("step", "params", "model_state", "opt_state", "extra")
# Bytes of a leaf. Up to here what orbax does for each one, or a thread, takes longer than its bytes.
SMALL = 2**20


class UnreadableCheckpoint(InputError):
    """A checkpoint is torn or altered: truncated, incomplete, or its bytes are not those that were saved."""


class Checkpoints:
    """The checkpoints of one run folder: saved asynchronously; the last two and the best are kept."""

    def __init__(self, folder: epath.Path, *, read_only: bool = False):
        # Orbax logs every save at INFO and WARNING, and a failed save with dozens of tracebacks and an exception.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        _quiet_late_tasks()
        if str(folder).startswith("s3://"):
            borrowed.teach_orbax_s3()
        self._best: dict[int, int | None] = {}
        self._newest: tuple[int, dict[str, Any]] | None = None  # the step saved or restored last, and its content
        self._amended = False  # whether that content is newer than what is on disk
        # A run that is opened is read whole by each process for itself.
        self._alone = read_only or cluster.alone()
        this, processes = jax.process_index(), ocp.options.MultiprocessingOptions()
        if read_only:
            processes = dataclasses.replace(
                processes, primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process{this}"
            )
        options = ocp.CheckpointManagerOptions(
            multiprocessing_options=processes,
            preservation_policy=_Preserve(self._best),
            read_only=read_only,
        )
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(multiprocessing_options=processes),
            "record": ocp.JsonCheckpointHandler(multiprocessing_options=processes),
        }
        place = folder if files.remote(folder) else folder.resolve()  # orbax can't restore from a relative path
        if not read_only and cluster.leader():
            _remove_torn(place)
        self._manager = ocp.CheckpointManager(place, item_handlers=handlers, options=options)

    def save(self, step: int, state: State, record: Mapping[str, Any], best: int | None) -> None:
        """Starts saving; returns once the arrays are copied off the devices. A step saved before is kept.

        Args:
          step: of the run; larger than every step saved before.
          state: all of it but what follows from the config.
          record: what goes with it, as JSON can hold it.
          best: step of the best evaluated checkpoint: it is kept. None before any evaluation.
        """
        if step in self._manager.all_steps():
            return
        self._flush()
        arrays = _flat(state)
        content = _content(record, best, _leaves(arrays))
        self._best[step], self._newest = best, (step, content)
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), record=ocp.args.JsonSave(content))
        self._manager.save(step, args=items)

    def amend(self, step: int, record: Mapping[str, Any], best: int | None) -> None:
        """Replaces the record of the checkpoint saved or restored last, at the latest before the next is saved.

        Args:
          step: of that checkpoint; any other is left as it is.
          record: what takes the place of the one it was saved with.
          best: as in `save`; now this checkpoint may be it.
        """
        if self._newest is None or self._newest[0] != step:
            return
        self._newest = step, _content(record, best, self._newest[1]["leaves"])
        self._best[step], self._amended = best, True

    def _flush(self) -> None:
        """Writes the amended record once the save is finished: deferred, so that training can go on meanwhile."""
        if not self._amended:
            return
        self._manager.wait_until_finished()
        step, content = self._newest
        files.write_text(self._manager.directory / str(step) / "record" / "metadata", json.dumps(content))
        self._amended = False

    def wait(self) -> None:
        """Blocks until everything is on disk."""
        self._manager.wait_until_finished()
        self._flush()

    def close(self) -> None:
        """Waits until everything is on disk, then closes orbax's manager."""
        try:
            self.wait()
        finally:
            self._manager.close()

    @property
    def best(self) -> int | None:
        """Step of the best evaluated checkpoint, as the newest one knows it; None before any evaluation."""
        step = self._manager.latest_step()
        return None if step is None else self._content(step)["best"]

    def restore(
        self,
        blank: Callable[[Mapping[str, Any]], State],
        *,
        step: int | None = None,
        say: Callable[[str], None] = print,
    ) -> tuple[State, dict[str, Any]] | None:
        """The newest readable checkpoint, or exactly `step`'s.

        Args:
          blank: record -> the State (of arrays or of shapes with shardings) that a checkpoint with this record fills.
          step: that one and no other.
          say: told of every checkpoint that can't be read.

        Returns:
          (state, record), or None where there is no checkpoint.

        Raises:
          InputError: `step` is not there, none of the checkpoints can be read, or one holds other leaves than `blank`.
        """
        steps, folder = sorted(self._manager.all_steps(), reverse=True), self._manager.directory
        if step is not None:
            if step not in steps:
                raise InputError(f"no checkpoint of step {step} in {folder}; there are {steps}")
            return self._restore(step, blank)
        for candidate, before in zip(steps, [*steps[1:], None], strict=False):
            try:
                return self._restore(candidate, blank)
            except UnreadableCheckpoint as error:
                say(
                    f"{error}; " + (f"falling back to step {before}" if before is not None else "no earlier one exists")
                )
        if steps:
            raise InputError(
                f"none of the checkpoints {steps} in {folder} can be read; delete the folder to start over"
            )
        return None

    def discard_after(self, step: int) -> None:
        """Removes the checkpoints after `step`, unreadable or of a diverged State, which would block new ones."""
        for later in [s for s in self._manager.all_steps() if s > step]:
            self._manager.delete(later)

    def _restore(self, step: int, blank: Callable[[Mapping[str, Any]], State]) -> tuple[State, dict[str, Any]]:
        content = self._content(step)
        state = blank(content["record"])
        wanted = _flat(state)
        _same(wanted, content["leaves"], step)
        arrays = self._attempt(step, lambda: self._read_arrays(step, wanted))
        self._attempt(step, lambda: _verify(arrays, content["leaves"]))
        self._newest = step, content
        return _unflat(state, arrays), content["record"]

    def _content(self, step: int) -> dict[str, Any]:
        content = self._attempt(step, lambda: self._read_content(step))
        self._best[step] = content["best"]
        return content

    def _read_content(self, step: int) -> dict[str, Any]:
        content = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore())).record
        if content.pop("crc32") != _checksum(content):
            raise ValueError("its record differs from what was saved")
        return content

    def _read_arrays(self, step: int, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
        restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
        # Small leaves come to the host and go to the devices together: a third of the time. Large ones would be there
        # twice meanwhile.
        small = {k: leaf for k, leaf in wanted.items() if _small(leaf) and leaf.sharding.is_fully_addressable}
        restore_args |= {k: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype) for k, leaf in small.items()}
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args)
        arrays = self._manager.restore(step, args=ocp.args.Composite(state=args)).state
        return arrays | jax.device_put({k: arrays[k] for k in small}, {k: leaf.sharding for k, leaf in small.items()})

    def _attempt(self, step: int, read: Callable[[], Any]) -> Any:
        """Returns the result of `read`; `UnreadableCheckpoint` with the first line of any error a torn file causes.

        A checkpoint that one process can't read is unreadable for all that share it: they fall back together.
        """
        value, reason = None, None
        with _hushed():
            try:
                value = read()
            except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):  # not the checkpoint's fault
                raise
            except Exception as error:
                reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
            if reason:
                gc.collect()  # the other tasks report when they are collected, or when their reads come in
                time.sleep(0.2)
        reasons = [reason] if self._alone else cluster.gathered(reason)
        if any(reasons):
            raise UnreadableCheckpoint(f"checkpoint of step {step} can't be read ({next(filter(None, reasons))})")
        return value


def _remove_torn(folder: epath.Path) -> None:
    """Removes saves that were cut off; threads of one that failed in this process may still be writing for a moment."""
    if not folder.exists():
        return
    for torn in ocp.path.step.all_temporary_paths(folder):
        for tries_left in reversed(range(100)):
            try:
                torn.get().rmtree(missing_ok=True)
                break
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or not tries_left:
                    raise
                time.sleep(0.1)


def _verify(arrays: Mapping[str, jax.Array], leaves: Mapping[str, Any]) -> None:
    kind = "crc32" if any("crc32" in leaf for leaf in leaves.values()) else "sum64"
    for name, checksum in _leaves(arrays, kind).items():
        if checksum != leaves[name]:
            raise ValueError(f"{name} differs from what was saved")


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Silences the other tasks of orbax when one fails: their tracebacks would bury the one that is reported."""
    hook = sys.unraisablehook
    logging.getLogger("asyncio").addFilter(_not_orbaxs)  # for good: some are collected long after
    sys.unraisablehook = _silent
    try:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            yield
    finally:
        sys.unraisablehook = hook


_former_hook: Callable[[Any], Any] | None = None


def _quiet_late_tasks() -> None:
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


class _Preserve:
    """Keeps the last two checkpoints and the best of each: after a fallback to the one before, its best is there too.

    Args:
      best: {step of a checkpoint: step of the best one when it was saved}, filled in by its owner.
    """

    def __init__(self, best: Mapping[int, int | None]):
        self._best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Answers orbax, on every save: which checkpoints to keep."""
        last = sorted(info.step for info in checkpoints)[-2:]
        kept = {*last, *(self._best.get(step) for step in last)}
        return [info.step in kept for info in checkpoints]


def _small(leaf: Any) -> bool:
    return leaf.size * leaf.dtype.itemsize <= SMALL


def _flat(state: State) -> dict[str, Any]:
    tree = {name: getattr(state, name) for name in SAVED}
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _unflat(state: State, arrays: Mapping[str, Any]) -> State:
    tree = {name: getattr(state, name) for name in SAVED}
    filled = jax.tree_util.tree_map_with_path(lambda path, _: arrays[jax.tree_util.keystr(path)], tree)
    return state.replace(**filled)


def _leaves(arrays: Mapping[str, jax.Array], kind: str = "sum64") -> dict[str, dict[str, Any]]:
    """{name: type, shape and checksum}: orbax notices neither a flipped byte nor a leaf it had to fill.

    Checkpoints from before arrays were split over devices have a `crc32` in place of the `sum64`.
    """
    if kind == "crc32":
        sums = {name: zlib.crc32(cluster.fetched(leaf).reshape(-1).view(np.uint8)) for name, leaf in arrays.items()}
    else:
        sums = {name: array_sum(leaf) for name, leaf in arrays.items() if _small(leaf)}
        large = {name: leaf for name, leaf in arrays.items() if name not in sums}
        with concurrent.futures.ThreadPoolExecutor() as pool:  # numpy lets go of the GIL
            sums |= dict(zip(large, pool.map(array_sum, large.values()), strict=True))
        sums |= cluster.added({name: sums[name] for name, leaf in arrays.items() if not leaf.is_fully_addressable})
    return {
        name: {"dtype": str(leaf.dtype), "shape": list(leaf.shape), kind: sums[name]} for name, leaf in arrays.items()
    }


def _content(record: Mapping[str, Any], best: int | None, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON part of a checkpoint: a copy, since orbax writes it later, when the caller may have changed it."""
    content = json.loads(json.dumps({"record": record, "best": best, "leaves": leaves}))
    return {**content, "crc32": _checksum(content)}


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _same(wanted: Mapping[str, Any], stored: Mapping[str, Mapping[str, Any]], step: int) -> None:
    """Raises `InputError` unless names, types and shapes agree: orbax itself fills in or reshapes silently."""
    now = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in wanted.items()}
    before = {name: f"{leaf['dtype']}{list(leaf['shape'])}" for name, leaf in stored.items()}
    for name in sorted({*now, *before}):
        if now.get(name) != before.get(name):
            raise InputError(
                f"checkpoint of step {step}: {name} is {before.get(name, 'absent')} there, {now.get(name, 'absent')} "
                "in this run; it was written by another version or config: use another --workdir"
            )
