from __future__ import annotations

import json

import numpy as np
import pytest

from jaxfer.conformance.sources import PROPERTIES
from jaxfer.data.sources import csv_rows
from jaxfer.errors import InputError
from tests.data import shared

TABLE = """age,chol,sex,ill
63,233,m,1
67,0,f,0
?,199,,1
40,,m,0
"""
NAMED = {"numbers": ("age", "chol"), "categories": ("sex",), "label": "ill"}


def written(tmp_path, content=TABLE, name="train.csv"):
    (tmp_path / name).write_text(content)
    return str(tmp_path / name)


def read(tmp_path, content=TABLE, **options):
    return csv_rows.source(path=written(tmp_path, content), **{**NAMED, "missing": ("?",), **options})


def test_rows(tmp_path):
    data = read(tmp_path, zero_is_missing=("chol",))
    train = data.splits["train"]
    assert data.classes == ("0", "1") and train.labels.tolist() == [1, 0, 1, 0]
    assert [train.example("row", i) for i in range(4)] == [
        {"age": 63.0, "chol": 233.0, "sex": "m"},
        {"age": 67.0, "chol": None, "sex": "f"},
        {"age": None, "chol": 199.0, "sex": None},
        {"age": 40.0, "chol": None, "sex": "m"},
    ]
    assert all(check(data) is None for check in PROPERTIES)


def test_zero_is_a_number_unless_it_is_said_to_be_missing(tmp_path):
    zero, missing = read(tmp_path), read(tmp_path, zero_is_missing=("chol",))
    assert zero.splits["train"].example("row", 1)["chol"] == 0.0
    assert zero.fingerprint != missing.fingerprint


def test_json_lines_and_a_folder_of_splits(tmp_path):
    records = [
        {"age": 3, "chol": None, "sex": "m", "ill": "no"},
        {"age": 4.5, "sex": True, "ill": "yes"},
        {"age": 1, "chol": 2, "ill": "no"},
    ]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    data = csv_rows.source(path=str(tmp_path), **NAMED)
    assert set(data.splits) == {"train", "test"} and data.classes == ("no", "yes")
    assert data.splits["test"].example("row", 1) == {"age": 4.5, "chol": None, "sex": "true"}


def test_regression(tmp_path):
    data = read(tmp_path, numbers=("age",), label="sex", target="value", content="age,sex\n1,2.5\n2,3\n", categories=())
    assert data.classes == () and data.splits["train"].labels.tolist() == [2.5, 3.0]


def test_groups(tmp_path):
    """Named by one column or by two; they follow their rows, and are sealed with a test split."""
    content = TABLE.replace(",,1", ",f,1")
    data, plain = read(tmp_path, content, group=("ill", "sex")), read(tmp_path, content)
    train = data.splits["train"]
    assert train.groups.tolist() == ["1, m", "0, f", "1, f", "0, m"]
    assert train.take(np.asarray([2, 0])).groups.tolist() == ["1, f", "1, m"]
    assert train.sealed().groups is None and plain.splits["train"].groups is None
    assert len({data.fingerprint, plain.fingerprint, read(tmp_path, content, group=("sex",)).fingerprint}) == 3


