"""Data sets prepared here by TFDS itself from encoded files, without TensorFlow, in a folder of the tests."""

from __future__ import annotations

import io
import pickle
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxfer.config import base, resolve
from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.encodings.text import Texts
from jaxfer.data.loader import Feed, train_batches
from jaxfer.data.prepare import DataConfig, build
from jaxfer.data.sources import tfds as source_of
from jaxfer.errors import InputError
from jaxfer.registry import SOURCES
from jaxfer.task import labels

COUNT = 10  # training images


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Image i is filled with 20 i (PNG, every third one grey, or lossless enough JPEG); its classes alternate."""

    VERSION = tfds.core.Version("1.0.0")
    SUPPORTED_VERSIONS = [tfds.core.Version("1.1.0")]

    def _info(self):
        features = {
            "photo": tfds.features.Image(shape=(None, None, 3)),
            "mask": tfds.features.Image(shape=(None, None, 1)),
            "deep": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16),
            "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["a", "b", "c"])),
            "weight": np.float32,
            "caption": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("photo", "kind")
        )

    def _split_generators(self, manager):
        return {"train": self._examples(range(COUNT)), "test": self._examples(range(10, 12))}

    def _examples(self, numbers):
        for i in numbers:
            grey = np.full((3, 4), 20 * i, np.uint8)
            pixels = grey if i % 3 == 2 else np.repeat(grey[..., None], 3, axis=2)
            yield (
                i,
                {
                    "photo": encoded(pixels, "JPEG" if i == 4 else "PNG"),
                    "mask": encoded(grey // 20, "PNG"),
                    "deep": encoded(grey, "PNG"),
                    "kind": i % 2,
                    "tags": [0, 2][: i % 3],
                    "weight": i / 4,
                    "caption": f"photo {i}",
                },
            )

    def _generate_examples(self):
        raise NotImplementedError


class TinyPairs(tfds.core.GeneratorBasedBuilder):
    """Pairs of texts, two configs, a validation split; the test labels are withheld, as GLUE's are."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="short"), tfds.core.BuilderConfig(name="long")]

    def _info(self):
        features = {
            "first": tfds.features.Text(),
            "second": tfds.features.Text(),
            "same": tfds.features.ClassLabel(num_classes=2),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        sizes = {"train": 4, "validation": 2, "test": 2}
        return {name: self._examples(name, size) for name, size in sizes.items()}

    def _examples(self, split, size):
        for i in range(size):
            words = f"{self.builder_config.name} {split} é {i}"
            yield i, {"first": words, "second": words.upper(), "same": -1 if split == "test" else i % 2}

    def _generate_examples(self):
        raise NotImplementedError


def encoded(pixels, how):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, how)
    return file.getvalue()


def prepare(builder, folder, file_format="array_record", shards=1, **which):
    made = builder(data_dir=str(folder), file_format=file_format, **which)
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("prepared")
    prepare(TinyPhotos, place, shards=2)
    for config in ("short", "long"):
        prepare(TinyPairs, place, config=config)
    return place


def photos(folder, **options):
    return source_of.source(name="tiny_photos", data_dir=str(folder), **options)


def numbers(split):
    """Which examples a split holds, in its order: image i is filled with 20 i."""
    return [round(split.example("image", row).mean() / 20) for row in range(len(split))]


def test_splits_that_are_not_read_are_noted(folder):
    data = photos(folder, train="train[:2]+train[3:]", test="none")
    assert data.provenance == {"train": "train[:2]+train[3:]"}
    assert data.notes == ("1 split not read: test (2); data.train, data.val and data.test choose the splits to read",)
    assert photos(folder).notes == ()


def test_images_and_labels_by_the_builders_own_word(folder):
    data = photos(folder)
    train, test = data.splits["train"], data.splits["test"]
    assert (set(data.splits), data.classes) == ({"train", "test"}, ("cat", "dog"))
    assert (sorted(numbers(train)), sorted(numbers(test))) == (list(range(COUNT)), [10, 11])
    assert train.labels.dtype == np.int32
    assert train.labels.tolist() == [i % 2 for i in numbers(train)]
    assert train.example("image", numbers(train).index(4)).shape == (3, 4, 3)
    assert train.example("image", numbers(train).index(5)).shape == (3, 4, 1), "grey, as a file would be"
    np.testing.assert_array_equal(train.example("image", numbers(train).index(3)), np.full((3, 4, 3), 60, np.uint8))
    assert "tensorflow" not in sys.modules


