"""What was measured beside the metric of a comparison, as a table: for people, as CSV, as JSON."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.comparison.beside import Beside
from jaxfer.comparison.findings import Finding
from jaxfer.evals.intervals import gain, mean_interval
from jaxfer.evals.verdicts import HELPS, NEGATIVE, NO_EVIDENCE, SURE, Verdict
from jaxfer.sweeps.table import number

COLUMNS = ("labels", "method", "measure", "mean", "interval95", "effect", "effect_low", "effect_high")
COLUMNS += ("verdict", "p_holm", "before", "scores")


def lines(findings: Sequence[Finding]) -> list[str]:
    """A sentence for each measure, of the arms at one label count in the order given."""
    said = []
    for at, measure in enumerate(findings[0].beside if findings else ()):
        parts = {f.arm: f.beside[at] for f in findings}
        told = {arm: part.verdict for arm, part in parts.items() if part.verdict is not None}
        if told:
            said.append(f"{measure.name} against scratch: {standing(told)}.")
        elif measure.before is not None and math.isfinite(measure.before):
            means = ((arm, statistics.fmean(part.test)) for arm, part in parts.items())
            each = ", ".join(f"{arm} {mean:.3f}" if math.isfinite(mean) else f"{arm} not known" for arm, mean in means)
            said.append(f"{measure.name}, {measure.before:.3f} before: {each}.")
    return said


def standing(judged: Mapping[str, Verdict]) -> str:
    """Which arms are better, and which worse."""
    words = {HELPS: "better", NO_EVIDENCE: "no evidence either way for", NEGATIVE: "worse"}
    named = {word: [arm for arm, told in judged.items() if told.outcome == outcome] for outcome, word in words.items()}
    return "; ".join(f"{word} {', '.join(arms)}" for word, arms in named.items() if arms)


def headers(findings: Sequence[Finding]) -> list[str]:
    """Of the columns that `cells` fills: of each measure its mean and the gain over scratch."""
    titles = []
    for part in findings[0].beside:
        titles += [part.name] if part.before is not None else [part.name, f"{part.name} over scratch"]
    return titles


def cells(f: Finding, first: Finding) -> list[str]:
    """An arm's cells; * marks gains that stand by Holm. `first` is the one that `headers` goes by."""
    row = []
    for part, told in zip(f.beside, first.beside, strict=True):
        row += [_mean(part.test)] if told.before is not None else [_mean(part.test), _gain(part)]
    return row


def _gain(part: Beside) -> str:
    if part.verdict is None:
        return ""
    effect, sign = part.verdict.effect, 1 if part.maximize else -1
    low, high = sorted((sign * effect.low, sign * effect.high))  # in the measure's own sign
    star = "*" if part.p_holm is not None and part.p_holm < SURE else ""
    return f"{gain(sign * effect.mean, low, high)}{star}"


def _mean(values: Sequence[float]) -> str:
    mean, interval = mean_interval(values)
    return "" if math.isnan(mean) else number(mean) if math.isnan(interval) else f"{mean:.3f} ± {interval:.3f}"


def as_csv(findings: Sequence[Finding]) -> str:
    """A row for each label count, arm and measure, then for each corruption; effects are positive where the arm is
    better."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for f in findings:
        for part in f.beside:
            found = part.verdict
            effect = ("",) * 5
            if found is not None:
                bounds = (found.effect.mean, found.effect.low, found.effect.high)
                effect = (*map(_six, bounds), found.outcome, _six(part.p_holm))
            for name, values, more in (
                (part.name, part.test, (*effect, _six(part.before))),
                *((f"{part.name}: {corruption}", values, ("",) * 6) for corruption, values in part.each.items()),
            ):
                scores = " ".join(map(_six, values))
                writer.writerow((f.labels, f.arm, name, *map(_six, mean_interval(values)), *more, scores))
    return text.getvalue()


def _six(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def as_json(f: Finding) -> list[dict[str, Any]]:
    """The entry of comparison.json of one arm."""
    return [
        {
            "name": part.name,
            "maximize": part.maximize,
            "test": [_null(value) for value in part.test],
            "before": None if part.before is None else _null(part.before),
            "outcome": None if part.verdict is None else part.verdict.outcome,
            "effect": None if part.verdict is None else part.verdict.effect.mean,
            "interval95": [_null(part.verdict.effect.low), _null(part.verdict.effect.high)] if part.verdict else None,
            "p_holm": part.p_holm,
            **({"each": {name: list(map(_null, values)) for name, values in part.each.items()}} if part.each else {}),
        }
        for part in f.beside
    ]


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None
