from __future__ import annotations

import numpy as np
import pytest

from jaxfer.conformance.sources import PROPERTIES
from jaxfer.data.sources import npz
from jaxfer.errors import InputError
from tests.data import shared


def arrays(n=6, **changes):
    rng = np.random.default_rng(0)
    made = {
        "train_series": rng.normal(size=(n, 7)),
        "train_label": np.arange(n) % 2,
        "test_series": rng.normal(size=(3, 7)),
        "test_label": np.array([0, 1, 0]),
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def saved(tmp_path, **values):
    np.savez(tmp_path / "data.npz", **values)
    return str(tmp_path / "data.npz")


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 3)])
def test_series_are_float32_with_a_channel_axis(tmp_path, shape):
    values = np.random.default_rng(1).normal(size=shape)
    data = npz.source(path=saved(tmp_path, **arrays(train_series=values, test_series=values[:3])))
    train = data.splits["train"]
    assert (train.input[0], train.input[1].kind) == ("series", "series")
    np.testing.assert_array_equal(train.example("series", 2), values[2].reshape(7, -1).astype(np.float32))
    assert data.provenance["test"] == "test_series, test_label" and data.notes == ()
    assert all(check(data) is None for check in PROPERTIES)


def test_images_come_first_where_a_file_has_both(tmp_path):
    images = {f"{split}_image": np.zeros((n, 4, 5), np.uint8) for split, n in (("train", 6), ("test", 3))}
    data = npz.source(path=saved(tmp_path, **arrays(**images)))
    assert data.splits["train"].input[0] == "image"
    assert data.notes[0].startswith("2 arrays not read (test_series, train_series)")
    keys = {"image_key": "{split}_series", "label_key": "{split}_label"}
    assert npz.source(path=saved(tmp_path, **arrays(**images)), **keys).splits["train"].input[0] == "series"


def test_the_fingerprint_is_of_the_content(tmp_path):
    one = npz.source(path=saved(tmp_path, **arrays())).fingerprint
    changed = arrays()
    changed["train_series"][0, 0] += 1
    assert npz.source(path=saved(tmp_path, **arrays())).fingerprint == one
    assert npz.source(path=saved(tmp_path, **changed)).fingerprint != one


def with_value(value):
    series = np.zeros((6, 7))
    series[4, 3] = value
    return series


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_series": with_value(np.nan)}, "found NaN or infinity in 1 of 6, the first is 4; fill in or remove"),
        ({"train_series": with_value(np.inf)}, "expected finite train_series of '.*', found NaN or infinity in 1 of 6"),
        ({"train_series": with_value(1e300)}, "expected finite train_series .*, found numbers beyond float32 in 1 of"),
        ({"train_series": np.zeros((6, 7), int)}, "expected train_series of '.*' to be of floats, found int64; store"),
        ({"train_series": np.zeros(6)}, r"expected train_series to be \[n, length\(, channels\)\], found \[6\]; resh"),
        ({"train_series": np.zeros((6, 0))}, r"expected train_series to be .*, found \[6, 0\]; reshape it"),
        ({"train_label": np.arange(5)}, r"expected train_label to have shape \[6\] .*, found \[5\]; store one label"),
        ({"test_series": None}, "expected test_series and test_label in '.*', found test_label; add the other"),
    ],
)
def test_bad_series(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        npz.source(path=saved(tmp_path, **arrays(**changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes"),
    [
        ("MiddlePhalanxOutlineCorrect", {"train": 600, "test": 291}, (80, 1), 2),
        ("BasicMotions", {"train": 40, "test": 40}, (100, 6), 4),
    ],
)
def test_shared_series(name, sizes, shape, classes):
    data = npz.source(path=shared(f"timeseries/{name}.npz"))
    assert {split: len(part) for split, part in data.splits.items()} == sizes
    assert data.splits["test"].example("series", 7).shape == shape and len(data.classes) == classes
