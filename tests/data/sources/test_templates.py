"""Texts of several columns, and the other columns that a table may have beside them."""

from __future__ import annotations

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxfer.data.sources import csv_rows, table, templates
from jaxfer.data.sources.rows import Bad
from jaxfer.errors import InputError


def test_a_template_has_the_fields_in_place_of_names():
    template = "{title}: {body} ({title}, {n.x})"
    assert templates.columns(template) == ("title", "body", "n.x")
    record = {"title": "{body}", "body": None, "n.x": 3}
    assert templates.filled(template, record) == "{body}:  ({body}, 3)"
    with pytest.raises(Bad, match="has no 'n.x'"):
        templates.filled(template, {"title": "a", "body": "b"})
    with pytest.raises(Bad, match="has no text in 'title'"):
        templates.filled("{title}!", {"title": " "})


ROWS = """title,body,label,good,bad,who,when
Fine,works,yes,1,0,ann,2021-01-02
Poor,"",no,0,1,bob,2021-01-01
"""


def read(tmp_path, **options):
    (tmp_path / "train.csv").write_text(ROWS)
    return table.source(path=str(tmp_path), **options)


def test_several_columns_make_one_text(tmp_path):
    data = read(tmp_path, template="{title}. {body}", group=("who",), time="when")
    train = data.splits["train"]
    assert [train.example("text", row) for row in range(2)] == ["Fine. works", "Poor. "]
    assert (data.classes, train.labels.tolist()) == (("no", "yes"), [1, 0])
    assert train.columns["group"].values.tolist() == ["ann", "bob"]
    day = datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert train.columns["time"].values.tolist() == [day + 86400, day]
    plain = read(tmp_path, template="{title}. {body}")
    assert plain.fingerprint != data.fingerprint
    pair = read(tmp_path, template="{title}", text_pair="label", label="who")
    assert pair.splits["train"].example("text", 0) == ("Fine", "yes")


def test_one_hot_and_several_labels_of_texts(tmp_path):
    assert read(tmp_path, text="title", one_hot=("good", "bad")).splits["train"].labels.tolist() == [0, 1]
    data = read(tmp_path, text="title", label_columns=("label", "body"), target="labels")
    assert data.classes == ("body=works", "label=no", "label=yes")
    assert data.splits["train"].labels.astype(int).tolist() == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(template="{titel}"), "data.template='titel' is not a column of"),
        (dict(template="title"), "expected data.template with columns such as '{title}. {body}', found 'title'"),
        (dict(template="{title}", text="body"), "found data.text='body' beside it"),
        (dict(text="title", group=("whom",)), "data.group='whom' is not a column of"),
        (dict(text="title", one_hot=("good", "worse")), "data.one_hot='worse' is not a column of"),
        (dict(text="title", time="who"), "has no time: 'ann'"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(InputError) as error:
        read(tmp_path, **options)
    assert message in str(error.value)


def test_rows_with_groups_and_one_hot_classes(tmp_path):
    (tmp_path / "a.csv").write_text("x,a,b,who\n1,0,1,p\n2,1,0,q\n3,0,1,p\n")
    data = csv_rows.source(path=str(tmp_path / "a.csv"), numbers=("x",), one_hot=("a", "b"), group=("who",))
    train = data.splits["train"]
    assert (data.classes, train.labels.tolist()) == (("a", "b"), [1, 0, 1])
    assert train.columns["group"].values.tolist() == ["p", "q", "p"]
    with pytest.raises(InputError, match="column 'a' is data.one_hot and an input as well"):
        csv_rows.source(path=str(tmp_path / "a.csv"), numbers=("a",), one_hot=("a", "b"))


def test_texts_and_rows_in_parquet_and_arrow(tmp_path):
    features = {
        "label": {"_type": "ClassLabel", "names": ["neg", "pos"]},
        "tags": {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["x", "y"]}},
    }
    columns = {"text": ["a", "b"], "label": [1, 0], "tags": [[0, 1], []], "x": [1.5, None]}
    content = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(content, tmp_path / "train.parquet")
    with pa.OSFile(str(tmp_path / "validation.arrow"), "wb") as out, pa.ipc.new_file(out, content.schema) as writer:
        writer.write_table(content)  # Arrow's file format, as Feather has it
    data = table.source(path=str(tmp_path))
    assert {name: split.labels.tolist() for name, split in data.splits.items()} == {"train": [1, 0], "val": [1, 0]}
    assert data.classes == ("neg", "pos") and data.splits["val"].example("text", 1) == "b"
    sets = table.source(path=str(tmp_path), label="tags", target="labels", val="none")
    assert (sets.classes, sets.splits["train"].labels.tolist()) == (("x", "y"), [[True, True], [False, False]])
    rows = csv_rows.source(path=str(tmp_path), numbers=("x",), val="none").splits["train"]
    assert [rows.example("row", i) for i in range(2)] == [{"x": 1.5}, {"x": None}]
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="expected a readable table, found '.*train.parquet'"):
        table.source(path=str(tmp_path))
