"""Compiled steps: lowered for a placement, compiled ahead of time, shared between the runs of one process."""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxfer.models import attention
from jaxfer.parallel.placement import Placement
from jaxfer.parallel.sharding import DATA, FSDP, TENSOR
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.step import UNCHANGED, StepSpec, evaluated, make_adapt_step, make_eval_step, make_train_step
from jaxfer.training.many_steps import make_block

ROOM = 0.5  # of the mappings that a process may have, after which programs are no longer kept for later runs


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled step and its compiler's statistics.

    Attributes:
      call: the executable; other shapes than the compiled ones raise, so nothing ever compiles twice unseen.
      compile_seconds: seconds spent tracing and compiling.
      count: -> `flops`.
      peak_bytes: arguments, outputs and temporaries of one device at once, aliases counted once.
      alias_bytes: bytes of the State that are updated in place.
    """

    call: Callable[..., Any]
    compile_seconds: float
    count: Callable[[], float]
    peak_bytes: int
    alias_bytes: int

    @functools.cached_property
    def flops(self) -> float:
        """Floating-point operations of one call over all devices, as lowered (no backend's private kernels hidden).

        Counted when they are asked for: of most programs nobody does, and it takes as long as tracing a small one.
        """
        return self.count()


def train_program(spec: StepSpec, state: State, batch: Mapping[str, Any], where: Placement) -> tuple[Program, bool]:
    """The compiled training step for these shapes, and whether this call compiled it (else it was shared)."""
    return _shared(_train_program, spec, _static(state), _static(dict(batch)), where)


def block_program(
    spec: StepSpec, arguments: tuple[Any, ...], batch: Mapping[str, Any], state: State, where: Placement
) -> tuple[Program, bool]:
    """`make_block`, compiled for such arguments, likewise; its FLOPs are those of one step of one member.

    Args:
      spec: of the steps.
      arguments: of a call, the batches being of as many steps as a call may have.
      batch: of one step.
      state: of one member.
      where: a single device.
    """
    return _shared(_block_program, spec, _static(arguments), _static(dict(batch)), _static(state), where)


def eval_program(spec: StepSpec, state: State, batch: Mapping[str, Any], where: Placement) -> tuple[Program, bool]:
    """The compiled evaluation step, likewise; methods that differ in training alone share it."""
    return _shared(_eval_program, evaluated(spec), _static(eval_arguments(spec, state)), _static(dict(batch)), where)


def adapt_program(
    spec: StepSpec, state: State, kept: Any, batch: Mapping[str, Any], where: Placement
) -> tuple[Program, bool]:
    """The compiled step of an evaluation that adapts, likewise, for its batches of exactly these examples."""
    arguments = (state.params, state.model_state, state.extra, kept)
    return _shared(
        _adapt_program,
        dataclasses.replace(evaluated(spec), method=spec.method),
        _static(arguments),
        _static(dict(batch)),
        where,
    )


def eval_arguments(spec: StepSpec, state: State) -> tuple[Any, Any, Any]:
    """The parts of a State that an evaluation step reads."""
    return state.params, state.model_state, {} if evaluated(spec).method is UNCHANGED else state.extra


def compiles() -> int:
    """Training programs compiled in this process so far."""
    return _train_program.cache_info().misses + _block_program.cache_info().misses


def lower_step(stage: Stage, where: Placement) -> Any:
    """A stage's training step for these devices, lowered (`jax.stages.Lowered`); nothing is allocated or compiled.

    `where` may hold a topology's devices, which are not present; `.compile()` then compiles for them.
    """
    return _lower_train(stage.spec, stage.blank(0), stage.example(), where)


def fused(lowered: Any, where: Placement) -> bool:
    """Whether a step lowered for these devices has fused kernels of attention."""
    return where.platform != "cpu" and any(call in lowered.as_text() for call in attention.CALLS)


def lowered_flops(function: Callable[..., Any], *shapes: Any) -> float:
    """FLOPs of one call over these shapes; nothing is allocated or compiled."""
    return _flops(jax.jit(function).lower(*shapes))


def step_flops(spec: StepSpec, state: State, batch: Mapping[str, Any], where: Placement) -> float:
    """FLOPs of a training step over such a batch on all devices; operations computed twice count twice."""
    # XLA counts the body of a loop once, and nothing of a fused kernel: the slices of an accumulated gradient are
    # lowered as one, attention as plain.
    return _flops(_lower_train(dataclasses.replace(spec, accumulate=1), state, batch, where.plain))


def forward_flops(spec: StepSpec, state: State, batch: Mapping[str, Any]) -> float:
    """FLOPs of an evaluation pass over such a batch."""
    return _forward_flops(evaluated(spec), _static(eval_arguments(spec, state)), _static(dict(batch)))


@functools.lru_cache(maxsize=16)
def train_step(spec: StepSpec) -> Callable[..., Any]:
    """`make_train_step`, one function for equal specs: JAX keeps a function's trace, so that a step whose FLOPs are
    counted, or that is compiled for several placements, is traced once."""
    return make_train_step(spec)


@functools.lru_cache(maxsize=16)
def eval_step(spec: StepSpec) -> Callable[..., Any]:
    """`make_eval_step`, likewise."""
    return make_eval_step(spec)


@functools.lru_cache(maxsize=64)
def _forward_flops(spec: StepSpec, variables: _Static, batch: _Static) -> float:
    return lowered_flops(eval_step(spec), *_tree(variables), _tree(batch))


@functools.lru_cache(maxsize=64)
def _train_program(spec: StepSpec, state: _Static, batch: _Static, where: Placement) -> Program:
    shapes = _tree(state), _tree(batch)
    if where.mode == "jit":

        def count(lowered: Any) -> float:
            hidden = spec.accumulate > 1 or fused(lowered, where)
            return step_flops(spec, *shapes, where) if hidden else _flops(lowered)

        return _compile(lambda: _lower_train(spec, *shapes, where), count)
    # One copy of the State for all devices: in_axes None on the way in, None on the way out.
    mapped = jax.pmap(
        train_step(dataclasses.replace(spec, axis_name=DATA)),
        DATA,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=list(where.mesh.devices.flat),
    )
    rows = where.size
    split = jax.tree.map(lambda s: jax.ShapeDtypeStruct((rows, s.shape[0] // rows, *s.shape[1:]), s.dtype), shapes[1])
    return _compile(lambda: mapped.lower(shapes[0], split), lambda _: step_flops(spec, *shapes, where))


@functools.lru_cache(maxsize=64)
def _block_program(spec: StepSpec, arguments: _Static, batch: _Static, state: _Static, where: Placement) -> Program:
    shapes = _tree(arguments)
    steps = jax.tree.leaves(shapes[6])[0].shape[0]
    block = jax.jit(make_block(where.applied(spec), steps), donate_argnums=0, out_shardings=where.replicated)
    return _compile(lambda: block.lower(*shapes), lambda _: step_flops(spec, _tree(state), _tree(batch), where))


def _lower_train(spec: StepSpec, state: Any, batch: Any, where: Placement) -> Any:
    states = where.shardings(spec, state.params, state)
    return jax.jit(
        train_step(where.applied(spec)),
        in_shardings=(states, where.batched),
        out_shardings=(states, where.replicated),
        donate_argnums=0,
        compiler_options=_options(where),
    ).lower(state, batch)


# Gradients summed in parts, by loops of a product and a step of the sum. What is in a loop is not fused with what comes
# after it, and more activations are kept: experiments/pod_plans has how many.
_LOOPS = "xla_tpu_enable_windowed_einsum_for_reduce_scatter"


def _options(where: Placement) -> dict[str, str] | None:
    """Compiler options for TPU; LIBTPU_INIT_ARGS takes precedence."""
    split = where.mesh.shape[FSDP] > 1 and where.mesh.shape[TENSOR] == 1
    user_set = _LOOPS in os.environ.get("LIBTPU_INIT_ARGS", "")
    return {_LOOPS: "false"} if where.platform == "tpu" and split and not user_set else None


@functools.lru_cache(maxsize=64)
def _eval_program(spec: StepSpec, variables: _Static, batch: _Static, where: Placement) -> Program:
    arguments = _tree(variables)
    shardings = (*where.shardings(spec, arguments[0], arguments), where.batched)
    step = jax.jit(eval_step(where.applied(spec)), in_shardings=shardings, out_shardings=where.replicated)
    return _compile(lambda: step.lower(*arguments, _tree(batch)))


@functools.lru_cache(maxsize=16)
def _adapt_program(spec: StepSpec, variables: _Static, batch: _Static, where: Placement) -> Program:
    step = jax.jit(make_adapt_step(where.applied(spec)), out_shardings=where.replicated)
    return _compile(lambda: step.lower(*_tree(variables), _tree(batch)))


def _compile(lower: Callable[[], Any], count: Callable[[Any], float] | None = None) -> Program:
    begin = time.perf_counter()
    lowered = lower()
    compiled = lowered.compile()
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Program(
        call=compiled,
        compile_seconds=seconds,
        count=lambda: (count or _flops)(lowered),
        peak_bytes=peak - memory.alias_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
    )


def _flops(lowered: Any) -> float:
    return float(lowered.cost_analysis().get("flops", 0.0))


def _shared(build: Any, *key: Any) -> tuple[Program, bool]:
    misses = build.cache_info().misses
    program = build(*key)
    if build.cache_info().misses == misses:
        return program, False
    if _mapped() > ROOM:
        drop()
    return program, True


def drop() -> None:
    """Forgets every compiled program but those that a run under way holds; later runs compile their own."""
    for kept in (_train_program, _block_program, _eval_program, _adapt_program, train_step, eval_step, _forward_flops):
        kept.cache_clear()
    jax.clear_caches()
    gc.collect()


def _mapped() -> float:
    """The share of memory mappings that this process has of those that Linux allows it; 0 where nothing says so.

    XLA's programs for CPUs take hundreds to thousands each. Past the limit, 65,530 by default, compiling one more ends
    the process.
    """
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
        return Path("/proc/self/maps").read_bytes().count(b"\n") / allowed
    except OSError:
        return 0.0


# A tree's structure, shapes and types, hashable.
_Static = tuple[Any, tuple[tuple[tuple[int, ...], Any], ...]]


def _static(tree: Any) -> _Static:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves)


def _tree(static: _Static) -> Any:
    structure, leaves = static
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
