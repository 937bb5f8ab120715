"""Which fields of a sweep matter: parallel coordinates of its runs, and the importance of each field."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath

from jaxfer.reports import charts, grids, importance, numbers
from jaxfer.reports.importance import Importance
from jaxfer.reports.page import Part, Section, paragraph
from jaxfer.reports.tables import Cell, plain, score, text
from jaxfer.runs import listing
from jaxfer.runs.survey import Run

DRAWN, AXES = 400, 7  # runs and fields in parallel coordinates
COMPUTED = ("model.means", "model.stds", "model.values")  # of the training rows: what was set is the data


def sections(
    folder: epath.Path, runs: Sequence[Run], metric: str, maximize: bool, beside: Sequence[Part] = ()
) -> list[Section]:
    """One, over the fields that differ, and what stands beside it; [] of fewer than three runs or without such fields.

    Raises:
      InputError: the sampler's importance can't be read.
    """
    fields = [name for name in listing.differing(runs) if name not in ("seed", "test", *COMPUTED)]
    scored = [run for run in runs if numbers.known(run.scores.get(f"val.{metric}"))]
    if not fields or len(scored) < 3:
        return []
    values = [run.scores[f"val.{metric}"] for run in scored]
    settings = [[run.config.get(name) for name in fields] for run in scored]
    found = importance.stored(folder) or importance.permuted(settings, values, fields)
    drawn = [name for name in (found.of if found else fields) if name in fields][:AXES]
    drawn += [name for name in fields if name not in drawn][: AXES - len(drawn)]
    parts = [_parallel(scored, fields, drawn, values, metric, maximize)]
    title = f"{len(fields)} fields differ between runs"
    if found is None:
        why = f"Of fewer than {importance.LEAST} runs, or of equal scores, no importance can be told."
        parts.append(paragraph(why, muted=True))
    else:
        parts.append(_importance(found, metric))
        most = next(iter(found.of))
        title = f"{most} matters most for val {metric}: {_said(found, found.of[most])}"
        if found.r2 is not None and found.r2 <= 0:
            title = f"The settings do not tell val {metric}: a forest predicts unseen runs no better than their mean"
    return [Section(name="What mattered", title=title, parts=[*parts, *beside])]


def _said(found: Importance, value: float) -> str:
    if found.fanova:
        return f"{numbers.percent(value)} of its variance, by fANOVA"
    return f"without it, R² on unseen runs falls by {numbers.score(value, 2)}"


def _parallel(
    runs: Sequence[Run],
    fields: Sequence[str],
    drawn: Sequence[str],
    values: Sequence[float],
    metric: str,
    maximize: bool,
) -> Part:
    """A figure over the fields that are `drawn`, and the numbers of all."""
    order = sorted(range(len(values)), key=lambda i: values[i] if maximize else -values[i])
    good = [0.0] * len(values)
    for rank, i in enumerate(order):
        good[i] = rank / max(len(order) - 1, 1)
    columns = {name: [run.config.get(name) for run in runs] for name in fields}
    axes = [*(importance.axis(name, columns[name]) for name in drawn), importance.axis(metric, values)]
    kept = order[-DRAWN:]
    axes = [axis._replace(places=[axis.places[i] for i in kept]) for axis in axes]
    title = f"Settings and val {metric}"
    figure = grids.parallel("parallel", title, axes, [good[i] for i in kept])
    rows = [
        [text(runs[i].name), *(plain(column[i]) for column in columns.values()), score(values[i])]
        for i in reversed(order)
    ]
    about = "A line is a run: the stronger, the better it ranks; the best one is orange."
    if len(drawn) < len(fields):
        about += f" Of {len(fields)} fields the {len(drawn)} that matter most; the table has all."
    headers = ("run", *fields, f"val {metric}")
    return charts.figure("parallel", title, about, figure, headers, rows, wide=len(drawn) > 3)


def _importance(found: Importance, metric: str) -> Part:
    if found.fanova:
        title, x_name = "Importance by fANOVA", f"share of the variance of val {metric}"
        about = (
            "Optuna's own, of importance.csv: each field's own share of the variance that a forest finds over the "
            "space (Hutter et al., 2014); of the fields that every trial drew."
        )
    else:
        title, x_name = "Importance by permutation", "loss of R²"
        about = (
            "A random forest predicts the score of runs that it was not fitted to, by their settings: R² "
            f"{numbers.score(found.r2, 2)}. Shown is what R² loses when one field of theirs is shuffled; fields that "
            "change together share it, and about 0 is a field that does not matter."
        )

    def show(value: float) -> str:
        return numbers.percent(value) if found.fanova else numbers.score(value)

    drawn = charts.bars("importance", title, found.of, x_name=x_name, show=show)
    rows = [[text(name), Cell(value, show(value))] for name, value in found.of.items()]
    return charts.figure("importance", title, about, drawn, ("field", x_name), rows)
