"""Images in the tars of WebDataset."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxfer import conformance
from jaxfer.conformance import sources
from jaxfer.data.overview import copies
from jaxfer.data.sources.webdataset import source
from jaxfer.errors import InputError


def image(value, orientation=1):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.full((2, 3, 3), value, np.uint8)).save(file, "PNG", exif=exif)
    return file.getvalue()


def tar(file, members, mode="w"):
    """A tar of {name: content}."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as out:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))


def examples(first, count, **more):
    """{name: content} of images filled with 10, 20, ..., of the classes 0 and 1 in turn."""
    members = {}
    for i in range(first, first + count):
        fields = json.dumps({"site": f"s{i % 2}", "tags": ["x", f"t{i % 2}"], "age": i}).encode()
        contents = {"png": image(10 * i), "cls": b"%d\n" % (i % 2), "json": fields}
        members |= {f"d.1/{i:03}.{ending}": content for ending, content in contents.items()}
    return {**members, **more}


def fills(split):
    return [int(split.example("image", row)[0, 0, 0]) for row in range(len(split))]


def test_shards_of_splits(tmp_path):
    tar(tmp_path / "train-000000.tar", examples(0, 2))
    tar(tmp_path / "train-000001.tar", examples(2, 2))
    tar(tmp_path / "flowers-valid-00000-of-00001.tar", examples(1, 1))
    data = source(path=str(tmp_path), group=("site",))
    train = data.splits["train"]
    assert (fills(train), train.labels.tolist(), data.classes) == ([0, 10, 20, 30], [0, 1, 0, 1], ("0", "1"))
    assert train.columns["group"].values.tolist() == ["s0", "s1", "s0", "s1"]
    assert fills(data.splits["val"]) == [10]
    assert data.provenance == {"train": "train-000000.tar and 1 more", "val": "flowers-valid-00000-of-00001.tar"}
    assert copies(data.splits) == ("1 of 1 examples of val are also in train, exact copies",)
    verdicts = dict(conformance.check_source("webdataset", path=str(tmp_path)))
    assert verdicts == dict.fromkeys(verdicts) and len(verdicts) == len(sources.PROPERTIES)


def test_fields_of_json_and_folders_of_splits(tmp_path):
    tar(tmp_path / "train" / "a.tar", examples(0, 3))
    tar(tmp_path / "test" / "a.tar", examples(3, 1))
    sets = source(path=str(tmp_path), label="tags", target="labels")
    assert sets.classes == ("t0", "t1", "x")
    assert sets.splits["train"].labels.astype(int).tolist() == [[1, 0, 1], [0, 1, 1], [1, 0, 1]]
    ages = source(path=str(tmp_path), label="age", target="value")
    assert ages.splits["train"].labels.tolist() == [0, 1, 2] and ages.splits["test"].labels.tolist() == [3]
    one = source(path=str(tmp_path / "train" / "a.tar"), label="")
    assert set(one.splits["train"].columns) == {"image"}


def test_bad_examples(tmp_path):
    bad = {"e.png": b"no image", "e.cls": b"1", "f.cls": b"0", "g.png": image(5)}
    tar(tmp_path / "a.tar", examples(0, 2, **bad))
    with pytest.raises(InputError, match=r"3 of 5 rows in .* are bad \(a.tar/f has no image; a.tar/g has no 'cls'"):
        source(path=str(tmp_path), bad_rows=1)
    data = source(path=str(tmp_path), bad_rows="skip")
    assert fills(data.splits["train"]) == [0, 10]
    assert data.notes[0].startswith("3 of 5 rows in")


def test_photographs_stand_upright(tmp_path):
    tar(tmp_path / "a.tar", {"a.png": image(1, orientation=6), "a.cls": b"x"})
    data, stored = (source(path=str(tmp_path), exif_orientation=upright) for upright in (True, False))
    assert data.splits["train"].example("image", 0).shape == (3, 2, 3)
    assert stored.splits["train"].example("image", 0).shape == (2, 3, 3)
    assert data.fingerprint != stored.fingerprint and len(data.notes) == 1


def test_tars_that_can_not_be_read(tmp_path):
    tar(tmp_path / "train-0.tar", examples(0, 1), mode="w:gz")
    with pytest.raises(InputError, match="expected a tar, not compressed, found '.*train-0.tar'"):
        source(path=str(tmp_path))
    tar(tmp_path / "more.tar", examples(0, 1))
    with pytest.raises(InputError, match="expected tars such as train-000000.tar in .*, found also more.tar"):
        source(path=str(tmp_path))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="found none of train"):
        source(path=str(tmp_path / "none"))
