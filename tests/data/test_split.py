"""Splits: rows of named columns."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from jaxfer.data.encodings.text import texts
from jaxfer.data.sources.folder import Files
from jaxfer.data.split import Array, Dataset, Split

PIXELS = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
LABELS = np.asarray([0, 1, 2, 2, 1, 0], np.int32)


def whole():
    """Image i holds the value i everywhere; the mask of an example is a target that isn't its label."""
    mask = Array(PIXELS[..., 0] > 2, "mask")
    return Split.whole(image=Array(PIXELS, "image"), label=Array(LABELS, "class"), mask=mask)


def values(split):
    return [int(split.example("image", row).max()) for row in range(len(split))]


def test_all_rows_in_their_order():
    split = whole()
    assert (len(split), split.rows.tolist(), values(split)) == (6, list(range(6)), list(range(6)))
    assert split.labels.tolist() == LABELS.tolist() and split.labels.dtype == np.int32
    assert split.input == ("image", split.columns["image"])


def test_a_subset_of_a_subset_counts_in_the_subset():
    first = whole().take(np.asarray([5, 3, 1, 3]))
    assert (values(first), first.labels.tolist()) == ([5, 3, 1, 3], [0, 2, 1, 2])
    second = first.take(np.asarray([2, 0, 0]))
    assert (second.rows.tolist(), values(second), second.labels.tolist()) == ([1, 5, 5], [1, 5, 5], [1, 0, 0])
    assert second.columns is first.columns, "nothing is copied"
    assert len(second.take(np.arange(0))) == 0 and second.take(np.arange(0)).labels.tolist() == []


def test_an_example_has_every_field():
    split = whole().take(np.asarray([4, 2]))
    assert split.example("image", 0).tolist() == PIXELS[4].tolist()
    assert [split.example("mask", row).all() for row in range(2)] == [True, False]
    assert split.example("label", 1) == 2


def test_a_column_is_added_or_replaced_and_keeps_the_rows():
    split = whole().take(np.asarray([4, 2]))
    changed = split.with_column("label", Array(LABELS * 10, "class")).with_column("text", texts(tuple("abcdef")))
    assert (changed.labels.tolist(), changed.rows.tolist()) == ([10, 20], [4, 2])
    assert [changed.example("text", row) for row in range(2)] == ["e", "c"]
    assert split.labels.tolist() == [1, 2] and "text" not in split.columns, "the split itself is as it was"


def test_a_sealed_split_has_inputs_alone():
    sealed = whole().with_column("text", texts(tuple("abcdef"))).take(np.asarray([3, 0])).sealed()
    assert set(sealed.columns) == {"image", "text"}
    assert (len(sealed), sealed.labels, values(sealed)) == (2, None, [3, 0])


def test_what_labels_are():
    image = Array(PIXELS, "image")
    assert Split.whole(image=image).labels is None
    assert Split.whole(image=image, label=Array(PIXELS[..., 0], "mask")).labels is None, "one mask is no label"
    sets = Split.whole(image=image, label=Array(np.eye(6, 3, dtype=bool), "classes"))
    assert sets.take(np.asarray([1, 5])).labels.tolist() == [[False, True, False], [False] * 3]
    numbers = Split.whole(image=image, label=Array(np.linspace(0, 1, 6, dtype=np.float32), "value"))
    kinds = [Dataset(splits={"train": split}, classes=(), fingerprint="").multilabel for split in (sets, numbers)]
    assert kinds == [True, False] and numbers.labels.dtype == np.float32


def test_columns_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"expected columns of one length, found \{'image': 6, 'label': 5\}"):
        Split.whole(image=Array(PIXELS, "image"), label=Array(LABELS[:5], "class"))


def test_a_pickled_split_is_the_same_split():
    split = whole().take(np.asarray([5, 0, 3]))
    assert split.labels.tolist() == [0, 0, 2]  # computed once, and not carried along
    again = pickle.loads(pickle.dumps(split))
    assert (again.rows.tolist(), values(again), again.labels.tolist()) == ([5, 0, 3], [5, 0, 3], [0, 0, 2])
    assert again.columns["image"].sha256 == split.columns["image"].sha256


def test_equal_content_has_one_sha256_and_any_change_another():
    same = [Array(PIXELS, "image"), Array(PIXELS.copy(), "image"), Array(PIXELS[::-1][::-1], "image")]
    assert len({column.sha256 for column in same}) == 1
    changed = PIXELS.copy()
    changed[5, 1, 2, 0] += 1
    others = [
        Array(changed, "image"),
        Array(PIXELS[:5], "image"),
        Array(PIXELS.reshape(6, 3, 2, 1), "image"),
        Array(PIXELS.astype(np.int32), "image"),
        Array(PIXELS, "features"),
    ]
    assert len({column.sha256 for column in (same[0], *others)}) == 6
    assert all(len(column.sha256) == 64 for column in others)


def test_files_of_the_same_content_have_one_sha256_wherever_they_lie(tmp_path):
    def written(place, last):
        (tmp_path / place).mkdir()
        for name, value in (("0.png", 10), ("1.png", last)):
            Image.fromarray(np.full((3, 4, 3), value, np.uint8)).save(tmp_path / place / name)
        return Files(tmp_path / place, ("0.png", "1.png"))

    first, same, other = written("a", 20), written("b", 20), written("c", 30)
    assert first.sha256 == same.sha256 != other.sha256
    assert (len(first), first.kind, first[1].tolist()) == (2, "image", np.full((3, 4, 3), 20).tolist())


def test_equal_examples_of_a_column_have_equal_keys():
    column = Array(np.concatenate([PIXELS, PIXELS[2:3]]), "image")
    assert column.key(6) == column.key(2) and len({column.key(row) for row in range(7)}) == 6
    assert column.key_bytes == 6  # uint8 [2, 3, 1]
