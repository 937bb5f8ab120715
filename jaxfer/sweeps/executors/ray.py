"""Runs cells on a Ray cluster: an existing one, or one that is started on this machine for as long as it is needed.

A worker is an actor. What it tells goes through a queue of Ray's; a second one, once it has an entry, asks all workers
to save and stop. A worker whose process or node is lost is replaced, and its group resumed from its checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import pickle
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray
from etils import epath
from ray.exceptions import GetTimeoutError, RayError
from ray.util.queue import Empty, Queue

import jaxfer
from jaxfer import files, registry
from jaxfer.errors import InputError, Preempted
from jaxfer.sweeps.attempts import Group, attempt
from jaxfer.sweeps.cells import FOLDER
from jaxfer.sweeps.executors.base import Died, Event, Saved, Workers, files_path, left
from jaxfer.sweeps.executors.processes import Sent
from jaxfer.training import compilation_cache
from jaxfer.training.preemption import grace

PASSED = ("JAXFER_", "JAX_", "XLA_")  # variables that workers get from here
STORE = 100 * 2**20  # bytes of Ray's object store on this machine: cells pass nothing through it but numbers
ANSWER = 5.0  # seconds in which a cluster's port must answer


@dataclasses.dataclass(eq=False)
class _Worker:
    """One of Ray's actors.

    Attributes:
      number: no other worker of this sweep has it.
      actor: started with its first group.
      running: what its actor's call will return.
    """

    number: int
    group: Group | None = None
    compiled: frozenset[Any] = frozenset()
    actor: Any = None
    running: Any = None


class Ray(Workers):
    """Workers on a Ray cluster, as many as its nodes have room for.

    Args:
      address: of a cluster; None: RAY_ADDRESS, else one is started here, and stopped in the end.
      cpus: of each worker, for Ray's bookkeeping.
      gpus: of each worker, or a fraction of one; None: one, where the cluster has any.
    """

    deaths = 3

    def __init__(self, *, address: str | None = None, cpus: float = 1, gpus: float | None = None):
        self._address, self._cpus, self._gpus = address or os.environ.get("RAY_ADDRESS") or None, cpus, gpus
        self._most, self._owner, self._started = math.inf, False, 0
        self._rooms: tuple[str, ...] = ()  # names of the folders of users' files that the cluster was given
        self.workers: list[_Worker] = []

    def at_most(self, groups: int) -> None:
        self._most = groups

    def __enter__(self) -> Ray:
        self._owner = not ray.is_initialized()
        if self._owner:
            self._rooms = _connect(self._address)
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            if self._gpus is None:
                self._gpus = 1 if any(node.get("GPU", 0) for node in nodes) else 0
            room = sum(_room(node, self._cpus, self._gpus) for node in nodes)
            if not room:
                largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
                raise InputError(
                    f"--cpus={self._cpus:g} --gpus={self._gpus:g}: no node of the Ray cluster has as many; the largest "
                    f"has {largest.get('CPU', 0):g} CPUs and {largest.get('GPU', 0):g} GPUs"
                )
            self._events, self._stop = (Queue(actor_options={"num_cpus": 0}) for _ in range(2))
        except BaseException:
            self.close()
            raise
        self.workers = [self._new() for _ in range(int(min(room, self._most)))]
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _new(self) -> _Worker:
        self._started += 1
        return _Worker(self._started)

    def _actor(self) -> Any:
        variables = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
        if self._rooms:
            variables.pop(registry.VARIABLE)  # the worker has copies
        if not self._gpus:
            variables["JAX_PLATFORMS"] = "cpu"
        elif self._gpus < 1:
            variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * self._gpus:.2f}"
        options = dict(num_cpus=self._cpus, num_gpus=self._gpus, runtime_env={"env_vars": variables})
        there = {"folder": os.getcwd(), "cache": compilation_cache.in_use(), "rooms": self._rooms}
        return ray.remote(_Serving).options(**options).remote(self._events, self._stop, there)

    def send(self, worker: _Worker, group: Group, folder: epath.Path) -> _Worker:
        if worker.actor is None:
            worker.actor = self._actor()
        cells = [(cell.key, cell.config.to_dict()) for cell in group]
        worker.running = worker.actor.run.remote(worker.number, os.fspath(files_path(folder)), cells)
        return worker

    def events(self) -> Iterator[tuple[_Worker, Event]]:
        # First who has ended, then what was told: nobody ends before what it told has arrived.
        ended, _ = ray.wait(running, num_returns=len(running), timeout=0) if (running := self._running()) else ([], [])
        told = []
        with contextlib.suppress(Empty):
            told.append(self._events.get(timeout=0 if ended else 0.2))
            told += self._events.get_nowait_batch(self._events.qsize())
        for number, event in map(pickle.loads, told):
            for worker in self.workers:
                if worker.number == number and worker.group is not None:
                    yield worker, event
        for worker in [worker for worker in self.workers if worker.running in ended]:
            try:
                saved, worker.running = ray.get(worker.running), None
            except RayError as error:
                yield worker, Died(_line(error))
            else:
                yield worker, Saved() if saved else None

    def _running(self) -> list[Any]:
        return [worker.running for worker in self.workers if worker.running is not None]

    def replaced(self, worker: _Worker) -> _Worker:
        with contextlib.suppress(Exception):
            ray.kill(worker.actor)
        fresh = self.workers[self.workers.index(worker)] = self._new()
        return fresh

    def stop(self) -> None:
        self._stop.put(None)
        ray.wait(self._running(), num_returns=len(self._running()), timeout=None) if self._running() else None

    def release(self) -> None:
        for worker in self.workers:
            if worker.group is None and worker.actor is not None:
                ray.kill(worker.actor)
                worker.actor = None

    def close(self, seconds: float = 0.0) -> None:
        with contextlib.suppress(RayError, GetTimeoutError):  # the cluster may be what was lost
            if running := [worker.running for worker in self.workers if worker.group is not None]:
                self._stop.put(None)
                ray.wait(running, num_returns=len(running), timeout=grace(seconds))
            for worker in self.workers:
                if worker.actor is not None:
                    ray.kill(worker.actor)
            if self.workers:
                self._events.shutdown(force=True)
                self._stop.shutdown(force=True)
        self.workers = []
        if self._owner:
            ray.shutdown()


def make(*, ray_address: str | None = None, cpus: float = 1, gpus: float | None = None) -> Ray:
    """From the command line's options; `InputError` for those that no cluster has."""
    if not (isinstance(cpus, (int, float)) and 0 < cpus < math.inf):
        raise InputError(f"--cpus: expected a number above 0 for each worker, found {cpus}")
    if gpus is not None and not (0 <= gpus < math.inf and (gpus < 1 or gpus == int(gpus))):
        raise InputError(f"--gpus: expected a whole number or a fraction of one GPU for each worker, found {gpus}")
    return Ray(address=ray_address, cpus=cpus, gpus=gpus)


