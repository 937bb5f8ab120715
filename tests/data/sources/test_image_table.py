"""Images with a table: files by name or bytes in the table, labels of every kind, groups, times and splits."""

from __future__ import annotations

import datetime
import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jaxfer import conformance
from jaxfer.conformance import sources
from jaxfer.data.sources.image_table import source
from jaxfer.errors import InputError

TABLE = """path,label,kind,colour,cat,dog,patient,taken,split
x/0.png,cat,tame,red,1,0,p1,2020-01-02,train
x/1.png,dog,wild,,0,1,p2,2020-01-01T12:00:00+00:00,dev
x/2.png,cat,wild,blue,1,0,p1,2021-05-01,test
x/3.png,dog,tame,blue,0,1,p3,2020-01-03,train
"""


def photos(root, count=4):
    """x/0.png, ...: images of 3 x 4, the i-th filled with 20 i."""
    (root / "x").mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((3, 4, 3), 20 * i, np.uint8)).save(root / "x" / f"{i}.png")
    return root


def written(root, text=TABLE, name="labels.csv"):
    photos(root)
    (root / name).write_text(text)
    return str(root)


def fills(split):
    return [int(split.example("image", row)[0, 0, 0]) for row in range(len(split))]


def test_a_folder_with_its_only_table(tmp_path):
    path = written(tmp_path)
    data = source(path=path)
    train = data.splits["train"]
    assert (data.classes, train.labels.tolist(), fills(train)) == (("cat", "dog"), [0, 1, 0, 1], [0, 20, 40, 60])
    assert data.notes == ("the table has a column 'split', which is not read; set data.split='split' to go by it",)
    assert data.provenance == {"train": "labels.csv"}
    assert source(path=f"{path}/labels.csv").fingerprint == data.fingerprint
    for file in tmp_path.rglob("*.*"):  # old enough for their stamps to tell a change
        os.utime(file, (1.7e9, 1.7e9))
    first, second = (source(path=path).splits["train"].columns["image"] for _ in range(2))
    assert first is second
    verdicts = dict(conformance.check_source("image_table", path=path))
    assert verdicts == dict.fromkeys(verdicts) and len(verdicts) == len(sources.PROPERTIES)


def test_splits_groups_and_times_by_columns(tmp_path):
    data = source(path=written(tmp_path), split="split", group=("patient",), time="taken")
    assert {name: fills(split) for name, split in data.splits.items()} == {"train": [0, 60], "val": [20], "test": [40]}
    assert data.provenance["val"] == "labels.csv, by its column 'split'"
    train = data.splits["train"]
    assert train.columns["group"].values.tolist() == ["p1", "p3"]
    assert train.columns["time"].values.tolist() == [
        datetime.datetime(2020, 1, day, tzinfo=datetime.UTC).timestamp() for day in (2, 3)
    ]
    assert data.splits["val"].columns["time"].values.tolist() == [1577880000.0]
    assert set(data.splits["test"].sealed().columns) == {"image"}


def test_one_hot_columns(tmp_path):
    path = written(tmp_path)
    data = source(path=path, one_hot=("dog", "cat"))
    assert (data.classes, data.splits["train"].labels.tolist()) == (("dog", "cat"), [1, 0, 1, 0])
    sets = source(path=path, one_hot=("dog", "cat"), target="labels").splits["train"].columns["label"]
    assert sets.kind == "classes"
    assert sets.values.tolist() == [[False, True], [True, False], [False, True], [True, False]]
    (tmp_path / "labels.csv").write_text("path,a,b\nx/0.png,1,1\nx/1.png,0.0,true\nx/2.png,,0\n")
    with pytest.raises(InputError) as error:
        source(path=path, one_hot=("a", "b"))
    assert "2 of 3 rows" in str(error.value) and "labels.csv:2 has 2 of the classes in data.one_hot" in str(error.value)
    assert "labels.csv:4 has no 0 or 1 in 'a': ''" in str(error.value)


