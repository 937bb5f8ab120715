"""__NAME__: images of bars, upright or lying; replace `_draw` by reading your files.

A source yields splits with random access and the names of the classes. A column decodes a row when it is asked for, in
loader processes too, so it must be picklable: `jaxfer.data.split.Column`.
"""

import numpy as np

from jaxfer.data.lookup import fingerprint
from jaxfer.data.split import Array, Dataset, Split

CLASSES = ("lying", "upright")


def source(*, examples: int = 200, size: int = 8):
    """Keyword arguments are options: `--config.data.size=16`. Without a `val` split, one is drawn from `train`."""
    splits, parts = {}, []
    for seed, name in enumerate(("train", "test")):
        images, labels = _draw(np.random.default_rng(seed), examples, size)
        splits[name] = Split.whole(image=Array(images, "image"), label=Array(labels, "class"))
        parts += [images, labels]
    return Dataset(splits=splits, classes=CLASSES, fingerprint=fingerprint(parts))


def _draw(rng, examples, size):
    """(uint8 [examples, size, size, 1], int32 [examples])."""
    labels = rng.integers(2, size=examples).astype(np.int32)
    images = rng.integers(0, 128, size=(examples, size, size, 1), dtype=np.uint8)
    for image, label, place in zip(images, labels, rng.integers(size, size=examples), strict=True):
        bar = image[:, place] if label else image[place]
        bar[:] = 255
    return images, labels
