"""What result.json says of a run: its metrics, what it cost, what it was trained on and from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxfer.config.experiment import Experiment
from jaxfer.data.split import Dataset
from jaxfer.parallel.placement import Placement
from jaxfer.runs.finished import fingerprint
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.training import lineage, stopping, streams
from jaxfer.training.cut import trained_below
from jaxfer.training.evaluation import Evaluation
from jaxfer.training.programs import Program, forward_flops, step_flops, train_program
from jaxfer.training.summary import sizes

COUNTS = "counts"  # beside an evaluation's metrics, in a session's record


def noted(step: int, measured: Evaluation) -> dict[str, Any]:
    """An evaluation after `step` as a session's record keeps it: `step`, its metrics, and its counts if it has any."""
    counts = {} if measured.counts is None else {COUNTS: measured.counts}
    return {"step": step, **measured.metrics, **counts}


def recalled(noted: Mapping[str, Any]) -> Evaluation:
    """The evaluation that was noted; without counts where an older version noted it."""
    metrics = {name: value for name, value in noted.items() if name not in ("step", COUNTS)}
    return Evaluation(metrics=metrics, counts=noted.get(COUNTS))


def contents(
    experiment: Experiment,
    data: Dataset,
    stage: Stage,
    state: State,
    where: Placement,
    record: Mapping[str, Any],
    *,
    measured: Mapping[str, Evaluation],
    step: int,
    cost: Mapping[str, Any],
) -> dict[str, Any]:
    """The contents of result.json.

    Args:
      experiment: of the run.
      data: what it read.
      stage: the result's.
      state: the result's.
      where: its devices.
      record: of the session.
      measured: {split: evaluation} of the result.
      step: at which the run was as its result is.
      cost: of the whole run.
    """
    pool = {} if data.pool is None else {"unlabelled": len(data.pool)}
    # What a later run starts from; where the method has no merged model, its own parameters.
    left = stage.leave(state) if stage.spec.method.merge is not None else (state.params, state.model_state)
    counted = {split: found.counts for split, found in measured.items() if found.counts is not None}
    report = {split: stage.spec.task.report(counts, data.classes) for split, counts in counted.items()}
    return {
        "metrics": {split: found.metrics for split, found in measured.items()},
        **({"report": report} if report else {}),
        "cost": cost,
        "seed": experiment.run.seed,
        "steps": record["stop"],
        **({"stopped": record["stopped"]} if record.get("stopped") else {}),
        "checkpoint_step": step,
        **({"best_steps": stopping.best_steps(record)} if experiment.run.keep_best > 1 else {}),
        "classes": list(data.classes),
        "examples": {**{name: len(split) for name, split in data.splits.items()}, **pool},
        **({"left_out": data.left_out} if data.left_out else {}),
        **({"streams": streams.described(data)} if data.streams else {}),
        **({"fits": record["fits"]} if "fits" in record else {}),
        "lineage": {**record["lineage"], "sha256": fingerprint(*left)},
        "versions": lineage.versions(),
        "device": jax.devices()[0].device_kind,
        "mesh": dict(where.mesh.shape),
    }


def of_step(ran: Stage, state: State, where: Placement, peak: int | None, block: Program | None) -> dict[str, Any]:
    """FLOPs of a step of the last stage, and the bytes of what ran it; a fit at once has no step.

    Args:
      ran: the stage as its steps ran.
      state: its last.
      where: its devices.
      peak: bytes of the program of many steps that trained it, noted since a later attempt may have no need of it.
      block: that program, in the attempt that used it.
    """
    if ran.spec.method.at_once is not None:
        return {}
    if peak is not None:
        flops = block.flops if block else step_flops(ran.spec, state, ran.example(), where)
        return {"step_flops": flops, "peak_bytes": peak}
    program, _ = train_program(ran.spec, state, ran.example(), where)
    return {"step_flops": program.flops, "peak_bytes": program.peak_bytes}


def cost(
    ran: Stage, stage: Stage, state: State, where: Placement, spent: Mapping[str, Any], step: Mapping[str, Any]
) -> dict[str, Any]:
    """The cost of the last stage's step and of the whole training.

    Args:
      ran: the stage as its steps ran.
      stage: as planned.
      state: its last.
      where: its devices.
      spent: the record's sums.
      step: `step_flops` and `peak_bytes`, where it has steps.
    """
    return {
        "compile_seconds": round(spent["compile_seconds"], 3),
        "input_seconds": round(spent["input_seconds"], 3),
        "examples_per_second": round(spent["examples"] / max(spent["train_seconds"], 1e-9), 1),
        "forward_flops": forward_flops(ran.spec, state, ran.example()),
        **step,
        **sizes(stage, state, where),
    }


def stood_still(stages: Sequence[Stage], lines: Sequence[Mapping[str, Any]]) -> str | None:
    """A note on a run whose backbone was never trained, and whose later evaluations are no better than its first ones.

    None where something below the output layer was trained, or where fewer than four evaluations can't tell.

    Args:
      stages: of the run.
      lines: of its metrics.jsonl.
    """
    if any(trained_below(stage.spec) or stage.spec.method.norms_alone for stage in stages):
        return None
    task = stages[-1].spec.task
    scores = [line[task.monitor] for line in lines if line["split"] == "val" and task.monitor in line]
    half, sign = len(scores) // 2, 1 if task.maximize else -1
    if half < 2 or max(sign * score for score in scores[half:]) > max(sign * score for score in scores[:half]):
        return None
    when = f"in the last {len(scores) - half} of {len(scores)} evaluations"
    return (
        f"the backbone was frozen to the end, and {task.monitor} on val is no better {when} than before; "
        "config.method=full or config.recipe=lp_ft would train it"
    )