def _room(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many workers a node with these resources takes."""
    return int(min(node.get("CPU", 0) / cpus, node.get("GPU", 0) / gpus if gpus else math.inf) + 1e-6)


def _connect(address: str | None) -> tuple[str, ...]:
    """Joins a cluster, or starts one; returns names of the rooms it was given. `InputError` where none answers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        _begin("local", include_dashboard=False, object_store_memory=STORE)
        return ()
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "//" not in host:
        try:
            socket.create_connection((host, int(port)), ANSWER).close()
        except OSError as error:
            raise InputError(_unreachable(address, error)) from None
    # The very code that addressed the cells, whatever is installed there.
    with tempfile.TemporaryDirectory() as folder:
        for number, place in enumerate(registry.in_use()):
            registry.copied(place, Path(folder, f"jaxfer_rooms_{number}"))
        rooms = sorted(Path(folder).iterdir())
        modules = [str(Path(jaxfer.__file__).parent), *map(str, rooms)]
        _begin(address, runtime_env={"py_modules": modules, "excludes": ["__pycache__"]})
    return tuple(room.name for room in rooms)


def _begin(address: str, **options: Any) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with warnings.catch_warnings():  # JAX's, that a fork may hang: what is forked here becomes another program
            warnings.filterwarnings("ignore", message=r"os\.fork\(\)")
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(_unreachable(address, error)) from None
    finally:
        if threading.current_thread() is threading.main_thread():  # Ray's own would not say `run me again`
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _unreachable(address: str, error: Exception) -> str:
    return (
        f"--ray-address={address}: no Ray cluster answers there ({_line(error)}); correct it, start one with "
        "`ray start --head`, or leave out --ray-address and RAY_ADDRESS to start one on this machine"
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")[:200]


class _Serving:
    """The actor."""

    def __init__(self, events: Queue, stop: Queue, there: Mapping[str, Any]):
        self._events = events
        with contextlib.suppress(OSError):  # relative paths of configs
            os.chdir(there["folder"])
        registry.use(place for name in there["rooms"] for place in find_spec(name).submodule_search_locations)
        compilation_cache.enable(there["cache"] and Path(there["cache"]))
        threading.Thread(target=_obey, args=(stop,), daemon=True).start()

    def run(self, number: int, folder: str, cells: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        """Runs a group; returns whether it was stopped, and saved, before its end."""
        from ml_collections import ConfigDict

        group, place = tuple(Sent(key, ConfigDict(config)) for key, config in cells), files.opened(folder)

        def tell(event: Event) -> None:
            self._events.put(pickle.dumps((number, event)))

        for cell in group:
            left(place / FOLDER / cell.key)
        try:
            attempt(group, place, lambda cell, outcome: tell((cell.key, outcome)), tell)
        except Preempted:
            return True
        return False


def _obey(stop: Queue) -> None:
    """Passes on a request to stop; ends the process with the sweep that started it, whose queues end with it."""
    try:
        while stop.empty():
            time.sleep(0.5)
    except Exception:
        os._exit(Preempted.exit_code)
    os.kill(os.getpid(), signal.SIGTERM)
