"""Images as a model takes them: fit to its size, augment in training, normalise.

Fitting and augmentation keep the pixels as they are; only `normalize` turns to the model's float32.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np
from PIL import Image

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.encodings.augment import applied, augmentations, cut, finish
from jaxfer.data.encodings.pixels import pixels, resize, to_channels
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError

ROWS = 32  # per pass of `normalize`: 86 kB of float32 at 224 px

# A 32 x 32 RGB image. Beyond it a linear model of pixels gains little and costs memory and minutes.
MAX_FEATURES = 32 * 32 * 3
MAX_SIDE = 32

OUTSIDE = np.uint8(255)  # the value of a mask where there is no image, or where nobody labelled it


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageEncoding:
    """How pixels become the model's `image`, float32 [b, *size]: `(crop(resize(pixels)) / 255 - mean) / std`.

    Attributes:
      size: (height, width, channels) of the input.
      mean: one value a channel, or a single one for all.
      std: likewise.
      interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`, as Pillow has them.
      resize: what an image is resized to before its centre of `size` is cut out: () to `size` itself, (n,) its shorter
        edge to n, (h, w) to that.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    interpolation: str = "bilinear"
    resize: tuple[int, ...] = ()

    column: ClassVar[str] = "image"
    noun: ClassVar[str] = "images"
    buckets: ClassVar[tuple[int, ...]] = ()
    augments: ClassVar[bool] = True
    features: ClassVar[str] = "pixels"

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"image": jax.ShapeDtypeStruct((n, *self.size), "float32")}

    def reader(self, split: Split) -> ImageReader:
        return ImageReader(split, self)

    def notes(self, data: Dataset, sample: int) -> tuple[str, ...]:
        return ()

    def facts(self) -> dict[str, Any]:
        return {}

    def flat(self, split: Split) -> np.ndarray:
        """Flat pixels as the model gets them; inputs of more than 3,072 values (32 x 32 RGB) are averaged down first,
        to at most 32 x 32 pixels by area: a baseline for large images is one of their thumbnails."""
        height, width, channels = self.size
        shrink = height * width * channels > MAX_FEATURES
        to = (min(height, MAX_SIDE), min(width, MAX_SIDE)) if shrink else (height, width)
        rows, read = np.empty((len(split), to[0] * to[1] * channels), np.float32), self.reader(split)
        for begin in range(0, len(split), 32):
            images = read(np.arange(begin, min(begin + 32, len(split))))["image"]
            images = averaged(images, to) if shrink else images
            rows[begin : begin + len(images)] = images.reshape(len(images), -1)
        return rows


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageReader:
    """The images of a split."""

    split: Split
    encoding: ImageEncoding
    lengths: ClassVar[None] = None

    def __call__(self, rows: np.ndarray, length: int | None = None, draw: Draw | None = None) -> Fields:
        """`image`; of a split with masks also `mask`, uint8 [b, height, width], for a task's targets."""
        images = np.empty((len(rows), *self.encoding.size), np.float32)
        for i, place in enumerate(images):  # each while it is still in the cache
            self._image(int(rows[i]), i, draw, place)
        if "mask" not in self.split.columns:
            return {"image": images}
        masks = np.empty(images.shape[:3], np.uint8)
        for i, place in enumerate(masks):
            place[:] = self._mask(int(rows[i]), i, draw)
        return {"image": images, "mask": masks}

    def _image(self, row: int, i: int, draw: Draw | None, out: np.ndarray) -> None:
        if draw is None or not draw.augment:
            normalize(fit(self.split.example("image", row), self.encoding), self.encoding, out=out)
            return
        column, row = self.split.columns["image"], int(self.split.rows[row])
        image = column.picture(row) if hasattr(column, "picture") else column[row]
        rng = draw.rng(i)
        normalize(augmented(image, draw.augment, rng, self.encoding), self.encoding, out=out)
        finish(out, augmentations(draw.augment), rng)

    def _mask(self, row: int, i: int, draw: Draw | None) -> np.ndarray:
        mask = self.split.example("mask", row)
        if draw is None or not draw.augment:
            return fit_mask(mask, self.encoding)
        return augmented_mask(mask, draw.augment, draw.rng(i), self.encoding)


def fit(image: np.ndarray, encoding: ImageEncoding) -> np.ndarray:
    """[h, w, c] -> the model's [height, width, channels], still on 0..255: resized as `encoding.resize` says, and
    the centre cut out of that; an image that has its size already is not resampled."""
    height, width, channels = encoding.size
    image = to_channels(image, channels)
    to = _resized(image.shape[:2], encoding)
    image = image if image.shape[:2] == to else resize(image, to, encoding.interpolation)
    top, left = (to[0] - height) // 2, (to[1] - width) // 2
    return image[top : top + height, left : left + width]


def _resized(size: tuple[int, int], encoding: ImageEncoding) -> tuple[int, int]:
    """The size an image of this (height, width) is resized to; the longer edge is rounded down, as in transformers."""
    rule = encoding.resize
    if len(rule) != 1:
        return rule or encoding.size[:2]
    short = min(size)
    return tuple(rule[0] if side == short else int(rule[0] * side / short) for side in size)


def normalize(image: np.ndarray, encoding: ImageEncoding, out: np.ndarray | None = None) -> np.ndarray:
    """`(x / 255 - mean) / std`, float32, over the last axis of [..., channels]; into `out`, where one is given."""
    for name, values in (("mean", encoding.mean), ("std", encoding.std)):
        if len(values) not in (1, image.shape[-1]):
            raise InputError(f"expected 1 or {image.shape[-1]} values of {name}, one per channel, found {len(values)}")
    out = np.empty(image.shape, np.float32) if out is None else out
    # Whole rows of pixels against as many means: an inner loop over the channels alone is slow. Some rows at a time,
    # so that the three passes find them in the cache.
    width = image.shape[-1] * (image.shape[-2] if image.ndim > 1 else 1)
    mean, std = (np.resize(np.asarray(v, np.float32), width) for v in (encoding.mean, encoding.std))
    rows, values = out.reshape(-1, width), image.reshape(-1, width)
    for begin in range(0, len(rows), ROWS):
        block = rows[begin : begin + ROWS]
        np.divide(values[begin : begin + ROWS], np.float32(255), out=block, dtype=np.float32)
        block -= mean
        block /= std
    return out


def preprocess(image: np.ndarray, encoding: ImageEncoding) -> np.ndarray:
    """[h, w, c] as a source yields it -> the model's input, float32 `encoding.size`."""
    return normalize(fit(image, encoding), encoding)


def augmented(
    image: np.ndarray | Image.Image,
    augment: tuple[str, ...],
    rng: np.random.Generator,
    encoding: ImageEncoding,
    filter: str = "bilinear",
    mask: bool = False,
) -> np.ndarray:
    """[h, w, c] or an opened image -> the model's [height, width, channels] on 0..255: `fit`, then the augmentations.

    A leading crop replaces `fit`: its rectangle is cut out of the original image and resized once to the model's
    size, with the model's filter. `filter` and `mask` as in `applied`; what acts on normalised pixels is left to
    `augment.finish`.
    """
    entries, size, channels = augmentations(augment), encoding.size[:2], encoding.size[2]
    if entries and entries[0].kind.rectangle:
        whole = image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]
        part = cut(image, entries[0].rectangle(rng, whole), size, encoding.interpolation)
        image, entries = to_channels(part, channels), entries[1:]
    else:
        image = fit(image if isinstance(image, np.ndarray) else pixels(image), encoding)
    return applied(image, entries, rng, filter, mask)


def fit_mask(mask: np.ndarray, encoding: ImageEncoding) -> np.ndarray:
    """A mask [h, w] -> [height, width]: the pixels that `fit` gives its image, the nearest each."""
    return fit(mask[..., None], _of_masks(encoding))[..., 0]


def augmented_mask(
    mask: np.ndarray, augment: tuple[str, ...], rng: np.random.Generator, encoding: ImageEncoding
) -> np.ndarray:
    """A mask [h, w] -> [height, width], as `augmented` moves its image with an equal generator; `OUTSIDE` beyond it."""
    # Turned over, so that the zeros around a shifted image are `OUTSIDE`.
    moved = augmented((OUTSIDE - mask)[..., None], augment, rng, _of_masks(encoding), "nearest", mask=True)
    return OUTSIDE - moved[..., 0]


def _of_masks(encoding: ImageEncoding) -> ImageEncoding:
    return dataclasses.replace(encoding, size=(*encoding.size[:2], 1), interpolation="nearest")


def averaged(images: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """[n, h, w, c] -> [n, *to, c]: each new pixel is the mean over its area, fractions of old pixels included."""
    rows, columns = (_area_weights(old, new) for old, new in zip(images.shape[1:3], to, strict=True))
    return np.einsum("ih,nhwc,jw->nijc", rows, images, columns, optimize=True).astype(np.float32)


def _area_weights(old: int, new: int) -> np.ndarray:
    """[new, old]: which share of each new pixel along one side lies on each old one."""
    edges, begin = np.arange(new + 1) * (old / new), np.arange(old)
    overlap = np.minimum(edges[1:, None], begin + 1) - np.maximum(edges[:-1, None], begin)
    return overlap.clip(0) * (new / old)
