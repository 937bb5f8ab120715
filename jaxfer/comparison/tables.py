"""The report of a comparison: table, sentences and pictures. Everything but `seconds` is reproducible."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.comparison import beside_tables
from jaxfer.comparison.arms import SCRATCH
from jaxfer.comparison.findings import Finding
from jaxfer.comparison.protocol import RULE, Design
from jaxfer.comparison.simple import BaselineScores
from jaxfer.evals.intervals import gain, mean_interval, too_few
from jaxfer.evals.verdicts import HELPS, NO_EVIDENCE, SURE
from jaxfer.figures import plots
from jaxfer.sweeps.table import number
from jaxfer.terminal import FILE, GLUE, NAME, NUMBER, TEXT, Column, Page, table

COLUMNS = (
    *("labels", "method", "test_mean", "test_interval95", "default_mean", "effect", "effect_low", "effect_high"),
    *("verdict", "p_holm", "val_mean", "seconds", "params_trainable", "setting", "test_scores", "default_scores"),
    "steps",
)


def write(
    folder: epath.Path, title: str, design: Design, findings: Sequence[Finding], baselines: Sequence[BaselineScores]
) -> str:
    """Writes table.csv, table.md, verdict.md and the pictures into `folder`; returns the verdict's sentences."""
    summary = sentences(design, findings)
    files.write_text(folder / "table.csv", as_csv(findings, baselines))
    files.write_text(folder / "table.md", as_markdown(design, findings, baselines))
    if findings[0].beside:
        files.write_text(folder / "beside.csv", beside_tables.as_csv(findings))
    files.write_text(folder / "verdict.md", _verdict_page(title, design, findings, baselines, summary))
    _draw(folder, design, findings, baselines)
    return summary


def sentences(design: Design, findings: Sequence[Finding]) -> str:
    """For each label count, a line for each arm, best on val first, and one on the baseline; a warning on few seeds."""
    parts = [f"{_heading(design, labels)}\n\n{_lines(design, findings, labels)}" for labels in design.labels]
    seeds = design.config.seeds
    warning = too_few(seeds, f"config.compare.seeds={seeds}")
    return "\n\n".join([*parts, *([f"{warning}."] if warning else [])])


def _heading(design: Design, labels: int) -> str:
    if labels:
        return f"{labels:,} {'label' if labels == 1 else 'labels'} {design.counted}:"
    in_all = design.ready.experiment.data.labels
    return f"{in_all:,} labels in all:" if in_all else "All labels:"


def _lines(design: Design, findings: Sequence[Finding], labels: int) -> str:
    arms = [f for f in findings if f.labels == labels and f.arm != SCRATCH]
    sign = 1 if design.ready.stages[0].spec.task.maximize else -1
    order = sorted((f for f in arms if f.verdict is not None), key=lambda f: -sign * f.val)
    lines = [_line(f, first=f is order[0], arms=len(order)) for f in order]
    lines += [f"{f.arm}: a run diverged, its own or scratch's, so there is no verdict." for f in arms if not f.verdict]
    judged = [f for f in order if f.simple is not None]
    if judged:
        standing = beside_tables.standing({f.arm: f.simple for f in judged})
        lines.append(f"against {judged[0].simple_name}: {standing}.")
    lines += beside_tables.lines(order)
    return "\n".join(f"- {line}" for line in lines)


def _line(f: Finding, *, first: bool, arms: int) -> str:
    """The verdict of one arm, whether it stands among several, and of the best and those that help the labels saved."""
    stands = ""
    if arms > 1 and f.verdict.outcome != NO_EVIDENCE:
        it = "It stands" if f.p_holm < SURE else "It does not stand"
        stands = f" {it} among {arms} arms: p {'< 0.001' if f.p_holm < 0.001 else f'= {f.p_holm:.3f}'} by Holm."
    telling = f.saved is not None and (first or f.verdict.outcome == HELPS)
    saved = f" {f.saved.sentence(f.arm, f.labels)}" if telling else ""
    return ("best on val, " if first else "") + f.verdict.sentence + stands + saved


