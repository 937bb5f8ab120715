"""The findings of a comparison: test scores of the selected runs, and the verdicts they allow."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxfer.comparison.arms import SCRATCH
from jaxfer.comparison.beside import Beside, measured
from jaxfer.comparison.protocol import Design, Selected
from jaxfer.comparison.samplers import Setting
from jaxfer.comparison.simple import BaselineScores
from jaxfer.evals.verdicts import LabelsSaved, Verdict, holm, labels_saved_by_seed, verdict
from jaxfer.runs.finished import steps_taken
from jaxfer.runs.metrics import read_metrics
from jaxfer.sweeps.cells import FOLDER, Job
from jaxfer.sweeps.executor import Outcome

Curve = tuple[list[int], list[float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One arm at one label count.

    Attributes:
      labels: labels a class; 0 means all.
      arm: its name.
      setting: the selected one; None where every trial diverged.
      val: its mean val score.
      test: by seed, tuned; NaN for a run that diverged.
      default: by seed, at the default setting.
      seconds: median seconds of a tuned run, compiling left out.
      params_trainable: of its last stage.
      steps: that its runs took, of all trials and seeds together; without those of runs that diverged. Trials of one
        setting share their runs.
      curves: learning curve of each tuned run; their score is `curve_label`.
      curve_label: `val accuracy`, or `train accuracy` where val was evaluated at the end alone.
      verdict: against scratch; None for scratch, and where one of the two diverged.
      p_holm: the verdict's p value, adjusted for the number of arms that are judged at this label count (Holm); None
        without a verdict.
      simple: the same against the simple baseline that is best on val, and `simple_name` is that baseline.
      saved: how many labels scratch needs to match it; None for scratch, or at a single label count.
      beside: what else was measured, as the config asks.
    """

    labels: int
    arm: str
    setting: Setting | None
    val: float
    test: tuple[float, ...]
    default: tuple[float, ...]
    seconds: float
    params_trainable: int
    steps: int
    curves: tuple[Curve, ...]
    curve_label: str
    verdict: Verdict | None = None
    p_holm: float | None = None
    simple: Verdict | None = None
    simple_name: str = ""
    saved: LabelsSaved | None = None
    beside: tuple[Beside, ...] = ()


def findings(
    design: Design,
    selected: Sequence[Selected],
    outcomes: Mapping[str, Outcome],
    baselines: Sequence[BaselineScores],
    folder: epath.Path,
) -> list[Finding]:
    """Every arm at every label count, scratch first, with its verdict."""
    bare = [_finding(design, choice, outcomes, folder) for choice in selected]
    scratch = {finding.labels: finding for finding in bare if finding.arm == SCRATCH}
    judged = [_judged(design, finding, scratch, baselines) for finding in bare]
    adjusted: dict[tuple[int, str], float] = {}
    for labels in scratch:
        told = [f for f in judged if f.labels == labels and f.verdict is not None]
        values = holm([f.verdict.p for f in told])
        adjusted |= {(labels, f.arm): p for f, p in zip(told, values, strict=True)}
    others = measured(design, selected, outcomes, folder)
    return [
        dataclasses.replace(f, p_holm=adjusted.get((f.labels, f.arm)), beside=others[f.labels, f.arm]) for f in judged
    ]


def _finding(design: Design, choice: Selected, outcomes: Mapping[str, Outcome], folder: epath.Path) -> Finding:
    trial = 0 if choice.trial is None else choice.trial
    tuned = design.cells(choice.labels, choice.arm, trial)
    costs = [outcomes[p.key].result["cost"] for p in tuned if outcomes[p.key].result is not None]
    curves = [_curve(p, folder) for p in tuned]
    # Trials of one setting are one run.
    tried = {p.key for each in range(design.config.trials) for p in design.cells(choice.labels, choice.arm, each)}
    taken = [
        steps_taken(folder / FOLDER / key, result) for key in tried if (result := outcomes[key].result) is not None
    ]
    return Finding(
        labels=choice.labels,
        arm=choice.arm,
        setting=None if choice.trial is None else design.settings[choice.labels, choice.arm, trial],
        val=choice.val[trial],
        test=_test(tuned, outcomes),
        default=_test(design.cells(choice.labels, choice.arm, 0), outcomes),
        seconds=statistics.median(c["seconds"] - c["compile_seconds"] for c in costs) if costs else math.nan,
        params_trainable=costs[0]["params_trainable"] if costs else 0,
        steps=sum(taken),
        curves=tuple(curve for curve, _ in curves),
        curve_label=curves[0][1],
    )


def _test(members: Sequence[Job], outcomes: Mapping[str, Outcome]) -> tuple[float, ...]:
    results = [(p.metric, outcomes[p.key].result) for p in members]
    return tuple(math.nan if result is None else result["metrics"]["test"][metric] for metric, result in results)


def _curve(job: Job, folder: epath.Path) -> tuple[Curve, str]:
    lines = read_metrics(folder / FOLDER / job.key / "metrics.jsonl")
    val = [line for line in lines if line["split"] == "val"]
    split, shown = ("val", val) if len(val) > 2 else ("train", [line for line in lines if line["split"] == "train"])
    metric = job.metric if all(job.metric in line for line in shown) else "loss"
    return ([line["step"] for line in shown], [line[metric] for line in shown]), f"{split} {metric}"


def _judged(
    design: Design, finding: Finding, scratch: Mapping[int, Finding], baselines: Sequence[BaselineScores]
) -> Finding:
    task, from_scratch = design.ready.stages[0].spec.task, scratch[finding.labels]
    words: dict[str, Any] = {"metric": f"test {task.monitor}", "maximize": task.maximize}
    if not all(map(math.isfinite, finding.test)):
        return finding
    rivals = [rival for rival in baselines if rival.labels == finding.labels]
    if rivals:
        best = max(rivals, key=lambda rival: rival.best if task.maximize else -rival.best)
        simple = verdict(finding.arm, finding.test, best.test, against=best.name, **words)
        finding = dataclasses.replace(finding, simple=simple, simple_name=best.name)
    if finding.arm == SCRATCH or not all(map(math.isfinite, from_scratch.test)):
        return finding
    saved, counts = None, [count for count in design.labels if count]
    curve = [scratch[count].test for count in counts]
    if len(counts) > 1 and all(math.isfinite(score) for scores in curve for score in scores):
        words_of = dict(maximize=task.maximize, counted=design.counted)
        saved = labels_saved_by_seed(counts, curve, finding.test, **words_of)
    return dataclasses.replace(
        finding, verdict=verdict(finding.arm, finding.test, from_scratch.test, **words), saved=saved
    )