def test_splits_are_written_as_tfds_writes_them(folder):
    whole = numbers(photos(folder).splits["train"])
    data = photos(
        folder, train="train[:30%]+train[80%:]", val="train[10%:20%]+train[5:6]".replace("10%:20%", "40%:50%")
    )
    assert numbers(data.splits["train"]) == whole[:3] + whole[8:]
    assert numbers(data.splits["val"]) == whole[4:6]
    assert numbers(photos(folder, train="train[-4:]", test="none").splits["train"]) == whole[-4:]
    assert "test" not in photos(folder, test="none").splits
    assert numbers(photos(folder, train="train[:24%]").splits["train"]) == whole[:2], "2.4 examples are 2"


def test_the_features_can_be_named(folder):
    data = photos(folder, image="mask", label="tags")
    train = data.splits["train"]
    values = [int(train.example("image", row).max()) for row in range(COUNT)]
    assert (sorted(values), data.classes) == (list(range(COUNT)), ("a", "b", "c"))
    assert train.example("image", 0).shape == (3, 4, 1)
    assert data.multilabel
    assert train.labels.tolist() == [[i % 3 > 0, False, i % 3 > 1] for i in values]
    data = photos(folder, label="weight")
    assert (data.classes, data.splits["train"].labels.dtype) == ((), np.float32)
    assert data.splits["train"].labels.tolist() == [i / 4 for i in numbers(data.splits["train"])]
    data = photos(folder, text="caption")
    assert isinstance(data.splits["train"].columns["text"], Texts)
    assert data.splits["test"].example("text", 0) in ("photo 10", "photo 11")


def test_configs_versions_and_pairs_of_texts(folder):
    options = {"data_dir": str(folder), "text": "first", "text_pair": "second"}
    data = source_of.source(name="tiny_pairs/long:2.0.0", **options)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "val": 2, "test": 2}
    assert data.classes == ("0", "1")
    pairs = [data.splits["val"].example("text", row) for row in range(2)]
    assert sorted(pairs) == [(f"long validation é {i}", f"LONG VALIDATION É {i}") for i in range(2)]
    assert [int(first[-1]) for first, _ in pairs] == data.splits["val"].labels.tolist()
    short = source_of.source(name="tiny_pairs/short", **options)
    assert short.fingerprint != data.fingerprint
    # Withheld labels matter to those alone who open the test split.
    config = DataConfig(source="tfds")
    assert len(build(config, {"name": "tiny_pairs/long", **options}, seed=0, with_test=False).splits["val"]) == 2
    with pytest.raises(InputError, match="expected labels 0..1 in split 'test', found -1"):
        build(config, {"name": "tiny_pairs/long", **options}, seed=0, with_test=True)


def test_the_newest_version_is_read_unless_one_is_named(folder, tmp_path):
    shutil.copytree(folder / "tiny_photos", tmp_path / "tiny_photos")
    prepare(TinyPhotos, tmp_path, version="1.1.0")
    made = {name: source_of.source(name=name, data_dir=str(tmp_path)) for name in ("tiny_photos", "tiny_photos:1.0.0")}
    assert made["tiny_photos"].fingerprint != made["tiny_photos:1.0.0"].fingerprint == photos(folder).fingerprint


def test_the_fingerprint_is_of_every_record_in_use(folder, tmp_path):
    prints = [
        photos(folder, **options).fingerprint
        for options in ({}, {"test": "none"}, {"train": "train[:9]"}, {"image": "mask"}, {"label": "weight"})
    ]
    assert len(set(prints)) == 5
    shutil.copytree(folder / "tiny_photos", tmp_path / "tiny_photos")
    assert photos(tmp_path).fingerprint == prints[0], "where it lies does not matter"


