"""Random augmentation of training images, from one generator per example."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from jaxfer.data.encodings.pixels import resize
from jaxfer.errors import InputError, nearest

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrored left to right with probability 1/2."""
    if rng.random() >= 0.5:
        return image
    # Copied channel by channel: a view with negative strides is read 3 bytes at a time.
    mirrored = np.empty(image.shape, image.dtype)
    for c in range(image.shape[2]):
        mirrored[..., c] = image[:, ::-1, c]
    return mirrored


def shift(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Zero-padded by 1/8 of each side (at least 1) and cropped back at random (arXiv:1512.03385, 4.2)."""
    height, width, _ = image.shape
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    top, left = rng.integers(2 * pad_y + 1), rng.integers(2 * pad_x + 1)
    padded = np.pad(image, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)))
    return padded[top : top + height, left : left + width]


def crop(
    image: np.ndarray | Image.Image,
    rng: np.random.Generator,
    size: tuple[int, int] | None = None,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """A random rectangle resized to `size`, by default the image's own (Szegedy et al., 2014, arXiv:1409.4842, 6).

    Area 35-100 % of the image, not the paper's 8-100 %: transfer sets are small and their runs short. The aspect ratio
    is log-uniform in 3/4..4/3, and sides longer than the image's are cut to it.
    """
    array = isinstance(image, np.ndarray)
    whole = image.shape[:2] if array else image.size[::-1]
    top, left, height, width = _rectangle(whole, rng)
    bottom, right = top + height, left + width
    part = image[top:bottom, left:right] if array else image.crop((left, top, right, bottom))
    return resize(part, size or whole, interpolation)


def _rectangle(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of what `crop` cuts out of an image of this (height, width)."""
    height, width = size
    area = rng.uniform(0.35, 1.0) * height * width
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    crop_w = min(width, max(1, round(math.sqrt(area * ratio))))
    crop_h = min(height, max(1, round(math.sqrt(area / ratio))))
    top, left = rng.integers(height - crop_h + 1), rng.integers(width - crop_w + 1)
    return int(top), int(left), crop_h, crop_w


def jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, then contrast about the mean grey level, each times a factor in 0.6..1.4.

    Chen et al., 2020, arXiv:2002.05709, A: the strengths for CIFAR-10; hue and saturation are left alone.
    """
    brightness, contrast = rng.uniform(0.6, 1.4, 2)
    bright = image.astype(np.float32) * brightness
    return np.clip((bright - bright.mean()) * contrast + bright.mean(), 0, 255).astype(image.dtype)


# What moves no pixel leaves masks alone.
COLOUR = (jitter,)
AUGMENTATIONS: dict[str, Augmentation] = {"flip": flip, "shift": shift, "crop": crop, "jitter": jitter}


def augmentations(names: Iterable[str]) -> tuple[Augmentation, ...]:
    """The functions behind `data.augment`; `InputError` with the nearest names for an unknown one."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise InputError(f"unknown augmentation {name!r}{nearest(str(name), AUGMENTATIONS)}")
    return tuple(AUGMENTATIONS[name] for name in names)
