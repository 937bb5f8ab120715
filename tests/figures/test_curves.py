"""The picture of a run's curves: what is drawn where, and the same bytes twice."""

from __future__ import annotations

import math

import matplotlib.image
from etils import epath

from jaxfer.figures import curves
from jaxfer.runs.history import Monitor
from tests.runs.folders import LINES, write

ACCURACY = Monitor("accuracy", True)


def line(step, split="train", stage="full", **metrics):
    return {"step": step, "stage": stage, "split": split, "seconds": 1.0, **metrics}


STAGES = (
    line(10, stage="probe", loss=2.0),
    line(20, stage="probe", loss=1.0),
    line(20, "val", "probe", loss=1.5, accuracy=0.5),
    line(30, loss=0.75),
    line(30, "val", loss=1.0, accuracy=0.875),
    line(40, loss=0.5),
    line(40, "val", loss=1.25, accuracy=0.75),
)


def drawn(axes):
    """The curves of a panel: those in data coordinates, in order."""
    return [
        (list(each.get_xdata()), list(each.get_ydata()))
        for each in axes.lines
        if each.get_transform() == axes.transData
    ]


def test_loss_and_monitor_of_two_stages():
    loss, accuracy = curves.figure_of(STAGES, ACCURACY).axes
    assert drawn(loss) == [
        ([10, 20, 30, 40], [2.0, 1.0, 0.75, 0.5]),
        ([20, 30, 40], [1.5, 1.0, 1.25]),
        ([30], [1.0]),  # the best evaluation
    ]
    assert drawn(accuracy) == [([20, 30, 40], [0.5, 0.875, 0.75]), ([30], [0.875])]
    assert (loss.get_ylabel(), accuracy.get_ylabel(), accuracy.get_xlabel()) == ("loss", "accuracy", "step")
    assert [text.get_text() for text in loss.texts] == ["probe", "full", "train", "val"]
    assert [text.xy[0] for text in loss.texts[:2]] == [10, 20]
    (begins,) = [each for each in accuracy.lines if each.get_linestyle() == ":"][:1]
    assert list(begins.get_xdata()) == [20, 20]


def test_one_panel_where_the_loss_is_the_monitor_or_none_is_known():
    for by in (Monitor("loss", False), None):
        (loss,) = curves.figure_of(STAGES, by).axes
        assert len(drawn(loss)) == (3 if by else 2)


def test_what_is_not_finite_is_left_out_and_wide_losses_get_a_log_axis():
    lines = [line(1, loss=50.0), line(2, loss=math.nan), line(3, loss=1.0), line(3, "val", loss=math.inf)]
    (loss,) = curves.figure_of(lines, None).axes
    assert drawn(loss) == [([1, 3], [50.0, 1.0])] and loss.get_yscale() == "log"
    (loss,) = curves.figure_of([line(1, loss=30.0), line(3, loss=1.0)], None).axes
    assert loss.get_yscale() == "linear"
    (empty,) = curves.figure_of([line(1, accuracy=0.5)], None).axes
    assert not drawn(empty)


def test_the_file_is_the_same_when_it_is_drawn_again(tmp_path):
    folder = epath.Path(write(tmp_path / "a"))
    other = epath.Path(write(tmp_path / "b", lines=[{**one, "seconds": 99.0} for one in LINES]))
    curves.draw(folder)
    curves.draw(other)
    assert (folder / "curves.png").read_bytes() == (other / "curves.png").read_bytes()
    assert matplotlib.image.imread(folder / "curves.png").shape[1] == 1200
    assert not (folder / "curves.svg").exists()
    empty = epath.Path(write(tmp_path / "c", lines=()))
    curves.draw(empty)
    assert not (empty / "curves.png").exists()