def test_several_columns_of_labels(tmp_path):
    data = source(path=written(tmp_path), label_columns=("kind", "colour"), target="labels")
    assert data.classes == ("colour=blue", "colour=red", "kind=tame", "kind=wild")
    assert data.splits["train"].labels.astype(int).tolist() == [[0, 1, 1, 0], [0, 0, 0, 1], [1, 0, 0, 1], [1, 0, 1, 0]]


def test_values_names_without_a_suffix_and_a_folder_of_images(tmp_path):
    photos(tmp_path / "all")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"id": str(i), "age": i / 2}) + "\n" for i in range(3)))
    (tmp_path / "valid.jsonl").write_text(json.dumps({"id": "3", "age": 9}) + "\n")
    data = source(path=str(tmp_path), images="all/x", suffix=".png", label="age", target="value")
    assert (data.classes, data.splits["train"].labels.tolist(), fills(data.splits["val"])) == ((), [0, 0.5, 1], [60])
    assert data.notes == ("no column 'path': using 'id'; set data.file to use another",)


def test_a_test_table_without_labels_is_left_out(tmp_path):
    path = written(tmp_path, name="train.csv")
    (tmp_path / "test.csv").write_text("path\nx/2.png\n")
    data = source(path=path)
    assert set(data.splits) == {"train"}
    assert data.notes[0] == "test.csv has no labels and is left out: no test split; data.test names another"


def test_bad_rows_and_missing_files(tmp_path):
    path = written(tmp_path, "path,label\nx/0.png,a\nx/9.png,a\nx/1.png,\nx/2.png,b\nx/3.png,b\n")
    (tmp_path / "x" / "3.png").write_text("no image")
    with pytest.raises(InputError, match=r"2 of 5 rows in .* are bad \(labels.csv:4 has no class: ''; labels.csv:3"):
        source(path=path, bad_rows="stop")
    data = source(path=path, bad_rows=3)
    assert (fills(data.splits["train"]), data.splits["train"].labels.tolist()) == ([0, 40], [0, 1])
    assert data.notes[0].startswith("3 of 5 rows in") and data.notes[0].endswith("and left out")
    assert data.left_out == 3
    Image.fromarray(np.full((3, 4, 3), 7, np.uint8)).save(tmp_path / "x" / "9.png")  # a file that comes is seen
    assert fills(source(path=path, bad_rows="skip").splits["train"]) == [0, 7, 40]


def test_a_split_without_rows_is_refused(tmp_path):
    path = written(tmp_path, name="train.csv")
    (tmp_path / "val.csv").write_text("path,label\n")
    with pytest.raises(InputError, match=r"expected rows of val in '.*val.csv', found none"):
        source(path=path)
    (tmp_path / "val.csv").unlink()
    (tmp_path / "train.csv").write_text(TABLE.replace("train", "test"))
    with pytest.raises(InputError, match=r"expected rows of train in"):
        source(path=path, split="split")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(label="lable"), "data.label: 'lable' is not a column of 'PATH/labels.csv'; nearest: 'label'"),
        (dict(file="paht"), "data.file: 'paht' is not a column of"),
        (dict(group=("patent",)), "data.group: 'patent' is not a column of"),
        (dict(time="label"), "has no time: 'cat'"),
        (dict(split="kind"), "is of no split: 'tame' in 'kind'"),
        (dict(target="set"), "unknown data.target 'set'"),
        (dict(label_columns=("kind",)), "data.label_columns are a set of labels, found data.target='class'"),
        (dict(label_columns=("kind",), one_hot=("cat",)), "both name columns of labels; set one of the two"),
        (dict(test_fraction=1.0), "expected data.test_fraction from 0 to below 1"),
    ],
)
def test_bad_options(tmp_path, options, message):
    path = written(tmp_path)
    with pytest.raises(InputError) as error:
        source(path=path, **options)
    assert message.replace("PATH", path) in str(error.value) and "\n" not in str(error.value)


