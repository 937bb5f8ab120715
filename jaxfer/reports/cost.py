"""Scores against what they cost, with the Pareto front: of the arms of a comparison, or of the settings of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxfer.evals.intervals import mean_interval
from jaxfer.reports import charts, numbers
from jaxfer.reports.charts import Point
from jaxfer.reports.page import Part
from jaxfer.reports.tables import Cell, score, text

NAMED = 4  # names of the front in a title


class Priced(NamedTuple):
    """A score with its cost.

    Attributes:
      name: of what has it.
      scores: by seed, at least one.
      cost: above zero.
      series: number of its colour.
    """

    name: str
    scores: Sequence[float]
    cost: float
    series: int

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


def affordable(found: Sequence[tuple[str, Sequence[float], float | None, int]]) -> list[Priced]:
    """Those of (name, scores, cost, series) whose cost is known and above zero."""
    return [Priced(*entry) for entry in found if numbers.known(entry[2]) and entry[2] > 0]


def front(priced: Sequence[Priced], maximize: bool) -> list[Priced]:
    """Those that none is better than at the same cost or less, the cheapest first."""
    sign, best = (1 if maximize else -1), []
    for entry in sorted(priced, key=lambda entry: (entry.cost, -sign * entry.mean)):
        if not best or sign * entry.mean > sign * best[-1].mean:
            best.append(entry)
    return best


def heading(seconds: Sequence[Priced], maximize: bool, otherwise: str) -> str:
    """What the front says, where costs are seconds; `otherwise` without any."""
    names = [entry.name for entry in front(seconds, maximize)]
    if not names:
        return otherwise
    if len(names) > NAMED + 1:
        names = [*names[:NAMED], f"{len(names) - NAMED} others"]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"Nothing is both faster and better than {listed}"


def figure(
    link: str,
    priced: Sequence[Priced],
    maximize: bool,
    *,
    who: str,
    noun: str,
    measure: str,
    where: str = "",
    show: Callable[[float], str],
    legend: bool,
) -> Part:
    """The chart and its numbers.

    Args:
      link: its name on the page.
      priced: what is shown, at least one.
      maximize: whether more of the score is better.
      who: what an entry is: `method`, `setting`.
      noun: what the cost is.
      measure: what the score is.
      where: words after the title.
      show: of costs.
      legend: whether the colours have one.
    """
    best, points, rows = {entry.name for entry in front(priced, maximize)}, [], []
    for entry in priced:
        mean, half = mean_interval(entry.scores)
        ends = (mean - half, mean + half) if numbers.known(half) else (float("nan"),) * 2
        points.append(Point(entry.name, entry.cost, mean, *ends, series=entry.series, best=entry.name in best))
        within = text("yes" if entry.name in best else "no")
        rows.append([text(entry.name), Cell(entry.cost, show(entry.cost)), score(mean), *map(score, ends), within])
    title = f"{measure} against {noun}{where}"
    title = title[0].upper() + title[1:]
    about = (
        "Rings and the dashed line: the Pareto front, where nothing else is both better and cheaper. Bars: 95 % "
        "intervals over seeds."
    )
    drawn = charts.scatter(link, title, points, x_name=noun, y_name=measure, x_text=show)
    headers = (who, noun, measure, "low", "high", "on the front")
    colours = {entry.name: entry.series for entry in priced} if legend else None
    return charts.figure(link, title, about, drawn, headers, rows, legend=colours)