def test_a_data_set_prepared_anew_is_read_again(tmp_path, monkeypatch):
    prepare(TinyPhotos, tmp_path)
    before = SOURCES.make("tfds", name="tiny_photos", data_dir=str(tmp_path))
    shutil.rmtree(tmp_path / "tiny_photos")
    save = encoded
    monkeypatch.setattr(sys.modules[__name__], "encoded", lambda pixels, how: save(pixels + (pixels == 60), how))
    prepare(TinyPhotos, tmp_path)
    after = SOURCES.make("tfds", name="tiny_photos", data_dir=str(tmp_path))
    assert before.fingerprint != after.fingerprint
    assert 61 in {int(after.splits["train"].example("image", row)[0, 0, 0]) for row in range(COUNT)}


def test_workers_get_a_copy_and_open_their_own_files(folder):
    split = photos(folder).splits["train"].take(np.array([7, 2, 5]))
    expected = numbers(split)  # opens the files
    copy = pickle.loads(pickle.dumps(split))
    assert (numbers(copy), len(pickle.dumps(copy))) == (expected, len(pickle.dumps(split)))
    feed = Feed(split=split, encodings=(ImageEncoding(size=(3, 4, 3), mean=(0,), std=(1,)),), targets=labels)
    (batch,) = train_batches(feed, seed=0, batch_size=3, start=0, stop=1)
    assert sorted(np.rint(batch["image"].mean(axis=(1, 2, 3)) * 255 / 20)) == sorted(expected)


def test_an_image_before_it_becomes_an_array(folder, monkeypatch):
    split = photos(folder).splits["train"].take(np.array([7, 2]))
    column, row = split.columns["image"], int(split.rows[1])
    np.testing.assert_array_equal(np.asarray(column.picture(row)), split.example("image", 1))
    monkeypatch.setattr(type(column.records), "parse", lambda *_: {"photo": b"oops"})
    with pytest.raises(
        InputError, match=r"found \"record 2 of 'train' in '.*'\" \(not in a format that Pillow reads\)"
    ):
        column.picture(row)


def test_a_relative_folder_is_looked_up_among_the_data(folder, monkeypatch):
    monkeypatch.setenv("JAXFER_DATA", str(folder.parent))
    config = base()
    config.data = {"source": "tfds", "name": "tiny_photos", "data_dir": folder.name, "train": "train[:50%]"}
    experiment = resolve(config)
    options = dict(experiment.source.options)
    assert options["train"] == "train[:50%]"
    assert experiment.identity()["data.name"] == "tiny_photos"
    assert len(source_of.source(**options).splits["train"]) == 5


