"""The table of predictions: its order and its numbers by hand, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

import jaxfer
from jaxfer.data.encodings.text import texts
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.training.predictions import check_task, table

# Probabilities of (a, b): 3/4 1/4, 1/10 9/10, 1/2 1/2, 1/5 4/5.
LOGITS = np.log(np.asarray([[3, 1], [1, 9], [1, 1], [1, 4]], np.float32))


def test_the_most_confident_mistakes_come_first():
    """Rows 3, 0, 2, 1 of the source; 9/10 and 3/4 are wrong, 1/2 and 4/5 are right."""
    columns = {
        "text": texts(("w", "x", "y", "z"), None),
        "label": Array(np.asarray([0, 1, 0, 1], np.int32), "class"),
        "group": Array(np.asarray(["p", "q", "p", "q"]), "group"),
    }
    split = Split.whole(**columns).take(np.asarray([3, 0, 2, 1]))
    assert table(LOGITS, split, ("a", "b")).splitlines() == [
        "mistake,row,input,group,label,predicted,probability,loss,p(a),p(b)",
        f"1,0,w,p,a,b,0.9,{math.log(10):.6g},0.1,0.9",
        f"2,3,z,q,b,a,0.75,{math.log(4):.6g},0.75,0.25",
        f",2,y,p,a,a,0.5,{math.log(2):.6g},0.5,0.5",
        f",1,x,q,b,b,0.8,{-math.log(0.8):.6g},0.2,0.8",
    ]


def test_many_classes_have_no_columns_and_pictures_in_arrays_no_names():
    label = Array(np.zeros(1, np.int32), "class")
    split = Split.whole(image=Array(np.zeros((1, 2, 2, 1), np.uint8), "image"), label=label)
    header, row = table(np.zeros((1, 21), np.float32), split, [f"c{i}" for i in range(21)]).splitlines()
    assert header == "mistake,row,label,predicted,probability,loss"
    assert row == f",0,c0,c0,{1 / 21:.6g},{math.log(21):.6g}"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("result.json", "predictions: expected a file named .csv, found '.*result.json'; rename it"),
        (
            "absent/a.csv",
            "predictions: expected a file in a folder that exists, found '.*absent/a.csv'; make its folder",
        ),
    ],
)
def test_files_that_are_refused(tmp_path, file, message):
    """Before the run is looked at."""
    with pytest.raises(InputError, match=message):
        jaxfer.evaluate(tmp_path, predictions=tmp_path / file)


def test_a_task_that_is_refused():
    with pytest.raises(
        InputError, match="expected the task 'classification', found 'regression'; use `jaxfer predict`"
    ):
        check_task("regression")