def encoded(value, orientation=1):
    """A png of 2 x 3 pixels of this value, and its path as Hugging Face's image struct."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(file, "PNG", exif=exif)
    return {"bytes": file.getvalue(), "path": f"{value}.png"}


def arrow_table(values, labels, orientation=1):
    """As `datasets` has it: images as structs, labels as indices whose names are in the metadata."""
    features = {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([encoded(v, orientation) for v in values], struct), "label": pa.array(labels)})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def saved(root, **splits):
    """A folder as `DatasetDict.save_to_disk` writes it, two files a split."""
    for name, table in splits.items():
        (root / name).mkdir(parents=True)
        files = [f"data-0000{i}-of-00002.arrow" for i in range(2)]
        for file, part in zip(files, (table.slice(0, 1), table.slice(1)), strict=True):
            with pa.OSFile(str(root / name / file), "wb") as out, pa.ipc.new_stream(out, part.schema) as writer:
                writer.write_table(part)
        (root / name / "state.json").write_text(json.dumps({"_data_files": [{"filename": f} for f in files]}))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return str(root)


def test_images_in_a_data_set_that_hugging_face_saved(tmp_path):
    path = saved(tmp_path, train=arrow_table([10, 20, 30], [0, 1, 0]), validation=arrow_table([40], [1]))
    data = source(path=path)
    assert (data.classes, data.splits["train"].labels.tolist()) == (("ant", "zebra"), [1, 0, 1])
    assert fills(data.splits["train"]) == [10, 20, 30] and fills(data.splits["val"]) == [40]
    assert data.splits["train"].example("image", 2).shape == (2, 3, 1)
    one = source(path=f"{path}/train")  # one data set by itself
    assert fills(one.splits["train"]) == [10, 20, 30]
    verdicts = dict(conformance.check_source("image_table", path=path))
    assert verdicts == dict.fromkeys(verdicts)


def test_images_in_shards_of_parquet(tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(arrow_table([10, 20], [0, 1], orientation=6), tmp_path / "data" / "train-00000-of-00002.parquet")
    pq.write_table(arrow_table([30], [0]), tmp_path / "data" / "train-00001-of-00002.parquet")
    broken = arrow_table([40, 50], [0, 1]).to_pydict()
    broken["image"][1]["bytes"] = b"no image"
    pq.write_table(pa.table(broken), tmp_path / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"1 of 5 rows .*test-00000-of-00001.parquet:2 expected a readable image"):
        source(path=str(tmp_path), label="label")
    data = source(path=str(tmp_path), bad_rows="skip", test="none")
    train = data.splits["train"]
    assert (fills(train), train.labels.tolist()) == ([10, 20, 30], [1, 0, 1])
    assert [train.example("image", row).shape for row in range(3)] == [(3, 2, 1), (3, 2, 1), (2, 3, 1)]
    assert data.notes == (
        "1 file not read (test-00000-of-00001.parquet); data.train, data.val and data.test choose the files to read",
        "2 of 3 images are turned upright by their EXIF orientation; data.exif_orientation=false leaves them as stored",
    )
    assert data.fingerprint != source(path=str(tmp_path), exif_orientation=False, test="none").fingerprint


def test_a_text_about_each_image(tmp_path):
    captions = "path,caption\nx/0.png,a red cat\nx/0.png,tame\nx/1.png,\nx/2.png,a dog\n"
    path = written(tmp_path, captions, "captions.csv")
    data = source(path=path, text="caption", label="", bad_rows=1)
    train = data.splits["train"]
    assert [train.example("text", row) for row in range(3)] == ["a red cat", "tame", "a dog"]
    assert (fills(train), data.classes, set(train.columns)) == ([0, 0, 40], (), {"image", "text"})
    assert "has no text in 'caption'" in data.notes[0]
    assert data.fingerprint != source(path=path, label="").fingerprint
    with pytest.raises(InputError, match="data.text: 'captions' is not a column of .*nearest: 'caption'"):
        source(path=path, text="captions", label="")