def _verdict_page(
    title: str, design: Design, findings: Sequence[Finding], baselines: Sequence[BaselineScores], summary: str
) -> str:
    trials, seeds, arms = design.config.trials, design.config.seeds, len(design.arms)
    steps = trials * seeds * design.ready.steps
    return (
        f"# {title}: does the transfer help?\n\n{summary}\n\n{as_markdown(design, findings, baselines)}\n"
        f"{arms} arms x {trials} trials x {seeds} seeds, paired over the same seeds and splits; an arm has at most "
        f"{steps:,} steps at each number of labels{_taken(findings, steps)}. {_chosen(design)}Selected on val: {RULE}. "
        "`default` is the first trial, at the method's own settings. The test split was read once, after "
        "`selection.json` was written, for the selected and the default trials; `protocol.json` says what was tried.\n"
        f"{_signs(findings)}"
    )


def _taken(findings: Sequence[Finding], steps: int) -> str:
    """Whether the arms took as many, by their results."""
    fewer = [f"{f.arm} {f.steps:,}" + (f" at {f.labels:,}" if f.labels else "") for f in findings if f.steps != steps]
    return f", and took fewer: {', '.join(fewer)}" if fewer else ", and took as many"


def _chosen(design: Design) -> str:
    """Where the settings are from, if not the grids."""
    sampler = design.record.get("sampler")
    if sampler is None:
        return ""
    by = f"Optuna's {sampler['algorithm']}" if "algorithm" in sampler else "random search"
    return f"Settings between the ends of each grid by {by}, seed {sampler['seed']}. "


def _signs(findings: Sequence[Finding]) -> str:
    """A line on the columns beside the metric, where there are some."""
    told = "Gains have each measure's own sign; * stands by Holm's correction for all its arms and measures."
    return f"\n{told}\n" if findings[0].beside else ""


