"""Checkpoints, for resuming a run exactly: the only file that imports orbax. `pretrained/` reads foreign weights.

A checkpoint is a flat {name: array} and a JSON record, every byte of both under a checksum. Frozen parameters are the
same in every checkpoint of a stage: they are written once, to a folder named by their sha256, before the first record
that names it. Each device's part is written as it lies, and read as the run that resumes lays it out, on however many
devices. Restoring is strict: the names, shapes and types must be the expected ones. A checkpoint that can't be read is
reported and removed, and the one before it takes its place.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import gc
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxfer import borrowed, files
from jaxfer.errors import InputError
from jaxfer.parallel import cluster
from jaxfer.runs import quiet
from jaxfer.runs.checksum import array_sum
from jaxfer.state import State

# The fields a State is rebuilt from besides its config: the key and the hparams follow from the config alone.
SAVED = ("step", "params", "model_state", "opt_state", "extra")
# Bytes of a leaf. Up to here what orbax does for each one, or a thread, takes longer than its bytes.
SMALL = 2**20
# Ends the name of the folder of frozen parameters, beside that of the checkpoints: inside that, in a store, orbax would
# take it for a save that was cut off.
FROZEN = "_frozen"


class UnreadableCheckpoint(InputError):
    """A checkpoint is torn or altered: truncated, incomplete, or its bytes are not those that were saved."""


class Checkpoints:
    """The checkpoints of one run folder: saved asynchronously; the last two and the best ones are kept."""

    def __init__(self, folder: epath.Path, *, read_only: bool = False):
        # Orbax logs every save at INFO and WARNING, and a failed save with dozens of tracebacks and an exception.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        quiet.quiet_late_tasks()
        if str(folder).startswith("s3://"):
            borrowed.teach_orbax_s3()
        self._kept: dict[int, tuple[int, ...]] = {}
        self._newest: tuple[int, dict[str, Any]] | None = None  # the step saved or restored last, and its content
        self._amended = False  # whether that content is newer than what is on disk
        # A run that is opened is read whole by each process for itself.
        self._alone = read_only or cluster.alone()
        self._writes = not read_only and cluster.leader()
        this, processes = jax.process_index(), ocp.options.MultiprocessingOptions()
        if read_only:
            processes = dataclasses.replace(
                processes, primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process{this}"
            )
        options = ocp.CheckpointManagerOptions(
            multiprocessing_options=processes,
            preservation_policy=_Preserve(self._kept),
            read_only=read_only,
        )
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(multiprocessing_options=processes),
            "record": ocp.JsonCheckpointHandler(multiprocessing_options=processes),
        }
        place = folder if files.remote(folder) else folder.resolve()  # orbax can't restore from a relative path
        self._frozen = place.with_name(place.name + FROZEN)
        if self._writes:
            _remove_torn(place)
            _remove_torn(self._frozen)
        self._manager = ocp.CheckpointManager(place, item_handlers=handlers, options=options)
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=processes)
        self._sets = ocp.Checkpointer(handler, multiprocessing_options=processes)  # each whole once it is saved

    def save(
        self, step: int, state: State, record: Mapping[str, Any], best: Sequence[int], frozen: Collection[str] = ()
    ) -> None:
        """Starts saving; returns once the arrays are copied off the devices. A step saved before is kept.

        Args:
          step: of the run; larger than every step saved before.
          state: all of it but what follows from the config.
          record: what goes with it, as JSON can hold it.
          best: steps of the best evaluated checkpoints, the best first: they are kept. Empty before any evaluation.
          frozen: paths of the parameters that the stage does not change. They are on disk before this save begins; if
            they are few, each checkpoint holds them.
        """
        if step in self._manager.all_steps():
            return
        arrays = _flat(state)
        leaves, shared = _leaves(arrays), _shared(state, frozen)
        self.wait()
        sets = self._save_frozen(shared, {name: leaves[name] for name in shared})
        content = _content(record, best, leaves, sets)
        self._kept[step], self._newest = tuple(best), (step, content)
        own = {name: leaf for name, leaf in arrays.items() if name not in shared}
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(own), record=ocp.args.JsonSave(content))
        self._manager.save(step, args=items)

    def _save_frozen(self, arrays: dict[str, jax.Array], leaves: Mapping[str, Any]) -> dict[str, list[str]]:
        """{sha256: names of the leaves} of the frozen parameters, which are on disk now."""
        if not arrays:
            return {}
        sha256 = hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()
        if sha256 not in self._frozen_before:  # those of an older checkpoint may be damaged: nobody has read them
            if self._writes:
                self._frozen.mkdir(parents=True, exist_ok=True)
            self._sets.save(self._frozen / sha256, args=ocp.args.PyTreeSave(arrays), force=True)
        return {sha256: sorted(arrays)}

    @property
    def _frozen_before(self) -> dict[str, list[str]]:
        """{sha256: names of the leaves} of the frozen parameters of the checkpoint saved or restored last."""
        return {} if self._newest is None else self._newest[1].get("frozen", {})

    def amend(self, step: int, record: Mapping[str, Any], best: Sequence[int]) -> None:
        """Replaces the record of the checkpoint saved or restored last, at the latest before the next is saved.

        Args:
          step: of that checkpoint; any other is left as it is.
          record: what takes the place of the one it was saved with.
          best: as in `save`; now this checkpoint may be one.
        """
        if self._newest is None or self._newest[0] != step:
            return
        self._newest = step, _content(record, best, self._newest[1]["leaves"], self._frozen_before)
        self._kept[step], self._amended = tuple(best), True

    def wait(self) -> None:
        """Blocks until everything is on disk, the amended record too: it is deferred, so that training can go on."""
        self._manager.wait_until_finished()
        if self._amended:
            step, content = self._newest
            files.write_text(self._record(step), json.dumps(content))
            self._amended = False
        if self._writes:
            self._remove_unused()

    def _remove_unused(self) -> None:
        """Removes frozen parameters that no record on disk names; what can't be removed now may be later."""
        with contextlib.suppress(OSError, ValueError):  # a torn record may have named any
            unused = {path.name for path in self._frozen.iterdir()} if self._frozen.exists() else set()
            unused -= self._frozen_before.keys()
            for step in self._manager.all_steps() if unused else ():
                unused -= json.loads(self._record(step).read_text()).get("frozen", {}).keys()
            for name in unused:
                (self._frozen / name).rmtree(missing_ok=True)

    def _record(self, step: int) -> epath.Path:
        return self._manager.directory / str(step) / "record" / "metadata"

    def close(self) -> None:
        """Waits until everything is on disk, then closes orbax's manager."""
        try:
            self.wait()
        finally:
            self._sets.close()
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
        arrays, own = {}, dict(wanted)
        for sha256, names in content.get("frozen", {}).items():
            read = functools.partial(self._read_frozen, sha256), {name: own.pop(name) for name in names}
            arrays |= self._attempt(step, functools.partial(_read, *read))
        arrays |= self._attempt(step, lambda: _read(functools.partial(self._read_own, step), own))
        self._attempt(step, lambda: _verify(arrays, content["leaves"]))
        self._newest = step, content
        return _unflat(state, arrays), content["record"]

    def _content(self, step: int) -> dict[str, Any]:
        content = self._attempt(step, lambda: self._read_content(step))
        self._kept[step] = (content["best"], *content.get("next_best", ()))
        return content

    def _read_content(self, step: int) -> dict[str, Any]:
        content = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore())).record
        if content.pop("crc32") != _checksum(content):
            raise ValueError("its record differs from what was saved")
        return content

    def _read_own(self, step: int, args: ocp.args.PyTreeRestore) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(state=args)).state

    def _read_frozen(self, sha256: str, args: ocp.args.PyTreeRestore) -> dict[str, Any]:
        if not (self._frozen / sha256).exists():
            raise ValueError(f"its frozen parameters are missing: {self._frozen.name}/{sha256[:16]}...")
        return self._sets.restore(self._frozen / sha256, args=args)

    def _attempt(self, step: int, read: Callable[[], Any]) -> Any:
        """Returns the result of `read`; `UnreadableCheckpoint` with the first line of any error a torn file causes.

        A checkpoint that one process can't read is unreadable for all that share it: they fall back together.
        """
        value, reason = None, None
        with quiet.hushed():
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


