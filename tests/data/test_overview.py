"""The first lines of `show` and `run`, whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.encodings.text import TextEncoding, texts
from jaxfer.data.overview import copies, overview
from jaxfer.data.prepare import DataConfig, build, prepare
from jaxfer.data.sources import npz
from jaxfer.data.split import Array, Dataset, Split

from . import shared

IMAGES = ImageEncoding(size=(4, 4, 3))
TEXTS = TextEncoding(
    tokenizer=str(Path(__file__).parent / "tokenizer"),
    tokenizer_sha256="",
    vocab=23,
    types=2,
    max_length=7,
    buckets=(4, 7),
)


def lines(source, options, config, encoding=IMAGES, *, with_test=False, seed=3):
    data = build(config, options, seed=seed, with_test=with_test)
    return overview(source, options, data, (encoding,)).splitlines()


def test_images_in_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"train/{name}/{i}.png" for name in ("cat", "dog", "emu") for i in range(10)]
    photos = tmp_path / "photos"
    for value, name in enumerate([*names, "test/dog/0.png", "test/emu/1.png", "train/dog/x.tif", "train/y.png"]):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(photos / name)
    (photos / "test/dog/copy.png").write_bytes((photos / "train/dog/3.png").read_bytes())
    (photos / "test/emu/copy.png").write_bytes((photos / "train/cat/3.png").read_bytes())  # cats are left out
    options = {"path": "photos"}
    config = DataConfig(source="folder", classes=("emu", "dog"), labels_per_class=8, val_per_class=2)
    assert lines("folder", options, config) == [
        "data: folder photos · images of 2 classes",
        "  class   train     val    test",
        "  emu         8       2       -",
        "  dog         8       2       -",
        "  all        16       4       4",
        "  train  train/; drawn from 16: data.labels_per_class=8, seed 3",
        "  val    drawn from train: data.val_per_class=2",
        "  test   test/, sealed: config.test=true opens it",
        "  note: 1 file left out by suffix (1 .tif); data.suffixes lists those to read",
        "  note: 1 file left out beside the class folders (1 .png); move them into one",
        "  note: data.classes keeps 2 of 3 classes, 20 of 30 training examples",
        "  note: 1 of 4 examples of test are also in train, exact copies",
    ]
    opened = lines("folder", options, DataConfig(source="folder"), with_test=True)
    assert opened[2:8] == [
        "  cat         9       1       0",
        "  dog         9       1       2",
        "  emu         9       1       2",
        "  all        27       3       4",
        "  train  train/",
        "  val    drawn from train: data.val_fraction=0.1",
    ]
    assert opened[8:] == [
        "  test   test/",
        "  note: 1 file left out by suffix (1 .tif); data.suffixes lists those to read",
        "  note: 1 file left out beside the class folders (1 .png); move them into one",
        "  note: 1 of 4 examples of test are also in train, exact copies",
        "  note: 1 of 4 examples of test are also in val, exact copies, 1 with another",  # val was drawn from train
        "    label",
    ]


def test_pairs_of_texts_and_their_cuts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = "it was a very very very bad film"
    rows = [
        f"{word}\t{long if word == 'bad' else 'a'}\t{i}.5" for i, word in enumerate(["good", "bad", "film", "song"])
    ]
    for name in ("train", "test"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    options = {"path": ".", "target": "value"}
    assert lines("table", options, DataConfig(source="table", val_fraction=0.25), TEXTS) == [
        "data: table . · pairs of texts, a number each",
        "  target   train     val    test",
        "  mean       1.5     3.5       -",
        "  std     0.8165       0       -",
        "  least      0.5     3.5       -",
        "  most       2.5     3.5       -",
        "  all          3       1       4",
        "  train  train.tsv",
        "  val    drawn from train: data.val_fraction=0.25",
        "  test   test.tsv, sealed: config.test=true opens it",
        "  note: no column 'text': using 'sentence1' and 'sentence2' as pairs; set",
        "    data.text and data.text_pair to use others",
        "  note: no column 'label': using 'score'; set data.label to use another",
        "  note: 3 of 4 examples of test are also in train, exact copies",
        "  note: 1 of 4 examples of test are also in val, exact copies",
        "  note: texts are cut at 7 tokens, the longest has 12; config.model.max_length",
        "    sets it (1 of 3 in train)",
    ]


def test_texts_that_are_cut_are_counted_once_with_the_option():
    first = ("good", "it was a very very very bad film", "it was a bad film", "a good song and a very very bad plot")
    whole = Split.whole(text=texts(first), label=Array(np.zeros(4, np.int32), "class"))
    data = Dataset(splits={"train": whole, "val": whole.take(np.array([0, 2]))}, classes=("x",), fingerprint="")
    assert TEXTS.notes(data, 0) == (
        "texts are cut at 7 tokens, the longest has 11; config.model.max_length sets it (2 of 4 in train)",
    )
    assert TEXTS.notes(data, 2) == (
        "texts are cut at 7 tokens, the longest has 11; config.model.max_length sets it (1 of 2 sampled in train)",
    )
    assert dataclasses.replace(TEXTS, max_length=11, buckets=(11,)).notes(data, 0) == ()


def test_sets_of_labels_and_many_classes():
    labels = np.zeros((20, 14), bool)
    for row in range(20):
        labels[row, : row // 2] = True
    names = ("a" * 31, "two\nlines", *(f"finding {i}" for i in range(12)))
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    split = Split.whole(image=Array(images, "image"), label=Array(labels, "classes"))
    data = Dataset(splits={"train": split, "val": split.take(np.arange(4))}, classes=names, fingerprint="")
    text = overview("mine", {}, prepare(data, DataConfig(), seed=0, with_test=True), (IMAGES,))
    assert text.splitlines() == [
        "data: mine · images, any of 14 classes each",
        "  class                            train     val",
        "  aaaaaaaaaaaaaaa...aaaaaaaaaaaa      18       2",
        "  two\\nlines                          16       0",
        "  finding 0                           14       0",
        "  finding 1                           12       0",
        "  finding 2                           10       0",
        "  finding 3                            8       0",
        "  (2 more)",
        "  finding 6                            2       0",
        "  finding 7                            0       0",
        "  finding 8                            0       0",
        "  finding 9                            0       0",
        "  finding 10                           0       0",
        "  finding 11                           0       0",
        "  (none)                               2       2",
        "  all                                 20       4",
        "  train  the source's own",
        "  val    the source's own",
        "  note: 4 of 4 examples of val are also in train, exact copies",
    ]


def test_a_path_that_is_not_utf8_can_be_printed():
    images = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1)
    split = Split.whole(image=Array(images, "image"), label=Array(np.zeros(2, np.float32), "value"))
    data = Dataset(splits={"train": split}, classes=(), fingerprint="")
    text = overview("folder", {"path": "caf\udce9"}, data, (IMAGES,))
    assert text.splitlines()[0] == "data: folder caf\\udce9 · images, a number each"


def test_copies_are_told_from_files_that_are_alike_at_both_ends(tmp_path):
    for name, middle in (("train/a/0", 1), ("train/a/1", 2), ("val/a/0", 3), ("val/a/1", 2)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((100, 100, 3), np.uint8)
        pixels[50] = middle
        Image.fromarray(pixels).save(tmp_path / f"{name}.bmp")
    data = build(DataConfig(source="folder"), {"path": str(tmp_path)}, seed=0, with_test=False)
    assert copies(data.splits) == ("1 of 2 examples of val are also in train, exact copies",)


class Lazy:
    """A user's own column: it has no keys."""

    kind, sha256 = "image", "0" * 64

    def __len__(self):
        return 3

    def __getitem__(self, row):
        return np.zeros((2, 2, 1), np.uint8)


