"""What every data source must keep, on the smallest data of each that a few lines can make."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxfer import conformance
from jaxfer.conformance import sources
from jaxfer.data.split import Array, Dataset, Split
from tests.experiments import PHRASES


@pytest.fixture
def files(tmp_path):
    """Two classes of two images each, as a folder and as an npz file."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
    for row, image in enumerate(pixels):
        folder = tmp_path / "photos" / "train" / "ab"[row % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{row}.png")
    np.savez(tmp_path / "photos.npz", train_images=pixels, train_labels=np.asarray([0, 1, 0, 1]))
    return {"folder": tmp_path / "photos", "npz": tmp_path / "photos.npz"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits", {}),
        ("synthetic", {"examples": 8}),
        ("synthetic", {"examples": 8, "target": "value"}),
        ("table", {"path": PHRASES}),
        ("folder", {}),
        ("npz", {}),
    ],
    ids=["digits", "synthetic", "synthetic-regression", "table", "folder", "npz"],
)
def test_every_source_keeps(name, options, files):
    options = {"path": str(files[name]), **options} if name in files else options
    verdicts = dict(conformance.check_source(name, **options))
    assert verdicts == dict.fromkeys(verdicts) and len(verdicts) == len(sources.PROPERTIES)


def dataset(labels=(0, 1), classes=("a", "b"), dtype=np.int32, images=None, splits=("train",), fingerprint="0" * 64):
    images = np.zeros((len(labels), 2, 2, 3), np.uint8) if images is None else images
    split = Split.whole(image=Array(images, "image"), label=Array(np.asarray(labels, dtype), "class"))
    return Dataset(splits=dict.fromkeys(splits, split), classes=classes, fingerprint=fingerprint)


@pytest.mark.parametrize(
    ("check", "wrong", "message"),
    [
        (sources.it_has_a_train_split_and_known_names, dict(splits=("val",)), "no train split"),
        (sources.it_has_a_train_split_and_known_names, dict(splits=("train", "dev")), r"splits \['dev'\]"),
        (sources.labels_are_of_its_classes, dict(labels=(0, 2)), r"int32\[2\] do not fit 2 classes"),
        (sources.labels_are_of_its_classes, dict(dtype=np.int64), r"int64\[2\] do not fit"),
        (sources.labels_are_of_its_classes, dict(classes=()), "do not fit 0 classes"),
        (
            sources.examples_are_of_their_kind_and_stay_the_same,
            dict(images=np.zeros((2, 2, 2, 3), np.float32)),
            r"row 0: expected image uint8 \[height, width, channels\], found float32\[2, 2, 3\]",
        ),
        (sources.its_fingerprint_is_a_sha256, dict(fingerprint="new"), "expected 64 hex digits, found 'new'"),
    ],
)
def test_a_source_that_does_not(check, wrong, message):
    assert check(dataset()) is None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(check(dataset(**wrong)))