def test_a_share_of_each_class_is_test(tmp_path):
    rows = "age,chol,sex,ill\n" + "".join(f"{i},1,m,{i % 2}\n" for i in range(20))
    data = read(tmp_path, rows, test_fraction=0.3)
    assert np.bincount(data.splits["test"].labels).tolist() == [3, 3] and len(data.splits["train"]) == 14
    assert data.provenance["test"] == "drawn from train.csv: data.test_fraction=0.3"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (TABLE, {"numbers": ("age", "cholest")}, "data.numbers: 'cholest' is not a column of '.*'; nearest: 'chol'"),
        (TABLE, {"categories": ("gender",)}, "data.categories: 'gender' is not a column of '.*'; "),
        (TABLE, {"label": "disease"}, "data.label: 'disease' is not a column of '.*'; "),
        (TABLE, {"missing": ()}, r"1 of 4 rows in '.*' are bad \(train.csv:4 has no number in 'age': '\?'\); correct"),
        (
            TABLE + "old,1,m,0\n",
            {},
            r"1 of 5 rows .*train.csv:6 has no number in 'age': 'old'\); correct them, or name",
        ),
        (TABLE + "nan,1,m,0\n", {}, "has no number in 'age': 'nan'"),
        (TABLE + "1e39,1,m,0\n", {}, "has no number in 'age': '1e39'"),
        (TABLE + "50,1,m,\n", {}, "train.csv:6 has no class: ''"),
        (TABLE + "50,1,m\n", {}, "train.csv:6 has 3 fields for 4 columns"),
        ("age,chol,sex,ill\n", {}, "expected rows in '.*', found none; add some or remove the file"),
        (TABLE, {"numbers": (), "categories": ()}, "expected columns to read, found none; name them in data.numbers"),
        (TABLE, {"categories": ("sex", "age")}, "column 'age' occurs twice in data.numbers and data.categories"),
        (TABLE, {"categories": ("ill",)}, "column 'ill' is data.label and an input as well"),
        (TABLE, {"zero_is_missing": ("sex",)}, "data.zero_is_missing: 'sex' is not in data.numbers; known: age, chol"),
        (TABLE, {"group": ("sex",)}, "train.csv:4 has no group in 'sex'"),
        (TABLE, {"group": ("sec",)}, "data.group: 'sec' is not a column of '.*'; nearest: 'sex'"),
        (TABLE, {"group": ("sex",), "target": "value"}, "train.csv:4 has no group in 'sex'"),
        (TABLE, {"target": "labels"}, "unknown data.target 'labels'"),
        (TABLE, {"test_fraction": 1.0}, "expected data.test_fraction from 0 to below 1, found 1.0"),
    ],
)
def test_bad_tables(tmp_path, content, options, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, content, **options)
    assert "\n" not in str(caught.value)


def test_labels_that_train_lacks_and_a_second_test_split(tmp_path):
    written(tmp_path)
    (tmp_path / "test.csv").write_text("age,chol,sex,ill\n1,2,m,7\n")
    options = {**NAMED, "missing": ("?",)}
    with pytest.raises(InputError, match="expected the labels of train, found '7' in '.*test.csv'; remove its rows"):
        csv_rows.source(path=str(tmp_path), **options)
    (tmp_path / "test.csv").write_text("age,chol,sex,ill\n1,2,m,1\n")
    with pytest.raises(InputError, match="data.test_fraction=0.5 has no effect where a test file exists; set it to 0"):
        csv_rows.source(path=str(tmp_path), **options, test_fraction=0.5)


@pytest.mark.parametrize(("clinic", "rows", "ill"), [("cleveland", 303, 139), ("switzerland", 123, 115)])
def test_shared_rows(clinic, rows, ill):
    data = csv_rows.source(
        path=shared(f"tabular/heart/{clinic}.csv"),
        numbers=("age", "chol"),
        categories=("thal",),
        label="disease",
        zero_is_missing=("chol",),
    )
    train = data.splits["train"]
    assert (len(train), int(train.labels.sum())) == (rows, ill)
    absent = sum(train.example("row", i)["chol"] is None for i in range(rows))
    assert absent == (rows if clinic == "switzerland" else 0)


def test_bad_rows_may_be_left_out(tmp_path):
    content = TABLE + "old,1,m,0\n50,1,m\n50,1,m,\n"
    with pytest.raises(InputError, match=r"3 of 7 rows in .*; correct them, or name what means missing .*bad_rows=3"):
        read(tmp_path, content, bad_rows=2)
    data = read(tmp_path, content, bad_rows="skip")
    assert data.bad == (
        "train.csv:6 has no number in 'age': 'old'",
        "train.csv:7 has 3 fields for 4 columns",
        "train.csv:8 has no class: ''",
    )
    assert data.notes[0].startswith("3 of 7 rows in ") and data.notes[0].endswith("and left out")
    assert data.fingerprint == read(tmp_path).fingerprint and read(tmp_path).bad == ()
    with pytest.raises(InputError, match="expected rows in '.*', found none"):
        read(tmp_path, "age,chol,sex,ill\nold,1,m,0\n", bad_rows="skip")
