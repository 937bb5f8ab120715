"""Device placement: the mesh that a config asks for, and how State and batches are sharded over it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfer import rules
from jaxfer.config.experiment import ParallelConfig
from jaxfer.errors import InputError
from jaxfer.parallel import cluster, sharding
from jaxfer.parallel.sharding import AXES, DATA, FSDP, TENSOR
from jaxfer.rules import Rules
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.step import StepSpec
from jaxfer.stored import widened


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh and its mode: examples split over `data` and `fsdp`, parameters over `fsdp` and `tensor`.

    Attributes:
      mode: `jit` or `pmap`, which has the axis `data` alone.
      mesh: `data` x `fsdp` x `tensor`; of Auto type, since the default Explicit one refuses integer cross-entropy after
        a convolution.
      rules: how parameters lie, before the port's rules and the largest axis.
      fused: whether attention may use fused kernels; under pmap it never does.
    """

    mode: str
    mesh: Mesh
    rules: Rules[sharding.Split] = ()
    fused: bool = True

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.mesh.size

    @property
    def platform(self) -> str:
        """Of the devices: `cpu`, `gpu` or `tpu`."""
        return self.mesh.devices.flat[0].platform

    @property
    def parts(self) -> int:
        """Number of parts that the examples of a batch are split into."""
        return self.mesh.shape[DATA] * self.mesh.shape[FSDP]

    @property
    def shards(self) -> bool:
        """Whether parameters are split."""
        return self.mesh.shape[FSDP] * self.mesh.shape[TENSOR] > 1

    @property
    def replicated(self) -> NamedSharding:
        """Every device holds the whole array."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batched(self) -> NamedSharding:
        """Every device holds its examples."""
        return NamedSharding(self.mesh, PartitionSpec((DATA, FSDP)))

    def shardings(self, spec: StepSpec, params: Any, tree: Any) -> Any:
        """How a State with these (shapes of) parameters, or a part of one, lies: a sharding for each leaf of `tree`."""
        specs = sharding.parameter_specs(spec.port, rules.flatten(params), self.mesh.shape, self.rules)
        return jax.tree.map(
            lambda where: NamedSharding(self.mesh, where),
            sharding.tree_specs(specs, params, tree),
            is_leaf=lambda node: isinstance(node, PartitionSpec),
        )

    def place(self, spec: StepSpec, state: State) -> State:
        """Puts every leaf of the State where the compiled step expects it."""
        return spread(state, self.shardings(spec, state.params, state))

    def device_bytes(self, spec: StepSpec, state: State) -> int:
        """Bytes of such a State on one device."""
        shardings = jax.tree.leaves(self.shardings(spec, state.params, state))
        pairs = zip(jax.tree.leaves(state), shardings, strict=True)
        return sum(math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, where in pairs)

    def applied(self, spec: StepSpec) -> StepSpec:
        """The spec for these devices: activations sharded by example where parameters are split; the devices themselves
        where attention may use their kernels; unchanged elsewhere."""
        boundary = self.batched if self.shards else spec.execution.boundary
        batched = self.batched if self.fused and self.mode == "jit" and self.platform != "cpu" else None
        execution = dataclasses.replace(spec.execution, boundary=boundary, batched=batched)
        return dataclasses.replace(spec, execution=execution)

    @property
    def plain(self) -> Placement:
        """The same devices without fused kernels."""
        return dataclasses.replace(self, fused=False)

    def check(self, stages: Sequence[Stage]) -> None:
        """Raises `InputError` where a rule claims no parameter of any stage or does not fit one, or pmap would split a
        batch whose loss is of it as a whole."""
        for stage in stages:
            method, task = stage.spec.method.whole_batch, stage.spec.task.whole_batch
            if (method or task) and self.mode == "pmap" and self.size > 1:
                whose = f"method {stage.config.method!r}" if method else "the task"
                raise InputError(
                    f"config.parallel.mode=pmap: the loss of {whose} is of the batch as a whole; use mode=jit"
                )
            if stage.spec.method.batch is not None and self.mode == "pmap":
                raise InputError(
                    f"config.parallel.mode=pmap: {stage.config.named} changes the batch as a whole; use mode=jit"
                )
        sharding.check_rules(self.rules, [stage.leaves() for stage in stages], self.mesh.shape)

    def notes(self, stage: Stage) -> Iterator[str]:
        """A line for each thing the config asks for that this model or mesh can't provide."""
        if self.rules and not self.shards:
            yield "config.parallel.rules have no effect: neither fsdp nor tensor has more than one device"
        whole = sharding.left_whole(stage.spec.port, stage.leaves(), self.mesh.shape)
        if whole:
            ways, first = self.mesh.shape[TENSOR], whole[0]
            yield f"{len(whole)} parameters have no axis that tensor={ways} divides and are not split: {first}, ..."

    def __str__(self) -> str:
        axes = " x ".join(f"{name} {size}" for name, size in self.mesh.shape.items() if size > 1)
        return f"{self.size} devices ({axes})" if axes else "1 device"

    def feed(self, batches: Iterable[Mapping[str, np.ndarray]], *, train: bool) -> Iterator[dict[str, jax.Array]]:
        """Host batches (of this process's rows) -> device batches, one ahead of the step that uses it."""
        ahead = None
        for batch in batches:
            if train and self.mode == "pmap":
                batch = jax.tree.map(lambda v: v.reshape(self.size, -1, *v.shape[1:]), dict(batch))
            placed = jax.device_put(dict(batch), self.batched) if cluster.alone() else self._joined(batch)
            if ahead is not None:
                yield ahead
            ahead = placed
        if ahead is not None:
            yield ahead

    def whole(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch before `feed`, without the device axis that pmap adds in front."""
        axes = 2 if self.mode == "pmap" else 1

        def shape(v: jax.Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((math.prod(v.shape[:axes]), *v.shape[axes:]), v.dtype)

        return jax.tree.map(shape, dict(batch))

    def rows(self, batch_size: int, process: int | None = None) -> np.ndarray:
        """Which rows of a batch the devices of a process hold, ascending: int [b]; by default of this process.

        A slice's chips are ordered as they are wired, so that a host's rows need not follow each other; where layers
        are split over hosts, several hold the same rows.
        """
        process, fsdp = jax.process_index() if process is None else process, self.mesh.shape[FSDP]
        devices = np.ndenumerate(self.mesh.devices)
        held = sorted({data * fsdp + part for (data, part, _), device in devices if device.process_index == process})
        share = batch_size // self.parts
        return (np.array(held)[:, None] * share + np.arange(share)).reshape(-1)

    def _joined(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """This process's rows of a batch -> its part of arrays over the devices of all."""

        def array(value: np.ndarray) -> jax.Array:
            size = value.shape[0] // len(self.rows(self.parts)) * self.parts
            held = self.rows(size)

            def part(index: tuple[slice, ...]) -> np.ndarray:
                begin, end, _ = index[0].indices(size)
                first = int(np.searchsorted(held, begin))
                return value[first : first + end - begin]

            return jax.make_array_from_callback((size, *value.shape[1:]), self.batched, part)

        return jax.tree.map(array, dict(batch))

    def rounded(self, batch_size: int) -> int:
        """The next batch size that can be split; evaluation pads up to it."""
        return -(-batch_size // self.parts) * self.parts


def placement(
    config: ParallelConfig,
    batch_sizes: Sequence[int] = (),
    *,
    accumulate: Sequence[int] = (),
    names: Sequence[str] = (),
    devices: Sequence[Any] | None = None,
) -> Placement:
    """The devices a config asks for, by default as many of those present as divide every batch size.

    Args:
      config: axes and mode.
      batch_sizes: of the stages and their streams.
      accumulate: slices of each such batch; 1 where omitted.
      names: of the fields that say these sizes, for errors; `config.batch_size` where omitted.
      devices: to choose from instead of those present: a topology's, for compiling without devices.

    Raises:
      InputError: axes that don't go together, a number of devices that is not there, or one that does not divide a
        batch size.
    """
    if jax.config.jax_enable_x64:
        raise InputError("JAX_ENABLE_X64: a run computes in the dtypes its config states, found 64-bit types; unset it")
    if config.mode == "pmap" and (config.fsdp > 1 or config.tensor > 1):
        raise InputError(
            "config.parallel.mode=pmap keeps all parameters on each device, found "
            f"fsdp={config.fsdp}, tensor={config.tensor}; use mode=jit"
        )
    available, unit = list(usable_devices() if devices is None else devices), math.prod((config.fsdp, config.tensor))
    processes = len({device.process_index for device in available})
    if config.mode == "pmap" and processes > 1:
        raise InputError(f"config.parallel.mode=pmap supports one process, found {processes}; use mode=jit")
    rest = config.mode if config.mode in (FSDP, TENSOR) else DATA
    fixed = {FSDP: config.fsdp, TENSOR: config.tensor}
    if fixed.get(rest, 1) > 1:
        raise InputError(
            f"config.parallel.mode={rest} gives {rest} the remaining devices, found {rest}={fixed[rest]} too; "
            f"set only one of them"
        )
    split = [size // parts for size, parts in itertools.zip_longest(batch_sizes, accumulate, fillvalue=1)]
    sizes = {n * unit: {DATA: 1, **fixed, rest: n} for n in range(1, len(available) // unit + 1)}
    sizes = {count: axes for count, axes in sizes.items() if count % processes == 0}  # equally many from each process
    parts = {count: axes[DATA] * axes[FSDP] for count, axes in sizes.items()}
    together = math.gcd(*split)
    count = config.devices or max((n for n in sizes if together % parts[n] == 0), default=min(sizes, default=unit))
    if count > len(available):
        field = "devices" if config.devices else f"fsdp={config.fsdp} x tensor={config.tensor}"
        raise InputError(f"config.parallel.{field}: expected at most the {len(available)} here, found {count}")
    if count not in sizes:
        raise InputError(
            f"config.parallel.devices: {count} can't form a mesh with fsdp={config.fsdp} x tensor={config.tensor}; "
            f"use a multiple of {math.lcm(unit, processes)}"
        )
    named = [*names, *["config.batch_size"] * (len(batch_sizes) - len(names))]
    for name, batch_size, slices in itertools.zip_longest(named, batch_sizes, accumulate, fillvalue=1):
        least = parts[count] * slices
        if batch_size % least:
            over = f"{parts[count]} devices" + (f" in {slices} slices" if slices > 1 else "")
            raise InputError(
                f"{name}: {batch_size} examples can't be split over {over}; "
                f"use {max(least, batch_size // least * least)}"
                + (" or --config.parallel.devices=1" if processes == 1 else "")
            )
    shape, auto = tuple(sizes[count].values()), (AxisType.Auto,) * len(AXES)
    if count == len(available):  # ordered by how the chips are wired
        mesh = jax.make_mesh(shape, AXES, axis_types=auto, devices=available)
    else:
        groups = itertools.groupby(sorted(available, key=_process), key=_process) if processes > 1 else [(0, available)]
        taken = [device for _, group in groups for device in itertools.islice(group, count // processes)]
        mesh = Mesh(np.asarray(taken).reshape(shape), AXES, axis_types=auto)
    mode, rules = "pmap" if config.mode == "pmap" else "jit", sharding.parse_rules(config.rules)
    return Placement(mode, mesh, rules, fused=config.attention == "auto")


def usable_devices() -> list[Any]:
    """The devices here; `InputError` where JAX_PLATFORMS asks for a kind that JAX can't use."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = jax.config.jax_platforms
        if not platforms:
            raise
        reason = " ".join(str(error).split("(set ")[0].split())[:300] or "no such device, or its plugin is missing"
        raise InputError(
            f"JAX_PLATFORMS={platforms}: JAX can't use it ({reason.rstrip('. ')}); unset it, or install JAX for it"
        ) from None


def spread(tree: Any, shardings: Any) -> Any:
    """A tree that every process holds whole, each leaf as its sharding says; `Stored` leaves are widened in turn."""
    put = jax.device_put if cluster.alone() else cluster.put
    return jax.tree.map(lambda leaf, where: put(widened(leaf), where), tree, shardings)


def _process(device: Any) -> int:
    return device.process_index
