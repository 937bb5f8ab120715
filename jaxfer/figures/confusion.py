"""A picture of a confusion matrix: a row for each true class, its shares as colours, counts where there is room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.ticker import PercentFormatter

from jaxfer import terminal
from jaxfer.errors import InputError
from jaxfer.figures.look import drawn, new_figure, save, text_width
from jaxfer.runs.folder import read_result

COUNTED = 20  # classes up to which cells hold counts
NAMED = 128  # classes up to which every one is named
NAME = 24  # columns of a class's name
SHARES = LinearSegmentedColormap.from_list("shares", ["#FFFFFF", "#56B4E9", "#0072B2", "#003A5C"])


def of_run(folder: epath.Path) -> tuple[epath.Path, ...]:
    """Draws FOLDER/confusion_SPLIT.png and .svg from the result.json of a finished run.

    Returns:
      The .png files, one for each split of the result; none for another task than classification.
    """
    folder, paths = epath.Path(folder), []
    result = read_result(folder)
    for split, report in result.get("report", {}).items():
        paths.append(folder / f"confusion_{split}.png")
        confusion(matrix(report["confusion"], result["classes"]), result["classes"], paths[-1], split)
    return tuple(paths)


def matrix(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> np.ndarray:
    """int64 [true classes, predicted classes] of `confusion` in a report."""
    places, cells = {name: i for i, name in enumerate(classes)}, np.zeros((len(classes), len(classes)), np.int64)
    for true, row in counts.items():
        for predicted, count in row.items():
            cells[places[true], places[predicted]] = count
    return cells


@drawn
def confusion(cells: np.ndarray, classes: Sequence[str], path: epath.Path, split: str) -> None:
    """Draws a confusion matrix.

    A cell's colour is its share of the true class, by its square root: 1 % is to be seen beside 100 %. Up to 20 classes
    a cell holds its count, too; of more than 128 only some classes are named.

    Args:
      cells: int [true classes, predicted classes], examples of each pair.
      classes: their names.
      path: where to write the pictures.
      split: its name, for the label.

    Raises:
      InputError: a matrix of another size.
    """
    count = len(classes)
    if cells.shape != (count, count) or not count:
        raise InputError(f"expected counts [{count}, {count}] for {count} classes, found {list(cells.shape)}")
    support = cells.sum(1)
    size = 13 if count <= COUNTED else max(7, min(11, 900 / count))
    side = max(2.6, min(12.5, count * (0.52 if count <= COUNTED else 1.25 * size / 72)))
    shown = np.unique(np.linspace(0, count - 1, count if count <= NAMED else NAMED // 3).round().astype(int))
    names = [terminal.shortened(" ".join(classes[i].split()), NAME) for i in shown]
    rows = [f"{name} ({support[i]:,})" for i, name in zip(shown, names, strict=True)]
    left, below = (text_width(texts) * size / 13 for texts in (rows, names))
    level = below < 0.9 * side / count
    figure = new_figure(side + left + 2.2, side + (0.3 if level else below) + 0.7)
    axes = figure.add_subplot()
    shares = cells / np.maximum(support, 1)[:, None]
    image = axes.imshow(shares, SHARES, PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="equal")
    if count <= COUNTED:
        _counts(axes, cells, shares)
    axes.set_xticks(shown, names, rotation=0 if level else 90, fontsize=size)
    axes.set_yticks(shown, rows, fontsize=size)
    axes.set(xlabel="predicted", ylabel=f"true class of {split} (examples)")
    axes.tick_params(length=0 if count <= NAMED else 3)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)
    bar = figure.colorbar(image, ax=axes, shrink=min(1, 4 / side), aspect=16, pad=0.03)
    bar.set_ticks([0, 0.01, 0.1, 0.25, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    save(figure, path)


def _counts(axes: Axes, cells: np.ndarray, shares: np.ndarray) -> None:
    """The count in every cell that has one, white on dark."""
    for true, predicted in np.argwhere(cells):
        text, dark = str(cells[true, predicted]), shares[true, predicted] > 0.3
        size = min(12, 48 / len(text))  # four digits fill a cell
        axes.text(predicted, true, text, ha="center", va="center_baseline", fontsize=size, color="w" if dark else None)
