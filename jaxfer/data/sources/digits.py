"""Handwritten digits that come with scikit-learn: 1,797 images of 8 x 8, ten classes; no download."""

from __future__ import annotations

import functools

import numpy as np
from sklearn.datasets import load_digits

from jaxfer.data.lookup import fingerprint
from jaxfer.data.order import Stream, bits, draw, permutation
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError

TEST_PER_CLASS = 50


@functools.lru_cache(maxsize=8)
def source(*, noise: float = 0.0, mixed_labels: bool = False) -> Dataset:
    """uint8 [8, 8, 1], classes `0` to `9`; `test` is a fixed draw of 50 a class, the other 1,297 are `train`.

    Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), its test part.

    Args:
      noise: standard deviation of Gaussian noise added to each pixel, in grey levels of 255: a bad scanner. The draw is
        fixed, so an image looks the same in every run.
      mixed_labels: permute the labels among the training images, in one fixed draw: a source to learn nothing from.

    Raises:
      InputError: negative noise.
    """
    if noise < 0:
        raise InputError(f"expected data.noise >= 0 grey levels, found {noise}; 0 is the default")
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    test, train = draw(labels, seed=0, stream=Stream.TEST, per_class=TEST_PER_CLASS)
    if noise:
        draws = np.random.Generator(bits(0, Stream.SYNTHETIC)).standard_normal(images.shape)
        images = np.rint(images + noise * draws).clip(0, 255).astype(np.uint8)
    if mixed_labels:
        labels[train] = labels[train][permutation(len(train), 0, Stream.SYNTHETIC)]
    everything = Split.whole(image=Array(images, "image"), label=Array(labels, "class"))
    return Dataset(
        splits={"train": everything.take(train), "test": everything.take(test)},
        classes=tuple(str(digit) for digit in range(10)),
        fingerprint=fingerprint([images, labels, train, test]),
        provenance={"train": "scikit-learn's digits", "test": f"drawn from the same, {TEST_PER_CLASS} a class"},
    )
