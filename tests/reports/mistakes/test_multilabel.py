"""The page of sets of labels: counts and the order of mistakes by hand, and that both are the run's."""

from __future__ import annotations

import types

import numpy as np
import pytest

from jaxfer.data.encodings.text import texts
from jaxfer.reports.mistakes import multilabel
from tests.reports.mistakes.read import listed, reported, whole


def test_counts_and_order_by_hand():
    """Three labels of four examples; two are missed, two are given that are not true, the surest mistake first."""
    true = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]], bool)
    chances = np.array([[0.9, 0.6, 0.1], [0.45, 0.8, 0.2], [0.3, 0.02, 0.4], [0.7, 0.2, 0.95]])
    column = texts(("first", "second", "third", "fourth"))
    split = types.SimpleNamespace(labels=true, rows=np.array([5, 6, 7, 8]), input=("text", _Rows(column)))
    section = multilabel.section(split, chances, ("a", "b", "c"), ())
    assert section.title == "2 of the 5 labels of val are missed, and 2 are given that are not true"
    by_label = {row["label"]: row for row in listed(whole(section), "labels")}
    counts = {
        name: [int(row[k]) for k in row if k not in ("label", "precision", "recall", "F1")]
        for name, row in by_label.items()
    }
    assert counts == {"a": [3, 2, 1, 0], "b": [2, 1, 1, 1], "c": [0, 0, 0, 1]}
    assert [float(by_label["a"][k]) for k in ("precision", "recall", "F1")] == pytest.approx([1, 2 / 3, 4 / 5])
    assert [float(by_label["b"][k]) for k in ("precision", "recall", "F1")] == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    mistakes = [(row["row"], row["label"], row["mistake"]) for row in listed(whole(section), "mistakes")]
    assert mistakes == [("7", "b", "missed"), ("8", "c", "given"), ("5", "b", "given"), ("6", "a", "missed")]
    assert "third" in whole(section) and "its labels: b" in whole(section)


class _Rows:
    """A column whose fifth row is the first."""

    def __init__(self, column):
        self.column = column

    def name(self, row):
        return self.column.name(row - 5)


def test_no_mistake():
    """Nor a score of a label that is neither true nor given."""
    none = types.SimpleNamespace(labels=np.zeros((1, 1), bool), rows=np.array([0]), input=("text", texts(("a",))))
    (row,) = listed(whole(multilabel.section(none, np.zeros((1, 1)), ("a",), ())), "labels")
    assert (row["examples with it"], row["F1"], row["recall"]) == ("0", "", "")
    split = types.SimpleNamespace(labels=np.ones((1, 1), bool), rows=np.array([0]), input=("text", texts(("a",))))
    assert "There is no mistake on val." in whole(multilabel.section(split, np.ones((1, 1)), ("a",), ()))


@pytest.mark.system
def test_the_page_of_a_run(tmp_path):
    words = ("sun", "rain", "snow")
    lines = [f"{words[i % 3]} and {words[i % 2]},{';'.join(sorted({words[i % 3], words[i % 2]}))}" for i in range(36)]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    data = dict(source="table", path=str(tmp_path), target="labels", val_fraction=0.5)
    metrics, page = reported(tmp_path / "run", "bert_mean", dict(name="multilabel"), data)
    found = listed(page, "labels")
    right, missed, extra = (sum(int(row[name]) for row in found) for name in ("found", "missed", "given wrongly"))
    assert 2 * right / (2 * right + missed + extra) == pytest.approx(metrics["micro_f1"])
    assert len(listed(page, "mistakes")) == min(missed + extra, 24)
    assert "bins of as many decisions each" in page