class Huge(Lazy):
    key_bytes = 2**30

    def key(self, row):
        raise AssertionError("read")


@pytest.mark.parametrize(
    ("column", "why"), [(Lazy(), "the data source has no keys"), (Huge(), "3.0 GiB to read")], ids=["keyless", "huge"]
)
def test_copies_that_are_not_looked_for_are_said(column, why):
    split = Split.whole(image=column, label=Array(np.zeros(3, np.int32), "class"))
    assert copies({"train": split}) == (f"duplicates across splits were not checked: {why}",)


def test_real_copies():
    data = npz.source(path=shared("vision/pneumonia_mnist.npz"))
    assert copies(data.splits) == ("8 of 524 examples of val are also in train, exact copies",)
    assert copies({name: data.splits[name] for name in ("train", "test")}) == ()


def test_copies_that_differ_a_little_and_copies_with_other_labels():
    train = Split.whole(
        text=texts(("a b", "a b", "c", "D  e", "d e")), label=Array(np.array([0, 1, 0, 1, 1], np.int32), "class")
    )
    val = Split.whole(text=texts(("c", "a  B", "f", "d e")), label=Array(np.array([1, 0, 0, 1], np.int32), "class"))
    assert copies({"train": train, "val": val}) == (
        "2 of 4 examples of val are also in train, exact copies, 1 with another label",
        "1 of 4 examples of val are in train but for case and spaces",
        "2 of 5 examples of train have exact copies there with another label",
    )
    assert copies({"train": train, "test": val.sealed()}) == (
        "2 of 4 examples of test are also in train, exact copies",
        "1 of 4 examples of test are in train but for case and spaces",
        "2 of 5 examples of train have exact copies there with another label",
    )


def test_groups_are_counted():
    groups = Array(np.asarray(["a", "b", "b", "b", "c", "c"]), "group")
    images, label = Array(np.zeros((6, 4, 4, 3), np.uint8), "image"), Array(np.zeros(6, np.int32), "class")
    split = Split.whole(image=images, label=label, group=groups)
    data = Dataset(
        splits={"train": split.take(np.arange(5)), "val": split.take(np.arange(3))}, classes=("x",), fingerprint=""
    )
    notes = [line for line in overview("mine", {}, data, (IMAGES,)).splitlines() if "groups" in line]
    assert notes == [
        "  note: groups of train: 3, the largest 'b' (3 examples), the smallest 'c' (1)",
        "  note: groups of val: 2, the largest 'b' (2 examples), the smallest 'a' (1)",
    ]
