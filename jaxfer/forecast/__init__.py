"""`jaxfer plan`: memory and time of a config on a TPU slice, compiled without the slice by the TPU's own compiler.

Needs the extra `tpu` (libtpu runs on any CPU) and no TPU.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxfer.errors import InputError, nearest
from jaxfer.forecast.chips import CHIPS, Chip
from jaxfer.forecast.result import Compiled, Plan, StagePlan, TooLarge

DOES_NOT_FIT = 4  # the command's exit code: 1 is also what a crash of Python gives


def plan(config: ConfigDict, topology: str, workdir: str | epath.Path | None = None) -> Plan:
    """Compiles each stage's training step for a slice.

    Args:
      config: as `jaxfer.load` returns it.
      topology: `KIND:SHAPE`, e.g. `v5e:16x16`, `v4:2x2x2`.
      workdir: the folder that the run would have: `init=sibling:NAME` is next to it.

    Raises:
      InputError: no such slice, no libtpu, a mesh that the slice can't form, or whatever `run` would refuse there.
    """
    chip, devices = _slice(topology)
    return plan_for(config, topology, chip, devices, None if workdir is None else epath.Path(workdir))


def plan_for(
    config: ConfigDict, topology: str, chip: Chip, devices: Sequence[Any], place: epath.Path | None = None
) -> Plan:
    """Compiles each stage's training step for `devices`, one a chip; `topology` is their name."""
    ready = _ready(config, devices, place)
    notes = (*ready.data.notes, *ready.notes())
    planned = Plan(topology=topology, chip=chip, chips=ready.where.size, stages=(), notes=notes)
    stages = (_stage(stage, ready.where, devices) for stage in ready.stages)
    planned = dataclasses.replace(planned, stages=tuple(stages))

    def needed(name: str, changes: Mapping[str, Any]) -> Compiled | TooLarge:
        from jaxfer.config import override

        changed = _ready(override(config, changes), devices, place)
        return _compiled(next(s for s in changed.stages if s.name == name), changed.where, devices)

    pairs = zip(planned.stages, ready.stages, strict=True)
    stages = (
        done
        if planned.room(done.compiled)
        else dataclasses.replace(done, remedies=_remedies(planned, ready, stage, needed))
        for done, stage in pairs
    )
    return dataclasses.replace(planned, stages=tuple(stages))


def _remedies(
    planned: Plan, ready: Any, stage: Any, needed: Callable[[str, Mapping[str, Any]], Compiled | TooLarge]
) -> dict[str, Compiled | TooLarge]:
    """Changes that save memory, each compiled: for each kind, those tried up to the first that fits."""
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
            if planned.room(step):
                break
    return remedies


def _changes(stage: Any, where: Any) -> Iterator[list[dict[str, Any]]]:
    """Kinds of memory-saving changes not yet in use, gentle ones first: the same gradient, then a smaller batch."""
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


def _ready(config: ConfigDict, devices: Sequence[Any], place: epath.Path | None) -> Any:
    from jaxfer.training.preflight import preflight

    try:
        ready = preflight(config, place=place, devices=devices)
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


def _stage(stage: Any, where: Any, devices: Sequence[Any]) -> StagePlan:
    from jaxfer.step import make_train_step
    from jaxfer.training.programs import lowered_flops

    spec = dataclasses.replace(stage.spec, accumulate=1)  # a loop's body would be counted once
    plain = dataclasses.replace(spec, execution=dataclasses.replace(spec.execution, remat=frozenset()))
    shapes = stage.blank(0), stage.example()
    model_flops = lowered_flops(make_train_step(plain), *shapes)
    flops = lowered_flops(make_train_step(spec), *shapes) if spec.execution.remat else model_flops
    compiled = _compiled(stage, where, devices)
    kernels = isinstance(compiled, Compiled) and compiled.fused
    return StagePlan(
        stage=stage.name,
        batch_size=stage.config.batch_size,
        accumulate=stage.config.accumulate,
        mesh=str(where),
        flops=flops / where.size,
        model_flops=model_flops,
        compiled=compiled,
        plain=_compiled(stage, where.plain, devices) if kernels else None,
    )


def _compiled(stage: Any, where: Any, devices: Sequence[Any]) -> Compiled | TooLarge:
    import jax

    from jaxfer.forecast import hlo
    from jaxfer.training.programs import fused, lower_step

    state = where.device_bytes(stage.spec, stage.blank(0))
    leaves = jax.tree.leaves(stage.example())
    batch = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves) // where.parts
    try:
        lowered = lower_step(stage, where)
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if too_large := _refused(str(error), state + batch):
            return too_large
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
        fused=fused(lowered, where),
    )


def _refused(message: str, arguments: int) -> TooLarge | None:
    """Parses the compiler's error about a program that is too large; None for any other error.

    There are two wordings, with binary prefixes: `... required for HLO temporaries (160.65G) exceeds available HBM
    (15.75G)`, beside which the arguments must lie, and `Used 18.46G of 15.75G hbm`.
    """
    size = r"([\d.]+)([KMG]?)"
    parts = re.search(rf"HLO temporaries \({size}\) exceeds available HBM \({size}\)", message)
    whole = re.search(rf"Used {size} of {size} hbm", message)
    match = parts or whole
    if "RESOURCE_EXHAUSTED" not in message or not match:
        return None
    needed, unit, limit, limit_unit = match.groups()
    scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    extra = arguments if parts else 0
    return TooLarge(total=float(needed) * scale[unit] + extra, limit=float(limit) * scale[limit_unit])
