"""The learning rate's range: a stage's first steps under a rate that rises exponentially, on a State of their own.

Smith, 2015, arXiv:1506.01186, section 3.3; the suggestions, and where it stops, are fastai's. Nothing is written, and
nothing that a run computes depends on it: batches are a function of (seed, step), and the State is dropped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxfer.errors import InputError
from jaxfer.training import passes
from jaxfer.training.first import first_batches, first_state, largest, relative_gradients
from jaxfer.training.preflight import preflight
from jaxfer.training.programs import train_program

BETA = 0.8  # of the smoothing, to both sides: fastai's 0.98 of past steps alone would show a fall a decade too late
DIVERGED = 4.0  # times the smallest smoothed loss: there is nothing more to see


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """The loss under a rising rate.

    Attributes:
      rates: float64 [steps], of the group with the largest rate.
      losses: float64 [steps], before the step at each rate.
      groups: {group: its rate as a multiple of these}, as the stage has them.
      relative: {unit: norm of the loss's gradient over that of its parameters, in the first State}, input first; of
        all parameters, trained or not (Lee et al., 2022, arXiv:2210.11466, section 4.1, a unit at a time).
    """

    rates: np.ndarray
    losses: np.ndarray
    groups: Mapping[str, float]
    relative: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def smoothed(self) -> np.ndarray:
        """[steps]: the losses' average over neighbouring steps."""
        return smoothed(self.losses)

    def suggestions(self) -> dict[str, float | None]:
        """{rule: rate}; None where the loss never falls."""
        curve = self.smoothed
        lowest = int(np.argmin(curve))
        if lowest < 2:
            return {"steepest descent": None, "a tenth of the minimum": None}
        slope = np.gradient(curve, np.log(self.rates))[:lowest]
        steepest, tenth = self.rates[int(np.argmin(slope))], self.rates[lowest] / 10
        return {"steepest descent": float(steepest), "a tenth of the minimum": float(tenth)}

    def lines(self) -> list[str]:
        """The suggestions for each group, and the unit with the largest relative gradient."""
        told = []
        for rule, rate in self.suggestions().items():
            each = (f"{group} {scale * rate:.2g}" for group, scale in self.groups.items()) if rate else ()
            told.append(f"{rule}: {', '.join(each) or 'none, as the loss does not fall'}")
        if self.relative:
            each = ", ".join(f"{unit} {value:.2g}" for unit, value in self.relative.items())
            told.append(f"relative gradients: {each}; the largest below the head is of {largest(self.relative)!r}")
        return told


def smoothed(losses: np.ndarray, beta: float = BETA) -> np.ndarray:
    """[steps]: at each the mean over all, one k steps away weighted by `beta ** k`."""
    steps = np.arange(len(losses))
    weights = beta ** np.abs(steps[:, None] - steps)
    return weights @ np.asarray(losses, np.float64) / weights.sum(axis=1)


def find_lr(
    config: ConfigDict, workdir: str | epath.Path = ".", *, steps: int = 60, low: float = 1e-6, high: float = 1.0
) -> Curve:
    """Ramps the rates of the first stage, all groups at once and each at its multiple.

    Args:
      config: as `jaxfer.load` returns it.
      workdir: the folder of the run it is for: `init=sibling:NAME` is next to it. Neither read otherwise nor written.
      steps: at most so many; it ends where the loss diverges.
      low: the first rate of the group with the largest.
      high: the last one.

    Raises:
      InputError: whatever `run` would refuse, a range that does not rise, or a stage that has no rate.
    """
    if not (0 < low < high and math.isfinite(high)) or steps < 5:
        raise InputError(f"expected 0 < low < high and at least 5 steps, found {low:g}, {high:g} and {steps} steps")
    folder = epath.Path(workdir)
    ready = preflight(config, place=folder)
    stage = ready.stages[0]
    if (at_once := stage.spec.method.at_once) is not None:
        raise InputError(f"stage {stage.name!r}: {at_once.does}, which has no rate; there is none to find")
    peaks = {name.removeprefix("lr/"): rate for name, rate in stage.hparams.items() if name.startswith("lr/")}
    if not max(peaks.values()):
        raise InputError(f"stage {stage.name!r}: every rate is 0; set config.lr")
    groups = {group: rate / max(peaks.values()) for group, rate in peaks.items()}
    rates = np.geomspace(low, high, steps)
    state, relative, losses, best = first_state(ready, stage, folder), {}, [], math.inf
    ramp = dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, schedule="constant"))
    for rate, batch in zip(rates, first_batches(ready, stage, steps), strict=False):
        if not losses:
            relative = relative_gradients(stage, state, batch)
        hparams = {f"lr/{group}": np.float32(scale * rate) for group, scale in groups.items()}
        hparams = jax.device_put({**hparams, "warmup": np.float32(0)}, ready.where.replicated)
        state = state.replace(hparams={**state.hparams, **hparams})
        program, _ = train_program(ramp.spec, state, ready.where.whole(batch), ready.where)
        size = ready.experiment.run.eval_batch_size
        state = passes.renewed(stage, state, ready.data, ready.where, size, len(losses))
        state, metrics = program.call(state, batch)
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            break
        losses.append(loss)
        now = smoothed(np.asarray(losses))[-1]
        best = min(best, now)
        if now > DIVERGED * best:
            break
    if len(losses) < 3:
        raise InputError(f"the loss is not finite after {len(losses)} steps; lower the first rate, {low:g}")
    return Curve(rates=rates[: len(losses)], losses=np.asarray(losses), groups=groups, relative=relative)
