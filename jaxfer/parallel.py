"""Where a step runs: devices, shardings, and ahead-of-time compilation shared between runs of one process."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfer.errors import InputError
from jaxfer.experiment import ParallelConfig
from jaxfer.state import State
from jaxfer.step import StepSpec, make_eval_step, make_train_step

AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mode on a mesh: parameters replicated, examples split along the axis `data`.

    Attributes:
      mode: `jit` or `pmap`.
      mesh: one axis, `data`; of Auto type, since the default Explicit one refuses integer cross-entropy after a
        convolution.
    """

    mode: str
    mesh: Mesh

    @property
    def size(self) -> int:
        """How many devices."""
        return self.mesh.size

    @property
    def replicated(self) -> NamedSharding:
        """Every device holds the whole array."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batched(self) -> NamedSharding:
        """Every device holds its examples."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def feed(self, batches: Iterable[Mapping[str, np.ndarray]], *, train: bool) -> Iterator[dict[str, jax.Array]]:
        """Host batches -> device batches, one ahead of the step that uses it."""
        ahead = None
        for batch in batches:
            if train and self.mode == "pmap":
                batch = {k: v.reshape(self.size, -1, *v.shape[1:]) for k, v in batch.items()}
            placed = jax.device_put(dict(batch), self.batched)
            if ahead is not None:
                yield ahead
            ahead = placed
        if ahead is not None:
            yield ahead

    def whole(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch as `feed` was given it; pmap's has the devices as a first axis."""
        axes = 2 if self.mode == "pmap" else 1
        return {
            k: jax.ShapeDtypeStruct((math.prod(v.shape[:axes]), *v.shape[axes:]), v.dtype) for k, v in batch.items()
        }

    def rounded(self, batch_size: int) -> int:
        """The next batch size that the devices divide: evaluation pads up to it."""
        return -(-batch_size // self.size) * self.size


def placement(config: ParallelConfig, batch_sizes: Sequence[int] = ()) -> Placement:
    """The devices a config asks for, or as many of those here as divide every batch size.

    Raises:
      InputError: a given number of devices is not there, or does not divide a batch size.
    """
    available, together = jax.devices(), math.gcd(*batch_sizes)
    most = max(n for n in range(1, len(available) + 1) if together % n == 0)
    count = config.devices or most
    if count > len(available):
        raise InputError(f"config.parallel.devices: expected at most the {len(available)} here, found {count}")
    for batch_size in batch_sizes:
        if batch_size % count:
            raise InputError(
                f"config.batch_size: {batch_size} examples can't be split over {count} devices; "
                f"use {max(count, batch_size // count * count)} or --config.parallel.devices=1"
            )
    mesh = Mesh(np.asarray(available[:count]), (AXIS,), axis_types=(AxisType.Auto,))
    return Placement(config.mode, mesh)


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled step and what its compiler knows.

    Attributes:
      call: the executable; other shapes than the compiled ones raise, so nothing ever compiles twice unseen.
      compile_seconds: seconds spent tracing and compiling.
      flops: floating-point operations of one call over all devices, as lowered (no backend's private kernels hidden).
      peak_bytes: arguments, outputs and temporaries of one device at once, aliases counted once.
      alias_bytes: bytes of the State that are updated in place.
    """

    call: Callable[..., Any]
    compile_seconds: float
    flops: float
    peak_bytes: int
    alias_bytes: int


def train_program(spec: StepSpec, state: State, batch: Mapping[str, Any], where: Placement) -> tuple[Program, bool]:
    """The compiled training step for these shapes, and whether this call compiled it (else it was shared)."""
    return _shared(_train_program, spec, _static(state), _static(dict(batch)), where)


def eval_program(spec: StepSpec, state: State, batch: Mapping[str, Any], where: Placement) -> tuple[Program, bool]:
    """The compiled evaluation step, likewise."""
    return _shared(_eval_program, spec, _static(eval_arguments(state)), _static(dict(batch)), where)


def eval_arguments(state: State) -> tuple[Any, Any, Any]:
    """What of a State an evaluation step reads."""
    return state.params, state.model_state, state.extra


def compiles() -> int:
    """Training programs compiled in this process so far."""
    return _train_program.cache_info().misses


def lowered_flops(function: Callable[..., Any], *shapes: Any) -> float:
    """FLOPs of one call over these shapes; nothing is allocated or compiled."""
    return _flops(jax.jit(function).lower(*shapes))


def forward_flops(spec: StepSpec, state: State, batch: Mapping[str, Any]) -> float:
    """FLOPs of an evaluation pass over such a batch."""
    return _forward_flops(spec, _static(eval_arguments(state)), _static(dict(batch)))


@functools.lru_cache(maxsize=64)
def _forward_flops(spec: StepSpec, variables: _Static, batch: _Static) -> float:
    return lowered_flops(make_eval_step(spec), *_tree(variables), _tree(batch))


@functools.lru_cache(maxsize=64)
def _train_program(spec: StepSpec, state: _Static, batch: _Static, where: Placement) -> Program:
    shapes, both = (_tree(state), _tree(batch)), (where.replicated, where.batched)
    step = jax.jit(make_train_step(spec), in_shardings=both, out_shardings=where.replicated, donate_argnums=0)
    if where.mode == "jit":
        return _compile(step, shapes)
    # One copy of the State for all devices: in_axes None on the way in, None on the way out.
    mapped = jax.pmap(
        make_train_step(dataclasses.replace(spec, axis_name=AXIS)),
        AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=list(where.mesh.devices.flat),
    )
    rows = where.size
    split = jax.tree.map(lambda s: jax.ShapeDtypeStruct((rows, s.shape[0] // rows, *s.shape[1:]), s.dtype), shapes[1])
    return _compile(mapped, (shapes[0], split), flops=_flops(step.lower(*shapes)))


@functools.lru_cache(maxsize=64)
def _eval_program(spec: StepSpec, variables: _Static, batch: _Static, where: Placement) -> Program:
    one = where.replicated
    step = jax.jit(make_eval_step(spec), in_shardings=(one, one, one, where.batched), out_shardings=one)
    return _compile(step, (*_tree(variables), _tree(batch)))


def _compile(step: Any, shapes: tuple[Any, ...], flops: float | None = None) -> Program:
    begin = time.perf_counter()
    lowered = step.lower(*shapes)
    compiled = lowered.compile()
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Program(
        call=compiled,
        compile_seconds=seconds,
        flops=_flops(lowered) if flops is None else flops,
        peak_bytes=peak - memory.alias_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
    )


def _flops(lowered: Any) -> float:
    return float(lowered.cost_analysis().get("flops", 0.0))


def _shared(build: Any, *key: Any) -> tuple[Program, bool]:
    misses = build.cache_info().misses
    program = build(*key)
    return program, build.cache_info().misses > misses


# A tree's structure, shapes and types, hashable.
_Static = tuple[Any, tuple[tuple[tuple[int, ...], Any], ...]]


def _static(tree: Any) -> _Static:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves)


def _tree(static: _Static) -> Any:
    structure, leaves = static
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
