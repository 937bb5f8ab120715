"""What a regression gets wrong on val: predictions by true value, and the largest errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.data.split import Split
from jaxfer.reports import charts, examples, numbers
from jaxfer.reports.charts import Band
from jaxfer.reports.looked import Looked
from jaxfer.reports.markup import tag
from jaxfer.reports.page import Part, Section
from jaxfer.reports.tables import Cell, score, text, whole

BINS = 10  # of as many examples each
SPREAD = (10, 90)  # percentiles of the predictions of a bin


def sections(result: Mapping[str, Any], seen: Looked | None) -> list[Section]:
    """Its errors; nothing where it was not looked at again."""
    if seen is None:
        return []
    predicted = np.asarray(seen.collected, np.float64)[:, 0]
    return [section(seen.val, predicted, seen.encodings)]


def section(split: Split, predicted: np.ndarray, encodings: Sequence[Any]) -> Section:
    """The errors of a run.

    Args:
      split: val.
      predicted: float64 [examples].
      encodings: of the model's inputs.
    """
    true = split.labels.astype(np.float64)
    error = predicted - true
    mean, bias = numbers.score(float(np.abs(error).mean())), float(error.mean())
    side = "above" if bias > 0 else "below"
    title = f"On val it is off by {mean} on average, and {numbers.score(abs(bias))} {side} the true value in the mean"
    return Section(
        name="Errors", title=title, parts=[_by_value(true, predicted), *_largest(split, predicted, encodings)]
    )


def bins(true: np.ndarray, predicted: np.ndarray) -> list[tuple[float, float, float, float, float, int]]:
    """Mean true value, mean prediction, both percentiles of these, mean absolute error and examples of each bin."""
    found = []
    for part in np.array_split(np.argsort(true, kind="stable"), BINS):
        if len(part):
            low, high = np.percentile(predicted[part], SPREAD)
            off = np.abs(predicted[part] - true[part]).mean()
            means = float(true[part].mean()), float(predicted[part].mean())
            found.append((*means, float(low), float(high), float(off), len(part)))
    return found


def _by_value(true: np.ndarray, predicted: np.ndarray) -> Part:
    found = bins(true, predicted)
    at, means, low, high, *_ = (list(column) for column in zip(*found, strict=True))
    bands = {"predicted": Band(1, at, means, low, high), "as it should be": Band(3, at, at, at, at)}
    title = "Predictions by true value"
    drawn = charts.lines("values", title, bands, x_name="true value", y_name="predicted value")
    rows = [[*(score(value) for value in values), whole(count)] for *values, count in found]
    headers = ("true value", "predicted", "10th percentile", "90th percentile", "mean absolute error", "examples")
    about = f"Means of {len(found)} bins of as many examples each; the band is the middle 80 % of a bin's predictions."
    legend = {name: band.series for name, band in bands.items()}
    return charts.figure("values", title, about, drawn, headers, rows, legend=legend)


def _largest(split: Split, predicted: np.ndarray, encodings: Sequence[Any]) -> list[Part]:
    """The largest errors with their images or texts."""
    true = split.labels.astype(np.float64)
    order = np.argsort(-np.abs(predicted - true), kind="stable")[: examples.SHOWN]
    pictures, items, rows = examples.pictures(split, order, encodings), [], []
    for place, i in enumerate(order):
        said = numbers.score(predicted[i])
        told = tag("strong", said), tag("br"), f"truly {numbers.score(true[i])}"
        items.append(examples.item(split, i, pictures[place] if pictures else None, f"predicted {said}", *told))
        row = int(split.rows[i])
        values = (Cell(float(x), numbers.score(x)) for x in (true[i], predicted[i], predicted[i] - true[i]))
        rows.append([whole(row), *values, text(examples.named(split, row)[: examples.WORDS])])
    heading, count = "The largest errors first", len(split)
    headers = ("row", "true value", "predicted", "difference", "file or text")
    return examples.listing(heading, items, rows, headers, of=count, images=bool(pictures), label="Largest errors")
