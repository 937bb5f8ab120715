"""The methods of a comparison as a table, and their scores against labels, seconds and trained parameters."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from jaxfer.reports import beside, charts, cost, forgetting, numbers, svg, verdicts
from jaxfer.reports.charts import Band
from jaxfer.reports.comparison import SCRATCH, Arm, Compared
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.page import Part, Section, paragraph
from jaxfer.reports.tables import Cell, mean, plain, score, seconds, table, text, whole
from jaxfer.reports.verdicts import at, badge, outcome


def table_section(compared: Compared) -> Section:
    """Scores, costs and calibration of each arm and each simple baseline."""
    best = compared.best(compared.labels[0])
    many = len(compared.labels) > 1
    metric = compared.metric
    headers = [
        *(["labels"] if many else []),
        "method",
        f"test {metric}, tuned",
        "default",
        "over scratch, 95 %",
        "verdict",
    ]
    more_headers, more, told = _more(compared)
    headers += more_headers
    headers += ["seconds", "trained parameters", "peak memory", "ECE on val", "setting"]
    parts = []
    for labels in compared.labels:
        rows = [_row(compared, arm, more[labels, arm.name]) for arm in compared.at(labels)]
        rows += [_simple(b, len(headers) - many) for b in compared.baselines if b["labels"] == labels]
        name = f"methods-{labels}"
        content = table(headers[many:], rows, caption=f"Methods{at(labels, compared)}", link=name)
        parts.append(Part(content=tag("div", content, class_="main"), name=f"table {name}"))
    about = (
        "Tuned: at the setting that is best on val; default: at the method's own. ± is the half-width of the 95 % "
        "interval over seeds. Seconds are of one training without compiling, the median over seeds; ECE has 15 bins of "
        f"equal width.{told}"
    )
    from_scratch = _scratch(compared, best.labels)
    reached = f"{numbers.score(best.mean)} test {metric}{at(best.labels, compared)}"
    title = f"{best.name} reaches {reached}, scratch {from_scratch}"
    return Section(name="Methods", title=title, parts=[*parts, paragraph(about, muted=True)])


def _scratch(compared: Compared, labels: int) -> str:
    return next((numbers.score(arm.mean) for arm in compared.at(labels) if arm.name == SCRATCH), numbers.NONE)


def _more(compared: Compared) -> tuple[list[str], dict[tuple[int, str], list[Cell]], str]:
    """(headers, {(labels, arm): cells}, words) of other measures, labels saved and forgetting, where there are any."""
    names, judged = beside.measures(compared)
    counted = len([count for count in compared.labels if count]) > 1
    left = [forgetting.measured(arm.results, arm.folders, compared.metric) for arm in compared.arms]
    followed = any(kept is not None for kept, _ in left)
    headers = [header for name in names for header in beside.headers(name, name in judged)]
    headers += [*(["labels scratch needs, 95 %"] if counted else ()), *(forgetting.HEADERS if followed else ())]
    found = {}
    for arm, kept in zip(compared.arms, left, strict=True):
        cells = [cell for name in names for cell in beside.cells(arm, name, name in judged)]
        saved = verdicts.needed(compared, arm)
        shown = f"{saved.words}{saved.interval and f' [{saved.interval}]'}" if saved else ""
        cells += [text(saved and saved.count, shown)] if counted else []
        found[arm.labels, arm.name] = [*cells, *(forgetting.cells(*kept) if followed else ())]
    words = " Labels scratch needs: to match the method, by its scores at its own counts." if counted else ""
    return headers, found, beside.about(compared) + words + (f" {forgetting.ABOUT}" if followed else "")


def _row(compared: Compared, arm: Arm, more: Sequence[Cell]) -> list[Cell]:
    """The cells of an arm; `more` stand after its verdict."""
    verdict, setting = arm.found["verdict"], arm.found.get("setting")
    effect, told = text(None, ""), text("", "")
    if verdict is not None:
        sign = 1 if compared.maximize else -1
        low, high = sorted((sign * v if v is not None else None for v in verdict["interval95"]), key=lambda v: v or 0)
        shown = numbers.gain(sign * verdict["effect"], low, high)
        effect = text(verdict["effect"], tag("span", shown, class_="n"))
        told = text(outcome(verdict), badge(verdict))
    default = [v for v in arm.found["default"] if numbers.known(v)]
    written = "diverged" if setting is None else ", ".join(f"{k}={numbers.plain(v)}" for k, v in setting.items())
    return [
        text(arm.name, Markup(tag("span", class_=f"swatch {svg.hue(arm.series)}") + tag("span", arm.name))),
        mean(arm.test if len(arm.test) == len(arm.found["test"]) else []),
        score(statistics.fmean(default) if len(default) == len(arm.found["default"]) and default else None),
        effect,
        told,
        *more,
        seconds(arm.found["seconds"]),
        whole(arm.found["params_trainable"]),
        Cell(arm.cost("peak_bytes"), numbers.size(arm.cost("peak_bytes"))),
        score(arm.val("ece")),
        text(written),
    ]


def _simple(baseline: dict, columns: int) -> list[Cell]:
    shown = [text(baseline["name"], tag("span", baseline["name"], class_="muted")), mean(baseline["test"])]
    return [*shown, *([plain(None)._replace(shown="", number=True)] * (columns - 3)), text("")]


def cost_section(compared: Compared) -> Section:
    """The same scores against what they cost."""
    labels, parts = compared.labels[0], []
    arms = [arm for arm in compared.at(labels) if numbers.known(arm.mean)]
    spent = cost.affordable([(a.name, a.test, a.found["seconds"], a.series) for a in arms])
    trained = cost.affordable([(a.name, a.test, a.found["params_trainable"], a.series) for a in arms])
    said = {"who": "method", "measure": f"test {compared.metric}", "where": at(labels, compared), "legend": True}
    for name, priced, noun, show in (
        ("seconds", spent, "seconds of training", numbers.seconds),
        ("parameters", trained, "trained parameters", numbers.compact),
    ):
        if priced:
            parts.append(cost.figure(f"cost-{name}", priced, compared.maximize, noun=noun, show=show, **said))
    if len([count for count in compared.labels if count]) > 1:
        parts.append(_labels(compared))
    title = cost.heading(spent, compared.maximize, "What each method costs")
    return Section(name="Cost", title=title, parts=parts)


def _labels(compared: Compared) -> Part:
    counts = [count for count in compared.labels if count]
    bands, rows = {}, []
    for name in dict.fromkeys(arm.name for arm in compared.arms):
        arms = [arm for count in counts for arm in compared.at(count) if arm.name == name and numbers.known(arm.mean)]
        if not arms:
            continue
        steps, means = [arm.labels for arm in arms], [arm.mean for arm in arms]
        bands[name] = Band(arms[0].series, steps, means, [min(a.test) for a in arms], [max(a.test) for a in arms])
        rows += [[text(name), whole(a.labels), score(a.mean), score(min(a.test)), score(max(a.test))] for a in arms]
    title = f"Test {compared.metric} against labels {compared.counted}"
    about = "Means over seeds; the band reaches from the lowest to the highest seed."
    drawn = charts.lines(
        "cost-labels", title, bands, x_name=f"labels {compared.counted}", y_name=f"test {compared.metric}", ticks=counts
    )
    headers = ("method", f"labels {compared.counted}", f"test {compared.metric}", "lowest", "highest")
    legend = {name: band.series for name, band in bands.items()}
    return charts.figure("cost-labels", title, about, drawn, headers, rows, legend=legend)
