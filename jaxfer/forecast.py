"""`jaxfer plan`: what a config would take on a TPU slice that is not here, compiled by the TPU's own compiler.

Needs the extra `tpu` (libtpu runs on any CPU) and no TPU. Memory, operations, collectives are of the compiled program;
seconds are an estimate from published peaks, not a measurement.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxfer.errors import InputError, nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of TPU, as Google's system architecture pages give it.

    Attributes:
      memory: bytes of HBM a chip.
      flops: peak operations a second of a chip in bfloat16; products of float32 run at half of that or less.
      bandwidth: bytes a second between the chip and its HBM.
      links: bytes a second between the chip and the others, all links together.
      axes: of a slice's shape.
    """

    memory: float
    flops: float
    bandwidth: float
    links: float
    axes: int


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; links there in gigabits.
CHIPS = {
    "v4": Chip(32 * GIB, 275e12, 1228e9, 2400e9 / 8, 3),
    "v5e": Chip(16 * GIB, 197e12, 819e9, 1600e9 / 8, 2),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 4800e9 / 8, 3),
    "v6e": Chip(32 * GIB, 918e12, 1640e9, 3584e9 / 8, 2),
}
# The runtime keeps some of a chip's memory for itself.
USABLE = 0.97
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """One stage's training step, compiled for a slice; bytes and operations are of one chip, in one step.

    Attributes:
      arguments: State and batch.
      outputs: what of the outputs does not lie where the State lay.
      temporaries: activations, gradients, the compiler's own buffers.
      program: the code.
      alias: of the State, updated in place.
      state: bytes of the State.
      flops: operations as compiled, with all that is computed twice.
      accessed: bytes between the chip and its HBM.
      collectives: {kind of collective: bytes it gives out}.
      model_flops: operations of the whole step on all chips, as the model needs them.
    """

    arguments: int
    outputs: int
    temporaries: int
    program: int
    alias: int
    state: int
    flops: float
    accessed: float
    collectives: Mapping[str, int]
    model_flops: float

    @property
    def total(self) -> int:
        """Bytes of memory that the step needs on a chip."""
        return self.arguments + self.outputs + self.temporaries + self.program


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A stage on a slice.

    Attributes:
      stage: its name.
      batch_size: over all chips.
      mesh: how the chips are used, in words.
      compiled: the step.
      remedies: {what to change: the bytes a chip that are then needed}, where it does not fit.
    """

    stage: str
    batch_size: int
    mesh: str
    compiled: Compiled
    remedies: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A config on a slice of `chips` chips of a kind; `print` it, or read its numbers."""

    topology: str
    chip: Chip
    chips: int
    stages: tuple[StagePlan, ...]

    @property
    def fits(self) -> bool:
        """Whether every stage's step fits into a chip's memory."""
        return all(self.room(stage.compiled.total) for stage in self.stages)

    def room(self, needed: float) -> bool:
        """Whether so many bytes fit into a chip."""
        return needed <= USABLE * self.chip.memory

    def seconds(self, compiled: Compiled) -> dict[str, float]:
        """{what is waited for: its seconds a step at the chip's published peak}; the step is at best the longest."""
        return {
            "products": compiled.flops / self.chip.flops,
            "memory": compiled.accessed / self.chip.bandwidth,
            "links": sum(compiled.collectives.values()) / self.chip.links,
        }

    def mfu(self, compiled: Compiled) -> float:
        """The model's operations over what the chips could do in the estimated time."""
        best = max(self.seconds(compiled).values())
        return compiled.model_flops / (self.chips * self.chip.flops * best) if best else math.nan

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: numbers in bytes, operations and seconds."""
        stages = [
            {
                **dataclasses.asdict(stage),
                "compiled": {**dataclasses.asdict(stage.compiled), "total": stage.compiled.total},
                "seconds": self.seconds(stage.compiled),
                "mfu": self.mfu(stage.compiled),
                "fits": self.room(stage.compiled.total),
            }
            for stage in self.stages
        ]
        return {"topology": self.topology, "chips": self.chips, "stages": stages}

    def __str__(self) -> str:
        return "\n\n".join("\n".join(self._lines(stage)) for stage in self.stages)

    def _lines(self, stage: StagePlan) -> Iterator[str]:
        step, seconds, where = stage.compiled, self.seconds(stage.compiled), f"{self.topology}, {self.chips} chips"
        longest = max(seconds, key=lambda name: seconds[name])
        kinds = {
            "State": step.state,
            "batch": step.arguments - step.state,
            "temporary": step.temporaries,
            "outputs": step.outputs,
            "program": step.program,
        }
        moved = {kind: f"{size / 1e6:.1f}" for kind, size in step.collectives.items()}
        spent = {name: f"{value * 1e3:.2f}" for name, value in seconds.items()}
        yield f"stage {stage.stage!r} on {where} ({stage.mesh}): {stage.batch_size} examples a step"
        yield (
            f"  memory a chip  {_gib(step.total)} of {_gib(self.chip.memory)} GiB: "
            f"{'fits' if self.room(step.total) else 'DOES NOT FIT'} ({_list({k: _gib(v) for k, v in kinds.items()})})"
        )
        yield f"  operations     {step.flops / 1e12:.3f} TFLOP a chip; the model's {step.model_flops / 1e12:.2f} on all"
        yield f"  collectives    {_list(moved) or 'none'} MB a chip"
        yield f"  estimate       {seconds[longest] * 1e3:.2f} ms a step at best: {longest} (ms: {_list(spent)})"
        yield f"                 MFU at most {self.mfu(step):.0%} of the published {self.chip.flops / 1e12:.0f} TFLOP/s"
        for what, needed in stage.remedies.items():
            yield f"  {'then it fits' if self.room(needed) else 'not enough'}: {what} ({_gib(needed)} GiB)"


def plan(config: ConfigDict, topology: str) -> Plan:
    """Compiles each stage's training step for a slice.

    Args:
      config: as `jaxfer.load` returns it.
      topology: `KIND:SHAPE`, e.g. `v5e:16x16`, `v4:2x2x2`.

    Raises:
      InputError: no such slice, no libtpu, or whatever `run` would refuse there.
    """
    from jaxfer.preflight import preflight
    from jaxfer.programs import lower_step

    chip, devices = _slice(topology)
    ready = preflight(config, devices=devices)
    stages = []
    for stage in ready.stages:
        compiled = _compiled(lower_step(stage, ready.where), stage, ready.where)
        stages.append(
            StagePlan(
                stage=stage.name,
                batch_size=stage.config.batch_size,
                mesh=str(ready.where),
                compiled=compiled,
                remedies={},
            )
        )
    chips = len({tuple(device.coords) for device in ready.where.mesh.devices.flat})
    found = Plan(topology=topology, chip=chip, chips=chips, stages=tuple(stages))
    if found.fits:
        return found
    return dataclasses.replace(found, stages=tuple(_remedied(config, found, stage, devices) for stage in stages))


def _remedied(config: ConfigDict, found: Plan, stage: StagePlan, devices: list[Any]) -> StagePlan:
    """What would make room, each compiled: parameters split, activations computed again, both, a smaller batch."""
    from jaxfer import config as configs
    from jaxfer.preflight import preflight
    from jaxfer.programs import lower_step

    if found.room(stage.compiled.total):
        return stage
    where = f"stage.{stage.stage}." if config.stages else ""
    remedies: dict[str, int] = {}

    def needed(changes: Mapping[str, Any]) -> int:
        ready = preflight(configs.override(config, changes), devices=devices)
        chosen = next(s for s in ready.stages if s.name == stage.stage)
        return _compiled(lower_step(chosen, ready.where), chosen, ready.where).total

    split, again = {"parallel.mode": "fsdp"}, {f"{where}remat": (".*",)}
    for what, changes in (
        ("--config.parallel.mode=fsdp", split),
        (f"--config.{where}remat='.*'", again),
        (f"--config.parallel.mode=fsdp --config.{where}remat='.*'", {**split, **again}),
    ):
        remedies[what] = needed(changes)
        if found.room(remedies[what]):
            break
    size = stage.batch_size
    while size % 2 == 0 and size // 2 >= found.chips:
        size //= 2
        what = f"--config.{where}batch_size={size}"
        remedies[what] = needed({f"{where}batch_size": size})
        if found.room(remedies[what]):
            break
    return dataclasses.replace(stage, remedies=remedies)


def _slice(topology: str) -> tuple[Chip, list[Any]]:
    """The chip and the devices of a slice by its name."""
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS:
        raise InputError(f"--topology: no TPU {kind!r}{nearest(kind, CHIPS)}; e.g. v5e:4x4")
    axes = CHIPS[kind].axes
    if not re.fullmatch(r"\d+(x\d+)+", shape) or shape.count("x") != axes - 1:
        example = "4x4" if axes == 2 else "2x2x2"
        raise InputError(f"--topology: a {kind} slice has {axes} axes, found {shape!r}; e.g. {kind}:{example}")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no TPU here to ask about itself
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:
        if "libtpu" in str(error).lower() or "unknown" in str(error).lower() or isinstance(error, ImportError):
            raise InputError("jaxfer plan needs libtpu, which runs without a TPU; pip install 'jaxfer[tpu]'") from None
        raise InputError(f"--topology={topology}: {str(error).splitlines()[0]}") from None
    return CHIPS[kind], list(described.devices)


def _compiled(lowered: Any, stage: Any, where: Any) -> Compiled:
    from jaxfer.programs import lowered_flops
    from jaxfer.stages import example_batch
    from jaxfer.step import make_train_step

    spec, state = stage.spec, stage.blank(0)
    plain = dataclasses.replace(spec, accumulate=1, execution=dataclasses.replace(spec.execution, remat=()))
    program = lowered.compile()
    memory, cost = program.memory_analysis(), program.cost_analysis()
    batch = example_batch(spec.port, spec.task, stage.config.batch_size)
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        program=memory.generated_code_size_in_bytes,
        alias=memory.alias_size_in_bytes,
        state=where.device_bytes(spec, state),
        flops=float(cost.get("flops", 0.0)),
        accessed=float(cost.get("bytes accessed", 0.0)),
        collectives=collectives(program.as_text()),
        model_flops=lowered_flops(make_train_step(plain), state, batch),
    )


def collectives(hlo: str) -> dict[str, int]:
    """{kind: bytes that its instructions give out on one device}, of a compiled program's text."""
    found: dict[str, int] = {}
    for shapes, kind, start in re.findall(rf"= (\(?[^=]*?) ({'|'.join(COLLECTIVES)})(-start)?\(", hlo):
        sizes = [_bytes(*shape) for shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes)]
        # Started asynchronously, it gives out its operand too: the result is the larger of the two.
        found[kind] = found.get(kind, 0) + (max(sizes) if start else sum(sizes))
    return found


def _bytes(kind: str, sizes: str) -> int:
    return _WIDTHS.get(kind, 4) * int(np.prod([int(size) for size in sizes.split(",") if size], dtype=np.int64))


def _list(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
