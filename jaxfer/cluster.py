"""Several processes, one run: how they find each other, agree, hold arrays together and leave; one has none of it.

Every process computes the same program over the devices of all and reads its own part of each batch; process 0 writes
the run's files, all of them save its checkpoints. The folder is one that every process sees.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from jaxfer.errors import InputError, NonFiniteLoss, Preempted

T = TypeVar("T")

_LOST = "jaxfer/lost"

JOIN_SECONDS = 300  # to wait for the others at the start: a pod's hosts boot minutes apart
HEARTBEAT_SECONDS = 30  # of silence, after which a process counts as dead and the others end
# What launchers tell each of their processes: {variable: how many processes its value speaks of}.
LAUNCHERS = {
    "SLURM_NTASKS": int,
    "OMPI_COMM_WORLD_SIZE": int,
    "JAX_NUM_PROCESSES": int,
    # Off a TPU, JAX itself puts a warning there, commas and all.
    "TPU_WORKER_HOSTNAMES": lambda value: 1 if "WARNING" in value else len(value.split(",")),
    "MEGASCALE_NUM_SLICES": int,
}


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the other processes, as the arguments or the launcher's environment say; before JAX is used.

    Args:
      coordinator: HOST:PORT where process 0 listens.
      processes: how many.
      process: which of them this is, from 0.

    Raises:
      InputError: some of the three are given and some are not, or the others did not come.
    """
    given = {"--coordinator": coordinator, "--num_processes": processes, "--process_id": process}
    missing = [flag for flag, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        present = [flag for flag in given if flag not in missing]
        raise InputError(f"{', '.join(missing)}: expected with {', '.join(present)}; give all three")
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
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"the {processes or ''} processes did not come together at {coordinator or 'the coordinator'} ({reason}); "
            "start all of them with the same --coordinator and --num_processes"
        ) from None


def launched() -> bool:
    """Whether a launcher that JAX knows has started more than one process."""
    for variable, count in LAUNCHERS.items():
        try:
            if count(os.environ.get(variable, "1")) > 1:
                return True
        except ValueError:
            continue
    return False


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Ends this process at once where one of several fails: at its exit JAX would wait for the others, and they for it.

    A lost process ends the others with exit code 75, run me again: they are as good as killed between two checkpoints.
    """
    if alone():
        yield
        return
    client, over = _client(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(client, over), name="cluster", daemon=True)
    watcher.start()
    try:
        yield
    except (InputError, NonFiniteLoss):  # every process has it, at the same place
        raise
    except Exception as error:
        lost = isinstance(error, jax.errors.JaxRuntimeError)
        if not lost:
            traceback.print_exc()
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first to notice tells the others
            client.key_value_set(_LOST, f"process {jax.process_index()}: {reason}")
        _end(reason, Preempted.exit_code if lost else 1)
    finally:
        over.set()
        watcher.join()


def _watch(client: Any, over: threading.Event) -> None:
    """Ends this process when another says that one is lost, or when process 0, which keeps the word, is gone."""
    while not over.wait(0.5):  # asks and sleeps: a thread that waits inside of the client can't be ended at exit
        try:
            reason = client.key_value_try_get(_LOST)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                continue
            reason = f"process 0: {(str(error).splitlines() or [''])[0][:200]}"
        if not over.is_set():
            _end(reason, Preempted.exit_code)


def _end(reason: str, exit_code: int) -> None:
    what = "another process of this run is gone" if exit_code == Preempted.exit_code else "this process failed"
    sys.stdout.flush()
    os.write(2, f"{what} ({reason}); start all of them again to resume\n".encode())
    os._exit(exit_code)


def _client() -> Any:
    from jax._src import distributed  # JAX has no public name for the client of its coordination service

    return distributed.global_state.client


def alone() -> bool:
    """Whether this is the only process; asked before JAX is used, it does not make it start."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def leader() -> bool:
    """Whether this process writes the run's files."""
    return alone() or jax.process_index() == 0


def gathered(value: Any) -> list[Any]:
    """The JSON values of all processes, in their order; every process calls it at the same place."""
    if alone():
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def together(step: Callable[[], T]) -> T:
    """What `step` gives; an `InputError` of any process is raised in all of them, and nobody waits for it."""
    if alone():
        return step()
    found, message = None, None
    try:
        found = step()
    except InputError as error:
        message = str(error)
    told = [(process, text) for process, text in enumerate(gathered(message)) if text is not None]
    if told:
        process, text = told[0]
        raise InputError(text if len(told) == jax.process_count() else f"process {process}: {text}")
    return found  # type: ignore[return-value]


def agree(value: dict[str, Any]) -> None:
    """`InputError`, in every process, with the first fields of a nested {name: JSON value} that differ between them."""
    first, *others = map(_dotted, gathered(value))
    for process, theirs in enumerate(others, start=1):
        differing = [
            f"{name}: {first.get(name, 'absent')!r} in process 0, {theirs.get(name, 'absent')!r} in process {process}"
            for name in sorted({*first, *theirs})
            if first.get(name, "absent") != theirs.get(name, "absent")
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
    """An array that every process holds whole -> one spread over the devices of all."""
    if alone() or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def fetched(leaf: Any) -> np.ndarray:
    """A whole array on this host, however it is spread; every process calls it."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    if not leaf.is_fully_replicated:
        leaf = jax.jit(lambda x: x, out_shardings=NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)
    return np.asarray(leaf.addressable_data(0))


def added(values: dict[str, int]) -> dict[str, int]:
    """{name: sum over the processes modulo 2^64}; the names are the same in all."""
    if alone():
        return values
    words = np.array([[value >> 32, value & 0xFFFFFFFF] for value in values.values()], np.uint32).reshape(-1, 2)
    uppers, lowers = np.moveaxis(multihost_utils.process_allgather(words).astype(object).sum(0), -1, 0)
    return {
        name: (int(upper) * 2**32 + int(lower)) % 2**64
        for name, upper, lower in zip(values, uppers, lowers, strict=True)
    }
