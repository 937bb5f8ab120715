"""`jaxfer plan`: what a config would take on a TPU slice that is not here, compiled by the TPU's own compiler.

Needs the extra `tpu` (libtpu runs on any CPU) and no TPU. Memory and collectives are of the compiled program,
operations of the step as written; seconds and MFU are an estimate from published peaks, not a measurement.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxfer.chips import CHIPS, GIB, Chip
from jaxfer.errors import InputError, nearest

DOES_NOT_FIT = 4  # the command's exit code: 1 is also what a crash of Python gives


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """A training step compiled for a slice; bytes of one chip.

    Attributes:
      state: of the State; batch: of the batch; both without the compiler's padding.
      padding: what both take more, as the chip's tiles of 8 x 128 numbers hold them.
      temporaries: activations, gradients, the compiler's own buffers.
      outputs: what of the outputs does not lie where the State lay.
      program: the code.
      alias: of the State, updated in place, with its padding.
      collectives: {kind of collective: bytes that a chip sends in a step}, see `jaxfer.hlo.sent`.
    """

    state: int
    batch: int
    padding: int
    temporaries: int
    outputs: int
    program: int
    alias: int
    collectives: Mapping[str, float]

    @property
    def total(self) -> int:
        """Bytes of memory that the step needs on a chip."""
        return self.state + self.batch + self.padding + self.temporaries + self.outputs + self.program


@dataclasses.dataclass(frozen=True, kw_only=True)
class TooLarge:
    """A step that the compiler refused for its memory: `total` bytes a chip, or more, of which it allows `limit`."""

    total: float
    limit: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A stage on a slice.

    Attributes:
      stage: its name.
      batch_size: over all chips.
      accumulate: slices of the batch, one after the other.
      mesh: how the chips are used, in words.
      flops: operations of a step on one chip, with all that is computed twice; as if all had the same share.
      model_flops: operations of a step on all chips, as the model needs them.
      compiled: the step.
      remedies: {what to change: what is then needed}, where it does not fit.
    """

    stage: str
    batch_size: int
    accumulate: int
    mesh: str
    flops: float
    model_flops: float
    compiled: Compiled | TooLarge
    remedies: Mapping[str, Compiled | TooLarge] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A config on a slice of `chips` chips of a kind; `print` it, or read its numbers."""

    topology: str
    chip: Chip
    chips: int
    stages: tuple[StagePlan, ...]
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every stage's step fits into a chip's memory."""
        return all(self.room(stage.compiled) for stage in self.stages)

    def room(self, step: Compiled | TooLarge) -> bool:
        """Whether a step fits into a chip."""
        return isinstance(step, Compiled) and step.total <= self.chip.memory

    def seconds(self, stage: StagePlan) -> dict[str, float]:
        """{what is waited for: its seconds a step at the chip's published peak}; none of a step that is too large.

        Memory's are of what must pass: the State read and written, temporaries written and read (in each slice of the
        batch). XLA's own count is of no use here: it takes a loop's body once and a prefetch for the whole array.
        """
        step = stage.compiled
        if isinstance(step, TooLarge):
            return {}
        passed = 2 * (step.state + stage.accumulate * step.temporaries) + step.batch
        return {
            "products": stage.flops / self.chip.flops,
            "memory": passed / self.chip.bandwidth,
            "links": sum(step.collectives.values()) / self.chip.links,
        }

    def estimate(self, stage: StagePlan) -> tuple[float, float]:
        """(seconds a step where all the waiting overlaps, where none does), at published peaks."""
        seconds = self.seconds(stage).values()
        return (max(seconds), sum(seconds)) if seconds else (math.nan, math.nan)

    def mfu(self, stage: StagePlan) -> tuple[float, float]:
        """The model's operations over what the chips could do in the estimated times, (least, most)."""
        fastest, slowest = (stage.model_flops / (self.chips * self.chip.flops * s) for s in self.estimate(stage))
        return slowest, fastest

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: numbers in bytes, operations and seconds; null where nothing is known."""
        return {
            "topology": self.topology,
            "chips": self.chips,
            "memory": self.chip.memory,
            "fits": self.fits,
            "notes": list(self.notes),
            "stages": [self._stage(stage) for stage in self.stages],
        }

    def _stage(self, stage: StagePlan) -> dict[str, Any]:
        known = isinstance(stage.compiled, Compiled)
        return {
            **dataclasses.asdict(stage),
            "compiled": dataclasses.asdict(stage.compiled) if known else None,
            "needed": stage.compiled.total,
            "seconds": self.seconds(stage),
            "estimate": list(self.estimate(stage)) if known else None,
            "mfu": list(self.mfu(stage)) if known else None,
            "fits": self.room(stage.compiled),
            "remedies": {
                what: {"needed": step.total, "fits": self.room(step)} for what, step in stage.remedies.items()
            },
        }

    def __str__(self) -> str:
        notes = [f"note: {note}" for note in self.notes]
        return "\n\n".join(["\n".join(self._lines(stage)) for stage in self.stages] + notes)

    def _lines(self, stage: StagePlan) -> Iterator[str]:
        step = stage.compiled
        yield f"stage {stage.stage!r} on {self.topology} ({stage.mesh}): {stage.batch_size} examples a step"
        yield f"  memory a chip  {self._memory(step)}"
        if isinstance(step, Compiled):
            kinds = ("state", "batch", "padding", "temporaries", "outputs", "program")
            yield f"                 {', '.join(f'{kind} {_gib(getattr(step, kind))}' for kind in kinds)}"
            if step.alias < step.state:
                yield f"                 {_gib(step.state - step.alias)} GiB of the State are not updated in place"
        flops = f"{stage.flops / 1e12:.3f} TFLOP a chip; the model's {stage.model_flops / 1e12:.2f} on all"
        yield f"  operations     {flops}"
        if isinstance(step, Compiled):
            moved = ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in step.collectives.items())
            yield f"  collectives    {f'{moved} MB sent by a chip' if moved else 'none'}"
            (fastest, slowest), (least, most) = self.estimate(stage), self.mfu(stage)
            spent = ", ".join(f"{name} {value * 1e3:.2f}" for name, value in self.seconds(stage).items())
            yield f"  estimate       {fastest * 1e3:.2f} to {slowest * 1e3:.2f} ms a step: all overlapping, or nothing"
            peak = f"{self.chip.flops / 1e12:.0f} TFLOP/s"
            yield f"                 ms at published peaks: {spent}; MFU {least:.0%} to {most:.0%} of {peak}"
        for what, changed in stage.remedies.items():
            yield f"  {what}: {self._memory(changed)}"

    def _memory(self, step: Compiled | TooLarge) -> str:
        if isinstance(step, TooLarge):
            return f"at least {_gib(step.total)} of {_gib(step.limit)} GiB: DOES NOT FIT; more is not known"
        fits = "fits" if self.room(step) else "DOES NOT FIT"
        return f"{_gib(step.total)} of {_gib(self.chip.memory)} GiB: {fits}"


def plan(config: ConfigDict, topology: str) -> Plan:
    """Compiles each stage's training step for a slice.

    Args:
      config: as `jaxfer.load` returns it.
      topology: `KIND:SHAPE`, e.g. `v5e:16x16`, `v4:2x2x2`.

    Raises:
      InputError: no such slice, no libtpu, a mesh that the slice can't form, or whatever `run` would refuse there.
    """
    chip, devices = _slice(topology)
    return plan_for(config, topology, chip, devices)


def plan_for(config: ConfigDict, topology: str, chip: Chip, devices: Sequence[Any]) -> Plan:
    """The same for such devices, one a chip; `topology` is what they are called."""
    ready = _ready(config, devices)
    found = Plan(topology=topology, chip=chip, chips=ready.where.size, stages=(), notes=ready.notes())
    stages = (_stage(stage, ready.where, _compiled(stage, ready.where, devices)) for stage in ready.stages)
    found = dataclasses.replace(found, stages=tuple(stages))

    def needed(name: str, changes: Mapping[str, Any]) -> Compiled | TooLarge:
        from jaxfer.config import override

        changed = _ready(override(config, changes), devices)
        return _compiled(next(s for s in changed.stages if s.name == name), changed.where, devices)

    pairs = zip(found.stages, ready.stages, strict=True)
    stages = (
        done
        if found.room(done.compiled)
        else dataclasses.replace(done, remedies=_remedies(found, ready, stage, needed))
        for done, stage in pairs
    )
    return dataclasses.replace(found, stages=tuple(stages))


def _remedies(
    found: Plan, ready: Any, stage: Any, needed: Callable[[str, Mapping[str, Any]], Compiled | TooLarge]
) -> dict[str, Compiled | TooLarge]:
    """What would make room, each compiled: of each kind of change the first that fits, after those tried."""
    where = f"stage.{stage.name}." if ready.experiment.run.stages else ""
    remedies: dict[str, Compiled | TooLarge] = {}
    for changes in _changes(stage, ready.where):
        for change in changes:
            change = {name if name.startswith("parallel.") else where + name: value for name, value in change.items()}
            try:
                step = needed(stage.name, change)
            except InputError:  # what this model, task or method can't do is no remedy
                continue
            words = {name: "'.*'" if value == (".*",) else value for name, value in change.items()}
            remedies[" ".join(f"--config.{name}={value}" for name, value in words.items())] = step
            if found.room(step):
                break
    return remedies


def _changes(stage: Any, where: Any) -> Iterator[list[dict[str, Any]]]:
    """Kinds of changes that are not in force, gentle ones first: the same gradient, then a smaller batch."""
    split = {"parallel.mode": "fsdp", "parallel.fsdp": 1}
    again = {"remat": (".*",)}
    whole = [] if where.shards or where.size == 1 else [split]
    kept = [] if set(stage.spec.port.units) <= stage.spec.execution.remat else [again]
    yield [*whole, *kept, *([{**split, **again}] if whole and kept else [])]
    size, slices = stage.config.batch_size, stage.config.accumulate
    halvings = [2**i for i in range(1, size.bit_length()) if size % (2**i * slices * where.parts) == 0]
    yield [{"accumulate": slices * n} for n in halvings]
    yield [{"batch_size": size // n} for n in halvings]


def _slice(topology: str) -> tuple[Chip, list[Any]]:
    """The chip and the devices of a slice by its name."""
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS:
        raise InputError(f"--topology: no TPU {kind!r}{nearest(kind, CHIPS)}; e.g. v5e:4x4")
    chip = CHIPS[kind]
    if not re.fullmatch(r"\d+(x\d+)+", shape) or shape.count("x") != chip.axes - 1:
        example = "4x4" if chip.axes == 2 else "2x2x2"
        raise InputError(f"--topology: a {kind} slice has {chip.axes} axes, found {shape!r}; e.g. {kind}:{example}")
    # No TPU here to ask about itself, and none that several plans, or a run and a plan, could want at once.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    options: dict[str, Any] = {"chip_config_name": chip.cores} if chip.cores else {}
    if set(shape.split("x")) == {"1"}:
        options["chips_per_host_bounds"] = (1, 1, 1)  # one chip of a host
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:
        if isinstance(error, ImportError) or "not installed" in str(error):
            raise InputError("jaxfer plan needs libtpu, which runs without a TPU; pip install 'jaxfer[tpu]'") from None
        raise InputError(f"--topology={topology}: {str(error).splitlines()[0]}") from None
    return chip, list(described.devices)


def _ready(config: ConfigDict, devices: Sequence[Any]) -> Any:
    from jaxfer.preflight import preflight

    try:
        ready = preflight(config, devices=devices)
    except NotImplementedError as error:  # jax's, of a mesh that the wires between the chips don't form
        reason = str(error).splitlines()[0]
        raise InputError(
            f"config.parallel: the slice's {len(devices)} chips don't form this mesh ({reason}); use another"
        ) from None
    if ready.where.shards and ready.where.size < len(devices):  # libtpu ends the process over some of these
        raise _part(ready.where, devices)
    return ready


def _part(where: Any, devices: Sequence[Any]) -> InputError:
    return InputError(
        f"the mesh, {where}, leaves {len(devices) - where.size} of the slice's {len(devices)} chips out, which "
        "the TPU's compiler refuses; use a batch size and axes for all of them, or --topology of a smaller slice"
    )


def _stage(stage: Any, where: Any, compiled: Compiled | TooLarge) -> StagePlan:
    from jaxfer.programs import lowered_flops
    from jaxfer.stages import example_batch
    from jaxfer.step import make_train_step

    spec = dataclasses.replace(stage.spec, accumulate=1)  # a loop's body would be counted once
    plain = dataclasses.replace(spec, execution=dataclasses.replace(spec.execution, remat=frozenset()))
    shapes = stage.blank(0), example_batch(spec.port, spec.task, stage.config.batch_size)
    model_flops = lowered_flops(make_train_step(plain), *shapes)
    flops = lowered_flops(make_train_step(spec), *shapes) if spec.execution.remat else model_flops
    return StagePlan(
        stage=stage.name,
        batch_size=stage.config.batch_size,
        accumulate=stage.config.accumulate,
        mesh=str(where),
        flops=flops / where.size,
        model_flops=model_flops,
        compiled=compiled,
    )


def _compiled(stage: Any, where: Any, devices: Sequence[Any]) -> Compiled | TooLarge:
    import jax

    from jaxfer import hlo
    from jaxfer.programs import lower_step
    from jaxfer.stages import example_batch

    state = where.device_bytes(stage.spec, stage.blank(0))
    examples = example_batch(stage.spec.port, stage.spec.task, stage.config.batch_size)
    batch = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in examples.values()) // where.parts
    try:
        program = lower_step(stage, where).compile()
    except jax.errors.JaxRuntimeError as error:
        if found := _refused(str(error), state + batch):
            return found
        if where.size < len(devices):
            raise _part(where, devices) from None
        raise
    memory = program.memory_analysis()
    return Compiled(
        state=state,
        batch=batch,
        padding=memory.argument_size_in_bytes - state - batch,
        temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        program=memory.generated_code_size_in_bytes,
        alias=memory.alias_size_in_bytes,
        collectives=hlo.sent(program.as_text()),
    )


def _refused(message: str, arguments: int) -> TooLarge | None:
    """What the compiler says of a program that is too large; None for any other error.

    It words it in two ways, with binary prefixes: `... required for HLO temporaries (160.65G) exceeds available HBM
    (15.75G)`, beside which the arguments must lie, and `Used 18.46G of 15.75G hbm`.
    """
    size = r"([\d.]+)([KMG]?)"
    parts = re.search(rf"HLO temporaries \({size}\) exceeds available HBM \({size}\)", message)
    whole = re.search(rf"Used {size} of {size} hbm", message)
    found = parts or whole
    if "RESOURCE_EXHAUSTED" not in message or not found:
        return None
    needed, unit, limit, limit_unit = found.groups()
    scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    extra = arguments if parts else 0
    return TooLarge(total=float(needed) * scale[unit] + extra, limit=float(limit) * scale[limit_unit])


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
