"""Made-up images for tests, smoke runs and speed measurements: deterministic, of any size, and learnable."""

from __future__ import annotations

import functools

import numpy as np

from jaxfer.data.lookup import fingerprint
from jaxfer.data.order import Stream, bits
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError, nearest

TARGETS = ("class", "value")


@functools.lru_cache(maxsize=8)
def source(
    *,
    image: tuple[int, int, int] = (8, 8, 3),
    classes_count: int = 4,
    examples: int = 256,
    noise: float = 1.0,
    target: str = "class",
) -> Dataset:
    """Class prototypes plus noise, or a linear function of noise images.

    Args:
      image: (height, width, channels).
      classes_count: number of classes, named `class_0`, ...; regression has none.
      examples: training examples; `val` and `test` have a quarter of that each, at least one a class.
      noise: of classes: standard deviation of the pixels' noise, in that of the prototypes (32 grey levels).
        Of values: standard deviation of the target's noise, in tenths of the signal's (1).
      target: `class` or `value`, a number.

    Raises:
      InputError: a count that is not positive, negative noise, or an unknown target.
    """
    if target not in TARGETS:
        raise InputError(f"unknown data.target {target!r}{nearest(str(target), TARGETS)}")
    if len(image) != 3 or min(image) < 1:
        raise InputError(f"expected data.image to be (height, width, channels), all positive, found {image}")
    if classes_count < 1 or examples < classes_count or noise < 0:
        values = f"classes_count={classes_count}, examples={examples}, noise={noise}"
        raise InputError(f"expected data.classes_count >= 1, examples >= classes_count and noise >= 0, found {values}")
    make = _classification if target == "class" else _regression
    held_out = max(examples // 4, classes_count)
    splits = {
        name: make(tuple(image), classes_count, count, noise, number)
        for number, (name, count) in enumerate({"train": examples, "val": held_out, "test": held_out}.items())
    }
    parts = [split.columns[name].values for split in splits.values() for name in ("image", "label")]
    classes = tuple(f"class_{i}" for i in range(classes_count)) if target == "class" else ()
    provenance = dict.fromkeys(splits, "made up")
    return Dataset(splits=splits, classes=classes, fingerprint=fingerprint(parts), provenance=provenance)


def _classification(shape: tuple[int, ...], classes: int, count: int, noise: float, number: int) -> Split:
    prototypes = 128 + 32 * _rng(0).standard_normal((classes, *shape))
    labels = np.arange(count, dtype=np.int32) % classes
    pixels = prototypes[labels] + noise * 32 * _rng(1, number).standard_normal((count, *shape))
    return Split.whole(image=Array(_to_uint8(pixels), "image"), label=Array(labels, "class"))


def _regression(shape: tuple[int, ...], _: int, count: int, noise: float, number: int) -> Split:
    weights = _rng(0).standard_normal(shape)
    rng = _rng(1, number)
    images = _to_uint8(128 + 32 * rng.standard_normal((count, *shape)))
    # Unit variance of the signal: each pixel has a standard deviation of 32 levels.
    signal = np.tensordot((images - 128.0) / 32, weights / np.linalg.norm(weights), 3)
    targets = signal + 0.1 * noise * rng.standard_normal(count)
    return Split.whole(image=Array(images, "image"), label=Array(targets.astype(np.float32), "value"))


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(bits(0, Stream.SYNTHETIC, *key))


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels).clip(0, 255).astype(np.uint8)
