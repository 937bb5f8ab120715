"""The table and the cost that `jaxfer run` ends with."""

from __future__ import annotations

from jaxfer.figures import outcome
from jaxfer.runs.history import Monitor, best
from jaxfer.terminal import Page
from tests.runs.folders import result

ACCURACY = Monitor("accuracy", True)


def val(step, **metrics):
    return {"step": step, "stage": "train", "split": "val", **metrics, "seconds": 1.0}


LINES = [val(20, accuracy=0.5, loss=2.0), val(40, accuracy=0.875, loss=1.0), val(60, accuracy=0.75, loss=0.5)]


def test_best_and_last():
    given = result(accuracy=0.75, loss=0.5)
    given["metrics"]["test"] = {"accuracy": 0.625, "loss": 0.75}
    assert outcome.table(given, LINES, ACCURACY).splitlines() == [
        "metric    val best, step 40  val last, step 60  test, step 60",
        "accuracy             0.8750             0.7500         0.6250",
        "loss                 1.0000             0.5000         0.7500",
    ]
    assert outcome.table(given, LINES, ACCURACY, Page(30)).splitlines()[:3] == [
        "accuracy",
        "  val best, step 40: 0.8750",
        "  val last, step 60: 0.7500",
    ]


def test_one_column_where_the_last_is_the_best_or_none_is_known():
    alone = ["metric    val, step 60", "accuracy        0.7500"]
    for lines, by in ((LINES[:1] + [val(60, accuracy=0.75)], ACCURACY), (LINES, None), ([], ACCURACY)):
        assert outcome.table(result(accuracy=0.75), lines, by).splitlines() == alone


def test_the_best_by_hand():
    assert best(LINES, ACCURACY)["step"] == 40 and best(LINES, Monitor("loss", False))["step"] == 60
    assert best([val(20, accuracy=0.5), val(40, accuracy=0.5)], ACCURACY)["step"] == 20, "the first of equals"
    assert best([val(20, accuracy=float("nan"))], ACCURACY) is None
    former = [val(20, perplexity=1.0, accuracy=1.0), *LINES]  # of a stage with another task
    assert best(former, ACCURACY)["step"] == 40


def test_cost():
    given = result(accuracy=0.75)
    assert outcome.cost(given) == "1,234 of 5,678 parameters trained, 60 steps, 12.5 s (4.0 s compiling)"
    given["cost"] |= {"examples_per_second": 1234.5, "peak_bytes": 3 * 2**20, "compile_seconds": 0.0}
    assert outcome.cost(given).endswith("60 steps, 12.5 s (1,234 examples/s, 3 MiB at the peak)")
