"""The result of `jaxfer plan`: its numbers as an object, as JSON and as printed lines.

Memory and collectives are of the compiled program, operations of the step as written; seconds and MFU are an estimate
from published peaks, not a measurement.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from jaxfer.forecast.chips import GIB, Chip


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
      collectives: {kind of collective: bytes that a chip sends in a step}, see `jaxfer.forecast.hlo.sent`.
      fused: whether attention runs in fused kernels.
    """

    state: int
    batch: int
    padding: int
    temporaries: int
    outputs: int
    program: int
    alias: int
    collectives: Mapping[str, float]
    fused: bool = False

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
      plain: the step with plain attention, where `compiled` has fused kernels.
      remedies: {what to change: what is then needed}, where it does not fit.
    """

    stage: str
    batch_size: int
    accumulate: int
    mesh: str
    flops: float
    model_flops: float
    compiled: Compiled | TooLarge
    plain: Compiled | TooLarge | None = None
    remedies: Mapping[str, Compiled | TooLarge] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A config's cost on a slice of `chips` chips of one kind; `print` it, or read its numbers."""

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
        """Whether a step fits into a chip's memory."""
        return isinstance(step, Compiled) and step.total <= self.chip.memory

    def seconds(self, stage: StagePlan) -> dict[str, float]:
        """{resource: seconds a step at the chip's published peak}; empty for a step that is too large.

        Memory counts what must pass: the State read and written, temporaries written and read (in each slice of the
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
        """(seconds a step if everything overlaps, if nothing does), at published peaks."""
        seconds = self.seconds(stage).values()
        return (max(seconds), sum(seconds)) if seconds else (math.nan, math.nan)

    def mfu(self, stage: StagePlan) -> tuple[float, float]:
        """Model FLOPs utilization over the estimated times: (least, most)."""
        fastest, slowest = (stage.model_flops / (self.chips * self.chip.flops * s) for s in self.estimate(stage))
        return slowest, fastest

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values: bytes, operations and seconds; null where unknown."""
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
            "plain": stage.plain and self._needed(stage.plain),
            "seconds": self.seconds(stage),
            "estimate": list(self.estimate(stage)) if known else None,
            "mfu": list(self.mfu(stage)) if known else None,
            "fits": self.room(stage.compiled),
            "remedies": {remedy: self._needed(step) for remedy, step in stage.remedies.items()},
        }

    def _needed(self, step: Compiled | TooLarge) -> dict[str, Any]:
        return {"needed": step.total, "fits": self.room(step)}

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
        if stage.plain:
            saved = f"{_gib(stage.plain.total - step.total)} GiB; plain: {self._memory(stage.plain)}"
            yield f"  attention      in fused kernels, which save {saved}"
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
        for remedy, changed in stage.remedies.items():
            yield f"  {remedy}: {self._memory(changed)}"

    def _memory(self, step: Compiled | TooLarge) -> str:
        if isinstance(step, TooLarge):
            return f"at least {_gib(step.total)} of {_gib(step.limit)} GiB: DOES NOT FIT; more is not known"
        fits = "fits" if self.room(step) else "DOES NOT FIT"
        return f"{_gib(step.total)} of {_gib(self.chip.memory)} GiB: {fits}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
