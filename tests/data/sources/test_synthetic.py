from __future__ import annotations

import numpy as np
import pytest

from jaxfer.data.sources import synthetic
from jaxfer.errors import InputError


def everything(split):
    return np.stack([split.example("image", i) for i in range(len(split))]).astype(np.float64)


def test_synthetic_classes_are_learnable_and_noise_makes_them_harder():
    def accuracy(noise):
        data = synthetic.source(image=(6, 5, 1), classes_count=3, examples=90, noise=noise)
        train, test = everything(data.splits["train"]), everything(data.splits["test"])
        means = np.stack([train[data.splits["train"].labels == c].mean(0) for c in range(3)])
        guesses = ((test[:, None] - means) ** 2).sum((2, 3, 4)).argmin(1)
        return np.mean(guesses == data.splits["test"].labels)

    assert accuracy(1.0) == 1.0
    assert accuracy(0.0) == 1.0
    assert accuracy(30.0) < 0.7


def test_synthetic_shapes_counts_and_determinism():
    data = synthetic.source(image=(4, 6, 3), classes_count=5, examples=13)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 13, "val": 5, "test": 5}
    assert data.classes == ("class_0", "class_1", "class_2", "class_3", "class_4")
    assert np.bincount(data.splits["train"].labels).tolist() == [3, 3, 3, 2, 2]
    first = data.splits["val"].example("image", 0)
    assert (first.shape, first.dtype) == ((4, 6, 3), np.uint8)
    assert synthetic.source(image=(4, 6, 3), classes_count=5, examples=13) is data, "made once in a process"
    again = synthetic.source.__wrapped__(image=(4, 6, 3), classes_count=5, examples=13)
    assert again.fingerprint == data.fingerprint
    assert synthetic.source(image=(4, 6, 3), classes_count=5, examples=14).fingerprint != data.fingerprint
    assert (everything(data.splits["val"]) != everything(data.splits["test"])).any()
    silent = synthetic.source(classes_count=2, examples=4, noise=0.0).splits["train"]
    np.testing.assert_array_equal(silent.example("image", 0), silent.example("image", 2))


def test_synthetic_regression_is_linear_in_the_image():
    data = synthetic.source(image=(3, 3, 1), examples=400, noise=0.0, target="value")
    assert data.classes == ()
    train, test = data.splits["train"], data.splits["test"]
    assert train.labels.dtype == np.float32

    def features(split):
        flat = everything(split).reshape(len(split), -1)
        return np.concatenate([flat / 255, np.ones((len(split), 1))], axis=1)

    weights, *_ = np.linalg.lstsq(features(train), train.labels, rcond=None)
    np.testing.assert_allclose(features(test) @ weights, test.labels, atol=1e-5)

    def noise(amount):
        noisy = synthetic.source(image=(3, 3, 1), examples=400, noise=amount, target="value").splits["test"]
        return noisy.labels - test.labels

    np.testing.assert_allclose(noise(5.0), 5 * noise(1.0), atol=1e-5)
    assert noise(5.0).std() == pytest.approx(0.5, rel=0.2)  # 100 examples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "vallue"}, "unknown data.target 'vallue'; nearest: 'value'"),
        ({"image": (8, 8)}, r"expected data.image to be \(height, width, channels\), all positive, found \(8, 8\)"),
        ({"image": (8, 0, 1)}, r"all positive, found \(8, 0, 1\)"),
        ({"classes_count": 0}, "found classes_count=0, examples=256, noise=1.0"),
        ({"examples": 3}, "examples >= classes_count .*, found classes_count=4, examples=3"),
        ({"noise": -1.0}, "noise >= 0, found .*noise=-1.0"),
    ],
)
def test_bad_synthetic(options, message):
    with pytest.raises(InputError, match=message):
        synthetic.source(**options)
