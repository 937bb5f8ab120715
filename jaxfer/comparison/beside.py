"""What the selected runs do beside the metric of the comparison: other metrics, corrupted inputs, their source's task.

All of it is read once the selection is on disk, and it selects nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.comparison.arms import SCRATCH
from jaxfer.comparison.protocol import Design, Selected
from jaxfer.data.corruptions import KINDS
from jaxfer.errors import InputError
from jaxfer.evals.verdicts import Verdict, holm, verdict
from jaxfer.pretrained import starting
from jaxfer.sweeps.cells import FOLDER, Job
from jaxfer.sweeps.executor import Outcome
from jaxfer.training.robustness import CLEAN, mean, retention, robustness

FILE, RETAINED = "beside.json", "on the source"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """One measure of one arm at one label count.

    Attributes:
      name: `ece`, `corrupted accuracy`, or `on the source`: the source's metric on its val split, under its head.
      maximize: whether more of it is better.
      test: by seed, tuned; NaN for a run that diverged, or that has no such measure.
      verdict: against scratch; None for scratch, where either has a NaN, and of the source's task.
      p_holm: the verdict's p value, adjusted for all arms and measures judged at this label count (Holm).
      before: of the source's task: the source's own score; None of the others.
      each: of corrupted inputs: {corruption: by seed}; {} of the others, and of scores that an older jaxfer kept.
    """

    name: str
    maximize: bool
    test: tuple[float, ...]
    verdict: Verdict | None = None
    p_holm: float | None = None
    before: float | None = None
    each: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)


Measures = dict[tuple[int, str], tuple[Beside, ...]]


def measured(
    design: Design, selected: Sequence[Selected], outcomes: Mapping[str, Outcome], folder: epath.Path
) -> Measures:
    """{(labels, arm): its measures with their verdicts}. What takes time is kept in the folder, by run."""
    config, task, kept = design.config, design.ready.stages[0].spec.task, _Kept(folder)
    kind = design.ready.data.splits["val"].input[1].kind
    rises, found = {**(task.metrics or {}), "loss": False, task.monitor: task.maximize}, {}
    for choice in selected:
        cells = design.cells(choice.labels, choice.arm, choice.trial or 0)
        results = [outcomes[cell.key].result for cell in cells]
        parts = [
            Beside(name=name, maximize=rises[name], test=tuple(_of(result, name) for result in results))
            for name in config.metrics
        ]
        if config.severity:
            words = (task.monitor, config.severity)
            scores = [kept.of(cell, words, _corrupted, result) for cell, result in zip(cells, results, strict=True)]
            test, each = tuple(average for average, *_ in scores), _each(kind, scores)
            parts.append(Beside(name=f"corrupted {task.monitor}", maximize=task.maximize, test=test, each=each))
        if config.retention and choice.arm == SCRATCH:
            parts.append(Beside(name=RETAINED, maximize=True, test=(math.nan,) * len(cells), before=math.nan))
        elif config.retention:
            pairs = [kept.of(cell, (), _retained, result) for cell, result in zip(cells, results, strict=True)]
            before, after = pairs[0][0], tuple(pair[-1] for pair in pairs)
            parts.append(Beside(name=RETAINED, maximize=True, test=after, before=before))
        found[choice.labels, choice.arm] = tuple(parts)
    return _judged(found)


def _of(result: Mapping[str, Any] | None, metric: str) -> float:
    return math.nan if result is None else result["metrics"]["test"].get(metric, math.nan)


def _corrupted(cell: Job, run: epath.Path, metric: str, severity: int) -> tuple[float, ...]:
    """(the mean, then the score under each corruption)."""
    found = robustness(run, split="test", severity=severity)
    return (mean(found, metric), *(metrics[metric] for name, metrics in found.items() if name != CLEAN))


def _each(kind: str, scores: Sequence[tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """{corruption: its score by seed}, NaN of a run that diverged; {} where of a run the mean alone was kept."""
    unknown = (math.nan,) * (1 + len(KINDS[kind]))
    whole = [found if math.isfinite(found[0]) else unknown for found in scores]
    if any(len(found) < len(unknown) for found in whole):
        return {}
    return {name: tuple(found[at] for found in whole) for at, name in enumerate(KINDS[kind], 1)}


def _retained(cell: Job, run: epath.Path) -> tuple[float, float]:
    """(before, after); NaN where the source is no run, or the method left no plain backbone."""
    if starting.is_foreign(cell.config.init):
        return math.nan, math.nan
    try:
        found = retention(run, starting.source_folder(cell.config.init, run))
    except InputError:
        return math.nan, math.nan
    return found.before, found.after


def _judged(found: Mapping[tuple[int, str], tuple[Beside, ...]]) -> Measures:
    judged: dict[tuple[int, str, int], Beside] = {}
    for (labels, arm), parts in found.items():
        for at, part in enumerate(parts):
            judged[labels, arm, at] = part
            if arm == SCRATCH or part.name == RETAINED:
                continue
            scratch = found[labels, SCRATCH][at].test
            if all(map(math.isfinite, (*part.test, *scratch))):
                words = {"metric": f"test {part.name}", "maximize": part.maximize}
                judged[labels, arm, at] = dataclasses.replace(part, verdict=verdict(arm, part.test, scratch, **words))
    for count in dict.fromkeys(labels for labels, _ in found):
        told = {key: part for key, part in judged.items() if key[0] == count and part.verdict is not None}
        for (key, part), p in zip(told.items(), holm([part.verdict.p for part in told.values()]), strict=True):
            judged[key] = dataclasses.replace(part, p_holm=p)
    return {
        (labels, arm): tuple(judged[labels, arm, at] for at in range(len(parts)))
        for (labels, arm), parts in found.items()
    }


class _Kept:
    """Numbers of runs that take time, in the comparison's folder; a damaged file is made anew."""

    def __init__(self, folder: epath.Path):
        self._folder, known = folder, {}
        with contextlib.suppress(InputError):
            known = files.read_json(folder / FILE) if (folder / FILE).exists() else {}
        self._known = known if isinstance(known, dict) else {}

    def of(
        self, cell: Job, words: tuple[Any, ...], make: Callable[..., tuple[float, ...]], result: object
    ) -> tuple[float, ...]:
        """What `make` finds of a run, or found before; NaN of one without a result."""
        if result is None:
            return (math.nan,)
        key = " ".join(map(str, (cell.key, make.__name__.strip("_"), *words)))
        if isinstance(values := self._known.get(key), list) and None not in values:
            return tuple(values)
        found = make(cell, self._folder / FOLDER / cell.key, *words)
        if all(map(math.isfinite, found)):  # what can't be read today may be there tomorrow
            self._known[key] = list(found)
            files.write_json(self._folder / FILE, self._known)
        return found