BAD = {
    "no name": ({"name": ""}, "data source 'tfds' needs the name of a data set; set data.name"),
    "not prepared": (
        {"name": "tiny_photo"},
        r"'tiny_photo' is not prepared in '.*'; nearest: 'tiny_photos'.*; prepare it with "
        r"tensorflow_datasets.builder\('tiny_photo', file_format='array_record', data_dir='.*'\).download_and_prepare",
    ),
    "another version": ({"name": "tiny_photos:9.0.0"}, "'tiny_photos:9.0.0' is not prepared in"),
    "no name at all": ({"name": "a b"}, "'a b' can't be read .*expected NAME, NAME/CONFIG or NAME/CONFIG:VERSION"),
    "no folder": ({"data_dir": "nowhere"}, "data.data_dir does not exist: expected 'nowhere'"),
    "unknown split": (
        {"val": "dev"},
        r"data.val='dev' is not a split of tiny_photos/1.0.0 \(Unknown split.*; its splits: train \(10\), test \(2\)",
    ),
    "bad slice": ({"train": "train[:200%]"}, r"data.train='train\[:200%\]' is not a split of .*\[-100, 100\]"),
    "empty slice": ({"train": "train[5:3]"}, r"data.train='train\[5:3\]' holds no example"),
    "shared examples": ({"val": "train[8:]"}, "data.train='train' and data.val share 2 examples; slice them apart"),
    "all": ({"train": "all"}, "data.train='all' and data.test share 2 examples"),
    "twice": ({"train": "train+train[:3]"}, r"data.train='train\+train\[:3\]' names 3 examples twice"),
    "no train": ({"train": "none"}, "has no train split; set data.train to one of train, test"),
    "unknown feature": ({"label": "kin"}, "data.label='kin' is not a feature of tiny_photos/1.0.0; nearest: 'kind'"),
    "two inputs": ({"image": "photo", "text": "caption"}, "data.image and data.text are both set"),
    "no image": ({"image": "kind"}, "data.image='kind': expected a feature of type Image, found ClassLabel"),
    "no label": ({"label": "caption"}, "data.label='caption': expected a ClassLabel, a Sequence of them or a number"),
    "16 bits": ({"image": "deep"}, "data.image='deep': expected 8-bit images, found uint16"),
    "unclear input": ({"name": "tiny_pairs"}, "set data.image to one of 'first', 'same', 'second' or data.text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(folder, case):
    options, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        source_of.source(**{"name": "tiny_photos", "data_dir": str(folder), **options})
    assert "\n" not in str(caught.value)


def test_other_formats_damaged_records_and_images_that_are_none(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "tiny_photos", tmp_path / "tiny_photos")
    info = tmp_path / "tiny_photos/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(InputError, match="expected tiny_photos/1.0.0 as array_record in '.*', found tfrecord; remove"):
        photos(tmp_path)
    info.write_text(info.read_text().replace('"tfrecord"', '"array_record"'))
    next(info.parent.glob("*train*00001-of-00002")).write_bytes(b"")
    with pytest.raises(InputError, match="the records of 'train' in '.*' can't be read .*; remove the folder"):
        photos(tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "encoded", lambda pixels, how: b"oops")
    prepare(TinyPhotos, tmp_path / "broken")
    with pytest.raises(
        InputError,
        match=r"12 of 12 records in '.*' are bad \(expected a readable image, found .*record 0 of 'train'.* \(not in a "
        r"format that Pillow reads\); .*; \.\.\.\); prepare it again, or leave them out with data\.bad_rows=12",
    ):
        photos(tmp_path / "broken")


def test_bad_records_are_left_out(folder, tmp_path, monkeypatch):
    """The third image that is read in each split is none; the labels of the others stay with them."""
    whole, count, of = photos(folder), [], source_of.verify

    def third_fails(image, name):
        count.append(name)
        return of(b"oops" if count[-1].startswith("record 2 of 'train'") else image, name)

    monkeypatch.setattr(source_of, "verify", third_fails)
    source_of._read.cache_clear()
    with pytest.raises(InputError, match=r"1 of 12 records in .*; prepare it again, or leave them out"):
        photos(folder)
    source_of._read.cache_clear()
    data = photos(folder, bad_rows=1)
    source_of._read.cache_clear()
    assert (
        len(data.bad) == 1
        and "record 2 of 'train'" in data.bad[0]
        and data.notes
        == (f"1 of 12 records in {str(folder / 'tiny_photos/1.0.0')!r} are bad ({data.bad[0]}) and left out",)
    )
    kept = [row for row in range(COUNT) if row != 2]
    assert numbers(data.splits["train"]) == [numbers(whole.splits["train"])[row] for row in kept]
    assert data.splits["train"].labels.tolist() == whole.splits["train"].labels[kept].tolist()
    assert numbers(data.splits["test"]) == numbers(whole.splits["test"])


def test_records_that_are_no_examples_and_texts_in_another_encoding(folder, monkeypatch):
    parse = source_of.Records.parse
    texts = dict(name="tiny_pairs/long", data_dir=str(folder), test="none", text="first", text_pair="second")

    def changed(records, example):
        values = parse(records, example)
        if b"train" in values["first"] and values["first"].endswith(b"1"):
            return parse(records, b"no example")
        return {**values, "second": b"\xff"} if values["first"].endswith(b"train \xc3\xa9 3") else values

    whole = source_of.source(**texts)
    monkeypatch.setattr(source_of.Records, "parse", changed)
    source_of._read.cache_clear()
    data = source_of.source(**texts, bad_rows="skip")
    source_of._read.cache_clear()
    unparsed, other = sorted(data.bad, key=lambda line: "UTF-8" in line)
    assert "can't be parsed (" in unparsed and other.endswith("is not UTF-8 (invalid start byte)")
    left = [whole.splits["train"].example("text", row)[0] for row in range(4)]
    assert len(data.splits["train"]) == 2
    assert [data.splits["train"].example("text", row)[0] for row in range(2)] == [
        text for text in left if not text.endswith(("1", "3"))
    ]


def test_without_the_package(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"needs the package tensorflow-datasets .*; pip install 'jaxfer\[tfds\]'"):
        photos(folder)
