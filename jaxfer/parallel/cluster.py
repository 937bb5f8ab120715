"""Multi-process runs: joining, agreeing on inputs, sharing arrays. No-ops in a single process.

Every process computes the same program over the devices of all and reads its own part of each batch; process 0 writes
the run's files, all of them save its checkpoints. The folder is one that every process sees.
"""

from __future__ import annotations

import functools
import json
import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from jaxfer import borrowed
from jaxfer.errors import InputError

T = TypeVar("T")

JOIN_SECONDS = 300  # to wait for the other processes at the start: a pod's hosts boot minutes apart
HEARTBEAT_SECONDS = 100  # of silence before JAX aborts the other processes; must exceed liveness.SILENT_SECONDS
SEEN_SECONDS = 30  # for other hosts to see a new file: NFS caches absent names


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the other processes; call it before JAX is used. Arguments default to the launcher's environment.

    Args:
      coordinator: HOST:PORT where process 0 listens.
      processes: how many.
      process: which of them this is, from 0.

    Raises:
      InputError: some of the three are given and some are not, or the others did not come.
    """
    flags = {"--coordinator": coordinator, "--num_processes": processes, "--process_id": process}
    missing = [flag for flag, value in flags.items() if value is None]
    if missing and len(missing) < len(flags):
        present = [flag for flag in flags if flag not in missing]
        raise InputError(f"{', '.join(missing)}: required together with {', '.join(present)}; give all three")
    if missing and not launched():
        return
    if not missing and not re.fullmatch(r".+:\d+", coordinator):
        raise InputError(f"--coordinator: expected HOST:PORT, found {coordinator!r}")
    if not missing and not 0 <= process < processes:
        raise InputError(f"--process_id: expected 0 to {processes - 1}, found {process}")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"the {processes or ''} processes did not connect at {coordinator or 'the coordinator'} ({reason}); "
            "start all of them with the same --coordinator and --num_processes"
        ) from None


def launched() -> bool:
    """Whether a launcher that JAX knows has started more than one process: SLURM, Open MPI, GKE, Cloud TPU, ..."""
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return True
    kind = borrowed.launcher()
    try:
        return kind is not None and kind.get_process_count() > 1
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"this process was started by {kind.name}, which does not state how many there are ({reason}); give "
            "--coordinator, --num_processes and --process_id"
        ) from None


def refuse(command: str) -> None:
    """Raises `InputError` where a launcher has started several processes of a single-process command."""
    if launched():
        raise InputError(f"jaxfer {command} runs in one process; start it on one host, or `jaxfer run` on all")


def alone() -> bool:
    """Whether this is the only process; a call before JAX is used does not initialize its backend."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def leader() -> bool:
    """Whether this process writes the run's files."""
    return alone() or jax.process_index() == 0


def gathered(value: Any) -> list[Any]:
    """The JSON values of all processes, in process order; every process calls it at the same place."""
    if alone():
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def together(step: Callable[[], T]) -> T:
    """Returns the result of `step`; an `InputError` in any process is raised in all, so that none waits for ever."""
    if alone():
        return step()
    value, message = None, None
    try:
        value = step()
    except InputError as error:
        message = str(error)
    told = [(process, text) for process, text in enumerate(gathered(message)) if text is not None]
    if told:
        process, text = told[0]
        raise InputError(text if len(told) == jax.process_count() else f"process {process}: {text}")
    return value  # type: ignore[return-value]


def agree(value: dict[str, Any]) -> None:
    """Raises `InputError` in every process, with the first differing fields, unless all hold the same JSON value."""
    if alone() and jax.process_count() > 1:
        raise InputError(
            f"this is one of {jax.process_count()} hosts of a slice, and has not joined the others; start it by "
            "`jaxfer run` on all of them, or give --coordinator, --num_processes and --process_id"
        )
    first, *others = map(_dotted, gathered(value))
    for process, other in enumerate(others, start=1):
        differing = [
            f"{name}: {first.get(name, 'absent')!r} in process 0, {other.get(name, 'absent')!r} in process {process}"
            for name in sorted({*first, *other})
            if first.get(name, "absent") != other.get(name, "absent")
        ]
        if differing:
            more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
            raise InputError(
                f"the processes differ ({'; '.join(differing[:4])}{more}); start all with the same command"
            )


def _dotted(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, inner in value.items() for k, v in _dotted(inner, f"{prefix}.{name}".lstrip(".")).items()}


def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Spreads an array that every process holds whole over the devices of all processes."""
    if alone() or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def fetched(leaf: Any) -> np.ndarray:
    """Copies a whole array to this host, however it is sharded; every process must call it."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    if not leaf.is_fully_replicated:
        leaf = _whole(NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)
    return np.asarray(leaf.addressable_data(0))


@functools.lru_cache(maxsize=8)
def _whole(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=sharding)


def visible(folder: epath.Path) -> None:
    """Raises `InputError` unless every process sees the same folder: the others must read what process 0 writes."""
    if alone():
        return
    file = folder / ".together"
    token, *_ = gathered(str(time.time_ns()))
    if leader():
        file.write_text(token)
    gathered(None)  # it is there now
    until = time.monotonic() + SEEN_SECONDS
    while not (seen := file.exists() and file.read_text() == token) and time.monotonic() < until:
        time.sleep(1)
    blind = [process for process, sees in enumerate(gathered(seen)) if not sees]
    if blind:
        raise InputError(
            f"--workdir={folder} is not a shared folder: process {blind[0]} does not see what process 0 writes; use a "
            "shared file system or a bucket"
        )


def added(values: dict[str, int]) -> dict[str, int]:
    """Sums each named value over the processes, modulo 2^64; all processes must pass the same names."""
    if alone() or not values:
        return values
    words = np.array([[value >> 32, value & 0xFFFFFFFF] for value in values.values()], np.uint32).reshape(-1, 2)
    uppers, lowers = np.moveaxis(multihost_utils.process_allgather(words).astype(object).sum(0), -1, 0)
    return {
        name: (int(upper) * 2**32 + int(lower)) % 2**64
        for name, upper, lower in zip(values, uppers, lowers, strict=True)
    }
