"""Groups of files from a table beside them."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from jaxfer.data.prepare import DataConfig, prepare
from jaxfer.data.sources import folder
from jaxfer.errors import InputError
from tests.data import shared

TABLE = "file\tlabel\tplace\ntrain/cat/a.png\tcat\tsea\ntrain/dog/b.png\tdog\tland\ntest/dog/c.png\tdog\tsea\n"


@pytest.fixture
def photos(tmp_path):
    for name in ("train/cat/a.png", "train/dog/b.png", "test/dog/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "metadata.tsv").write_text(TABLE)
    return tmp_path


def test_groups_of_every_split(photos):
    data = folder.source(path=str(photos), group=("label", "place"))
    assert {name: split.groups.tolist() for name, split in data.splits.items()} == {
        "train": ["cat, sea", "dog, land"],
        "test": ["dog, sea"],
    }
    assert folder.source(path=str(photos)).splits["train"].groups is None
    other = folder.source(path=str(photos), group=("place",))
    assert len({data.fingerprint, other.fingerprint, folder.source(path=str(photos)).fingerprint}) == 3


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (None, {}, "data.group: expected a table at '.*/metadata.tsv', found none; add it or set data.group_table"),
        (TABLE, {"group_table": "a.csv"}, "expected a table at '.*/a.csv'"),
        (TABLE, {"group": ("plaice",)}, "data.group: 'plaice' is not a column of '.*'; nearest: 'place'"),
        (TABLE.replace("file", "path"), {}, "data.group: 'file' is not a column of '.*'"),
        (TABLE.replace("\tland", "\t"), {}, "metadata.tsv:3 of '.*' has no group in 'place'; correct it"),
        (TABLE.replace("dog/c", "dog/d"), {}, "lacks 1 of 1 files of test, the first is 'test/dog/c.png'; add their"),
    ],
)
def test_what_is_refused(photos, table, options, message):
    (photos / "metadata.tsv").unlink()
    if table is not None:
        (photos / "metadata.tsv").write_text(table)
    with pytest.raises(InputError, match=message) as caught:
        folder.source(path=str(photos), **{"group": ("place",), **options})
    assert "\n" not in str(caught.value)


def test_pets_on_light_and_dark_grounds():
    """The counts that its authors give; validation is drawn with its groups, and the sealed test has none."""
    data = folder.source(path=shared("vision/pets_bias"), group=("label", "group"))
    counts = {"cat, light": 180, "cat, dark": 45, "dog, dark": 70, "dog, light": 12}
    assert Counter(data.splits["train"].groups) == counts
    assert set(Counter(data.splits["test"].groups).values()) == {30}
    ready = prepare(data, dataclasses.replace(DataConfig(), val_fraction=0.2), seed=0, with_test=False)
    assert Counter(ready.splits["train"].groups) + Counter(ready.splits["val"].groups) == counts
    assert ready.sealed.groups is None
