"""Augmentations that move pixels: flips, shift, crops, rotation. What comes from beyond the image is 0."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from jaxfer.data.encodings.augment.augmentation import Augmentation, Change, Rectangle, Size, bands
from jaxfer.data.encodings.pixels import INTERPOLATIONS, resize

TRIES = 10  # of a rectangle that may not fit, as in torchvision


def flip(rng: np.random.Generator, size: Size) -> tuple[Change, ...]:
    """Mirrored left to right."""
    return (Change(_mirrored, moves=True),)


def _mirrored(image: np.ndarray, filter: str) -> np.ndarray:
    # Copied channel by channel: a view with negative strides is read 3 bytes at a time.
    mirrored = np.empty(image.shape, image.dtype)
    for c in range(image.shape[2]):
        mirrored[..., c] = image[:, ::-1, c]
    return mirrored


def vertical_flip(rng: np.random.Generator, size: Size) -> tuple[Change, ...]:
    """Mirrored top to bottom."""
    return (Change(lambda image, filter: np.ascontiguousarray(image[::-1]), moves=True),)


def shift(rng: np.random.Generator, size: Size) -> tuple[Change, ...]:
    """Zero-padded by 1/8 of each side (at least 1) and cropped back at random (arXiv:1512.03385, 4.2)."""
    height, width = size
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    top, left = rng.integers(2 * pad_y + 1), rng.integers(2 * pad_x + 1)

    def shifted(image: np.ndarray, filter: str) -> np.ndarray:
        padded = np.pad(image, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)))
        return padded[top : top + height, left : left + width]

    return (Change(shifted, moves=True),)


def crop(rng: np.random.Generator, size: Size) -> Rectangle:
    """A random rectangle (Szegedy et al., 2014, arXiv:1409.4842, 6).

    Area 35-100 % of the image, not the paper's 8-100 %: transfer sets are small and their runs short. The aspect ratio
    is log-uniform in 3/4..4/3, and sides longer than the image's are cut to it.
    """
    height, width = size
    crop_h, crop_w = _drawn(rng, size, 0.35, 1.0)
    crop_h, crop_w = min(height, max(1, crop_h)), min(width, max(1, crop_w))
    top, left = rng.integers(height - crop_h + 1), rng.integers(width - crop_w + 1)
    return int(top), int(left), crop_h, crop_w


def random_resized_crop(rng: np.random.Generator, size: Size, *, area: float) -> Rectangle:
    """As torchvision's: area from `area` to 1, aspect ratio log-uniform in 3/4..4/3 (arXiv:1409.4842, 6).

    A rectangle that does not fit is drawn again; after 10 tries the largest one in the centre with a ratio within
    3/4..4/3 is taken.
    """
    height, width = size
    for _ in range(TRIES):
        crop_h, crop_w = _drawn(rng, size, area, 1.0)
        if 0 < crop_h <= height and 0 < crop_w <= width:
            top, left = rng.integers(height - crop_h + 1), rng.integers(width - crop_w + 1)
            return int(top), int(left), crop_h, crop_w
    crop_h, crop_w = height, width
    if width / height < 3 / 4:
        crop_h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        crop_w = round(height * (4 / 3))
    return (height - crop_h) // 2, (width - crop_w) // 2, crop_h, crop_w


def _drawn(rng: np.random.Generator, size: Size, least: float, most: float) -> tuple[int, int]:
    """(height, width) of a share of the image's area, the ratio log-uniform in 3/4..4/3."""
    area = rng.uniform(least, most) * size[0] * size[1]
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    return round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))


def cut(image: np.ndarray | Image.Image, rectangle: Rectangle, size: Size, filter: str) -> np.ndarray:
    """The rectangle of an image [h, w, c], or of an opened one, resized once: [*size, c]."""
    top, left, height, width = rectangle
    bottom, right = top + height, left + width
    array = isinstance(image, np.ndarray)
    return resize(image[top:bottom, left:right] if array else image.crop((left, top, right, bottom)), size, filter)


def rotation(rng: np.random.Generator, size: Size, *, degrees: float) -> tuple[Change, ...]:
    """Turned about its centre by -degrees..degrees, counter-clockwise where positive."""
    return (rotated(rng.uniform(-degrees, degrees)),)


def rotated(angle: float) -> Change:
    """Turned about its centre by an angle in degrees, as torchvision's `rotate`."""
    return Change(
        lambda image, filter: bands(image, lambda picture: picture.rotate(angle, INTERPOLATIONS[filter])), moves=True
    )


def affine(matrix: tuple[float, ...]) -> Change:
    """Pixel (x, y) comes from (a x + b y + c, d x + e y + f), of (a, b, c, d, e, f)."""

    def moved(image: np.ndarray, filter: str) -> np.ndarray:
        how, to = INTERPOLATIONS[filter], (image.shape[1], image.shape[0])
        return bands(image, lambda picture: picture.transform(to, Image.Transform.AFFINE, matrix, how))

    return Change(moved, moves=True)


HALF = {"p": (0.5, 0, 1)}
GEOMETRY = {
    "flip": Augmentation(draw=flip, options=HALF),
    "shift": Augmentation(draw=shift),
    "crop": Augmentation(rectangle=crop),
    "vertical_flip": Augmentation(draw=vertical_flip, options=HALF),
    "rotation": Augmentation(draw=rotation, options={"degrees": (30.0, 0, 180), "p": (1.0, 0, 1)}),
    "random_resized_crop": Augmentation(rectangle=random_resized_crop, options={"area": (0.08, 0.001, 1)}),
}
