"""The verdicts of a comparison: which transfers help, by how much, and whether that can be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxfer.evals.intervals import digits
from jaxfer.evals.verdicts import HELPS, NEGATIVE, NO_EVIDENCE, SURE
from jaxfer.reports import charts, numbers
from jaxfer.reports.comparison import SCRATCH, Arm, Compared
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.page import Part, Section
from jaxfer.reports.tables import Cell, score, text

FALLS = "does not stand"  # of a finding that Holm's correction for all arms takes back
LOOK = {HELPS: "good", NEGATIVE: "bad"}


def at(labels: int, compared: Compared) -> str:
    """` at 5 labels a class`; empty for all labels."""
    return f" at {labels} {'label' if labels == 1 else 'labels'} {compared.counted}" if labels else ""


def outcome(verdict: Mapping[str, Any]) -> str:
    """`helps`, `no evidence` or `negative transfer`; `does not stand` where it is one of several that may be chance."""
    holm = verdict["p_holm"]
    chance = verdict["outcome"] != NO_EVIDENCE and numbers.known(holm) and holm >= SURE
    return FALLS if chance else verdict["outcome"]


def badge(verdict: Mapping[str, Any]) -> Markup:
    """The outcome in its colour."""
    return tag("span", outcome(verdict), class_=f"badge {LOOK.get(outcome(verdict), 'even')}")


def headline(compared: Compared, labels: int) -> str:
    """The finding on the arm that is best on val."""
    best = compared.best(labels)
    verdict = best.found["verdict"]
    if verdict is None:
        why = "no transfer was compared" if best.name == SCRATCH else "a run diverged"
        return f"No verdict{at(labels, compared)}: {why}"
    falls = f", which {FALLS}" if outcome(verdict) == FALLS else ""
    return f"{verdict['sentence'].partition(', 95 %')[0].rstrip('.')}{at(labels, compared)}{falls}"


def section(compared: Compared) -> Section:
    """A list and a figure for each label count."""
    parts, first = [], compared.labels[0]
    for labels in compared.labels:
        arms = [arm for arm in compared.at(labels) if arm.name != SCRATCH]
        if len(compared.labels) > 1:
            parts.append(Part(content=tag("h3", at(labels, compared).removeprefix(" ").capitalize() or "All labels")))
        parts.append(
            Part(content=tag("ul", *(_item(compared, arm) for arm in _ordered(compared, arms)), class_="verdicts"))
        )
    parts += [_figure(compared, labels) for labels in compared.labels]
    return Section(name="Verdict", title=_title(compared, first), parts=parts)


def _title(compared: Compared, labels: int) -> str:
    arms = [arm for arm in compared.at(labels) if arm.found["verdict"] is not None]
    told = [outcome(arm.found["verdict"]) for arm in arms]
    counts = {look: told.count(look) for look in (HELPS, NEGATIVE)}
    harm = (
        f", {counts[NEGATIVE]} does harm"
        if counts[NEGATIVE] == 1
        else f", {counts[NEGATIVE]} do harm"
        if counts[NEGATIVE]
        else ""
    )
    noun, verb = "transfer" if len(arms) == 1 else "transfers", "helps" if 1 in (counts[HELPS], len(arms)) else "help"
    return f"{counts[HELPS]} of {len(arms)} {noun} {verb}{harm}{at(labels, compared)}"


def _ordered(compared: Compared, arms: list[Arm]) -> list[Arm]:
    sign = 1 if compared.maximize else -1
    return sorted(arms, key=lambda arm: -sign * arm.found["val"] if numbers.known(arm.found["val"]) else math.inf)


def _item(compared: Compared, arm: Arm) -> Markup:
    verdict = arm.found["verdict"]
    if verdict is None:
        return tag("li", f"{arm.name}: a run diverged, its own or scratch's, so there is no verdict.", class_="plain")
    holm = verdict["p_holm"]
    stands = ""
    if numbers.known(holm):
        p = "< 0.001" if holm < 0.001 else f"= {holm:.3f}"
        stands = f" p {p} by Holm's correction for {_judged(compared, arm)} arms."
    best = compared.best(arm.labels) is arm
    first = " Best on val." if best else ""
    saved = needed(compared, arm) if best or verdict["outcome"] == HELPS else None
    labels = f" To match it, scratch needs {saved.words} labels {compared.counted}" if saved else ""
    labels += f"{saved.interval and f', 95 % interval {saved.interval}'}." if saved else ""
    return tag(
        "li",
        badge(verdict),
        f" {verdict['sentence']}{stands}{first}{labels}",
        class_=LOOK.get(outcome(verdict), "even"),
    )


class Needed(NamedTuple):
    """How many labels scratch needs to match an arm.

    Attributes:
      count: None where it matches at none of the counts that were run.
      words: the count in words.
      interval: the 95 % interval in words; empty where it is not known.
    """

    count: float | None
    words: str
    interval: str


def needed(compared: Compared, arm: Arm) -> Needed | None:
    """None of scratch, where a single count was run, and where a run of scratch diverged."""
    counts = [count for count in compared.labels if count]
    scratch = [other.mean for other in compared.arms if other.name == SCRATCH and other.labels]
    if arm.name == SCRATCH or not arm.labels or len(counts) < 2 or not all(map(numbers.known, scratch)):
        return None
    if arm.found["verdict"] is None:
        return None
    count, ends = arm.found.get("labels_to_match"), arm.found.get("labels_to_match_interval95")
    if count is None:
        return Needed(None, f"more than {numbers.compact(counts[-1])}", "")
    words = f"about {numbers.compact(count)}" if count > arm.labels else f"{numbers.compact(count)} or fewer"
    if ends is None or ends[0] is None:
        return Needed(count, words, "")
    low, high = (None if end is None else numbers.compact(end) for end in ends)
    return Needed(count, words, f"{low} to {high}" if high else f"from {low} up")


def _judged(compared: Compared, arm: Arm) -> int:
    return sum(other.found["verdict"] is not None for other in compared.at(arm.labels))


def _figure(compared: Compared, labels: int) -> Part:
    arms = [arm for arm in _ordered(compared, compared.at(labels)) if arm.name != SCRATCH]
    points, rows = [], []
    for arm in arms:
        verdict = arm.found["verdict"]
        sign = 1 if compared.maximize else -1
        if verdict is None:
            points.append(charts.Point(arm.name, math.nan, series=arm.series))
            continue
        effect, (low, high) = (
            sign * verdict["effect"],
            (v if v is not None else math.nan for v in verdict["interval95"]),
        )
        low, high = (low, high) if sign > 0 else (-high, -low)
        points.append(charts.Point(arm.name, effect, low=low, high=high, series=arm.series))
        rows.append([text(arm.name), *_signed(effect, low, high), text(outcome(verdict)), score(verdict["p_holm"])])
    title = f"Gain over scratch{at(labels, compared)}"
    about = f"Paired differences of test {compared.metric} with their 95 % intervals; the dashed line is no difference."
    drawn = charts.intervals(f"effect-{labels}", title, points, x_name=f"test {compared.metric} over scratch")
    headers = ("method", "over scratch", "low", "high", "verdict", "p (Holm)")
    return charts.figure(f"effect-{labels}", title, about, drawn, headers, rows)


def _signed(effect: float, low: float, high: float) -> list[Cell]:
    places = digits(low, high) if math.isfinite(low + high) else 3
    return [Cell(value, numbers.signed(value, places)) for value in (effect, low, high)]