def as_csv(findings: Sequence[Finding], baselines: Sequence[BaselineScores]) -> str:
    """One row for each label count and arm, then one for each simple baseline."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *(part.name for part in findings[0].beside)))
    for f in findings:
        mean, interval = mean_interval(f.test)
        effect = (
            ("", "", "") if f.verdict is None else (f.verdict.effect.mean, f.verdict.effect.low, f.verdict.effect.high)
        )
        stands = ("", "") if f.verdict is None else (f.verdict.outcome, *_six(f.p_holm))
        writer.writerow(
            (f.labels, f.arm, *_six(mean, interval, statistics.fmean(f.default)), *_six(*effect))
            + (*stands, *_six(f.val), f"{f.seconds:.3f}", f.params_trainable)
            + (_setting(f), " ".join(_six(*f.test)), " ".join(_six(*f.default)), f.steps)
            + _six(*(statistics.fmean(part.test) for part in f.beside))
        )
    for b in baselines:
        mean, interval = mean_interval(b.test)
        writer.writerow(
            (b.labels, b.name, *_six(mean, interval), *[""] * 6, *_six(b.best), "", "", f"{b.setting:g}")
            + (" ".join(_six(*b.test)), "", "", *[""] * len(findings[0].beside))
        )
    return text.getvalue()


def _six(*values: Any) -> tuple[str, ...]:
    return tuple(value if isinstance(value, str) else f"{value:.6f}" for value in values)


def _setting(f: Finding) -> str:
    return "diverged" if f.setting is None else " ".join(f"{name}={value:g}" for name, value in f.setting.items())


def as_markdown(design: Design, findings: Sequence[Finding], baselines: Sequence[BaselineScores]) -> str:
    """The table in Markdown."""
    headers, body = _cells(design, findings, baselines)
    left = {"method", "verdict", "setting"}
    rule = ["---" if header in left else "---:" for header in headers]
    return "".join("| " + " | ".join(line) + " |\n" for line in (headers, rule, *body))


def as_text(design: Design, findings: Sequence[Finding], baselines: Sequence[BaselineScores], page: Page = FILE) -> str:
    """The same table as plain text that fits `page`."""
    headers, body = _cells(design, findings, baselines)
    kinds = {"method": NAME, "over scratch, 95 %": TEXT, "verdict": TEXT, "setting": TEXT}
    kinds |= {header: TEXT for header in headers if header.endswith(" over scratch")}
    columns = [Column(header, kinds.get(header, NUMBER)) for header in headers]
    return table(columns, [[cell.replace(", ", f",{GLUE}") for cell in line] for line in body], page)


def _cells(
    design: Design, findings: Sequence[Finding], baselines: Sequence[BaselineScores]
) -> tuple[list[str], list[list[str]]]:
    metric = design.ready.stages[0].spec.task.monitor
    beside = beside_tables.headers(findings)
    headers = ["method", f"test {metric}, tuned", "default", "over scratch, 95 %", "verdict", *beside, "seconds"]
    headers += ["trainable parameters", "setting"]
    many, body = len(design.labels) > 1, []
    for labels in design.labels:
        for f in (f for f in findings if f.labels == labels):
            verdict, effect = "", ""
            if f.verdict is not None:
                verdict = f.verdict.outcome
                effect = gain(f.verdict.effect.mean, f.verdict.effect.low, f.verdict.effect.high)
            scores = [f.arm, _mean(f.test), number(statistics.fmean(f.default)), effect, verdict]
            scores += beside_tables.cells(f, findings[0])
            cost = [number(f.seconds, digits=1), f"{f.params_trainable:,}", _setting(f)]
            body.append([*([str(labels)] if many else []), *scores, *cost])
        for b in (b for b in baselines if b.labels == labels):
            blank = [""] * (len(beside) + 5)
            body.append([*([str(labels)] if many else []), b.name, _mean(b.test), *blank, f"{b.setting:g}"])
    return [*(["labels"] if many else []), *headers], body


def _mean(values: Sequence[float]) -> str:
    mean, interval = mean_interval(values)
    return number(mean) if math.isnan(interval) else f"{mean:.3f} ± {interval:.3f}"


def _draw(folder: epath.Path, design: Design, findings: Sequence[Finding], baselines: Sequence[BaselineScores]) -> None:
    """Draws up to four pictures; a picture of a single label count shows the smallest, where transfer matters most."""
    task = design.ready.stages[0].spec.task
    label, first = f"test {task.monitor}", design.labels[0]
    at = f" at {first} {'label' if first == 1 else 'labels'} {design.counted}" if first else ""
    by_arm = {f.arm: f for f in findings if f.labels == first}
    simple: dict[str, Mapping[int, float]] = {}
    for b in baselines:
        simple.setdefault(b.name, {})[b.labels] = statistics.fmean(b.test)
    plots.methods(
        {name: f.test for name, f in by_arm.items()},
        folder / "methods",
        label + at,
        reference=SCRATCH if any(map(math.isfinite, by_arm[SCRATCH].test)) else None,
        baselines={name: by_count[first] for name, by_count in simple.items()},
        best="max" if task.maximize else "min",
    )
    plots.learning_curves(
        {name: f.curves for name, f in by_arm.items()}, folder / "curves", by_arm[SCRATCH].curve_label + at
    )
    if len(design.labels) > 1:
        scores = {name: {f.labels: f.test for f in findings if f.arm == name} for name in by_arm}
        plots.labels(scores, folder / "labels", label, baselines=simple, counted=design.counted)
    points = {
        name: {"scores": f.test, "params_trainable": f.params_trainable, "seconds": f.seconds}
        for name, f in by_arm.items()
        if any(map(math.isfinite, f.test))
    }
    plots.cost(points, folder / "cost", label + at)


def as_json(design: Design, findings: Sequence[Finding], baselines: Sequence[BaselineScores]) -> dict[str, Any]:
    """The contents of comparison.json: the report for programs."""
    return {
        "metric": design.ready.stages[0].spec.task.monitor,
        "counted": design.counted,
        "findings": [
            {
                "labels": f.labels,
                "arm": f.arm,
                "setting": f.setting,
                "val": _null(f.val),
                "test": [_null(value) for value in f.test],
                "default": [_null(value) for value in f.default],
                "seconds": _null(f.seconds),
                "params_trainable": f.params_trainable,
                "steps": f.steps,
                "verdict": None
                if f.verdict is None
                else {
                    "outcome": f.verdict.outcome,
                    "effect": f.verdict.effect.mean,
                    "interval95": [_null(f.verdict.effect.low), _null(f.verdict.effect.high)],
                    "interval": f.verdict.effect.name,
                    "sentence": f.verdict.sentence,
                    "p": f.verdict.p,
                    "p_holm": f.p_holm,
                },
                "simple_baseline": None if f.simple is None else {"name": f.simple_name, "outcome": f.simple.outcome},
                "labels_to_match": None if f.saved is None else _null(f.saved.needed),
                **_saved_interval(f),
                **({"beside": beside_tables.as_json(f)} if f.beside else {}),
            }
            for f in findings
        ],
        "baselines": [
            {"labels": b.labels, "name": b.name, "setting": b.setting, "val": list(b.val), "test": list(b.test)}
            for b in baselines
        ],
    }


def _saved_interval(f: Finding) -> dict[str, Any]:
    if f.saved is None or f.saved.interval is None:
        return {}
    return {"labels_to_match_interval95": [_null(end) for end in f.saved.interval]}


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None