def _read(
    restore: Callable[[ocp.args.PyTreeRestore], dict[str, Any]], wanted: Mapping[str, Any]
) -> dict[str, jax.Array]:
    how = ocp.checkpoint_utils.construct_restore_args(wanted)
    # Small leaves come to the host and go to the devices together: a third of the time. Large ones would be there
    # twice meanwhile.
    small = {k: leaf for k, leaf in wanted.items() if _small(leaf) and leaf.sharding.is_fully_addressable}
    how |= {k: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype) for k, leaf in small.items()}
    arrays = restore(ocp.args.PyTreeRestore(item=wanted, restore_args=how))
    return arrays | jax.device_put({k: arrays[k] for k in small}, {k: leaf.sharding for k, leaf in small.items()})


def _verify(arrays: Mapping[str, jax.Array], leaves: Mapping[str, Any]) -> None:
    kind = "crc32" if any("crc32" in leaf for leaf in leaves.values()) else "sum64"
    for name, checksum in _leaves(arrays, kind).items():
        if checksum != leaves[name]:
            raise ValueError(f"{name} differs from what was saved")


class _Preserve:
    """Keeps the last two checkpoints and the best of each: after a fallback to the one before, its best are there too.

    Args:
      best: {step of a checkpoint: steps of the best ones when it was saved}, filled in by its owner.
    """

    def __init__(self, best: Mapping[int, Sequence[int | None]]):
        self._best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Answers orbax, on every save: which checkpoints to keep."""
        last = sorted(info.step for info in checkpoints)[-2:]
        kept = {*last, *(best for step in last for best in self._best.get(step, ()))}
        return [info.step in kept for info in checkpoints]


def _small(*leaves: Any) -> bool:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) <= SMALL


def _flat(state: State) -> dict[str, Any]:
    tree = {name: getattr(state, name) for name in SAVED}
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _shared(state: State, frozen: Collection[str]) -> dict[str, jax.Array]:
    """The frozen parameters; none where all of them are small: each checkpoint holds them."""
    leaves, key = jax.tree_util.tree_leaves_with_path({"params": state.params}), jax.tree_util.keystr
    shared = {key(path): leaf for path, leaf in leaves if key(path[1:], simple=True, separator="/") in frozen}
    return {} if _small(*shared.values()) else shared


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


def _content(
    record: Mapping[str, Any], best: Sequence[int], leaves: Mapping[str, Any], frozen: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON part of a checkpoint: a copy, since orbax writes it later, when the caller may have changed it."""
    ranked = {"best": next(iter(best), None), **({"next_best": best[1:]} if len(best) > 1 else {})}
    content = json.loads(json.dumps({"record": record, **ranked, "leaves": leaves, "frozen": frozen}))
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
