"""The fifteen corruptions of ImageNet-C (Hendrycks and Dietterich, 2019, arXiv:1903.12261), with its five severities.

Each takes an image in [0, 1], float64 [height, width, channels], a generator and the severity's constants, and returns
one alike, which may leave [0, 1]. Constants are the paper's; lengths, stated there in pixels of 224, are in proportion
to the shorter edge. Three differ from its code: `glass_blur` moves all pixels at once and not one after the other,
`motion_blur` interpolates between pixels, and the ice of `frost` is drawn and not a photograph.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

Pixels = np.ndarray
Rng = np.random.Generator


def gaussian_noise(x: Pixels, rng: Rng, scale: float) -> Pixels:
    """Normal noise."""
    return x + rng.normal(scale=scale, size=x.shape)


def shot_noise(x: Pixels, rng: Rng, photons: float) -> Pixels:
    """Poisson noise of so many photons a pixel."""
    return rng.poisson(np.clip(x, 0, 1) * photons) / photons


def impulse_noise(x: Pixels, rng: Rng, share: float) -> Pixels:
    """A share of values becomes 0 or 1."""
    drawn = rng.random(x.shape)
    return np.where(drawn < share, (drawn < share / 2).astype(float), x)


def defocus_blur(x: Pixels, rng: Rng, radius: float, soft: float) -> Pixels:
    """The mean over a disk with soft edges."""
    radius, soft = radius * _scale(x), soft * _scale(x)
    reach = math.ceil(radius + 3 * soft)
    squares = np.arange(-reach, reach + 1) ** 2
    disk = ndimage.gaussian_filter((squares[:, None] + squares <= radius**2).astype(float), soft)
    return ndimage.convolve(x, (disk / disk.sum())[:, :, None], mode="reflect")


def glass_blur(x: Pixels, rng: Rng, sigma: float, reach: int, times: int) -> Pixels:
    """Pixels change places with near ones, between two blurs."""
    sigma, reach = sigma * _scale(x), round(reach * _scale(x))
    x = _blurred(x, sigma)
    place = np.indices(x.shape[:2])
    edges = np.array(x.shape[:2])[:, None, None] - 1
    for _ in range(times):
        rows, columns = np.clip(place + rng.integers(-reach, reach + 1, size=place.shape), 0, edges)
        x = x[rows, columns]
    return _blurred(x, sigma)


def motion_blur(x: Pixels, rng: Rng, radius: float, sigma: float) -> Pixels:
    """A trail at an angle within 45 degrees of the horizontal."""
    return _trail(x, radius * _scale(x), sigma * _scale(x), rng.uniform(-45, 45))


def zoom_blur(x: Pixels, rng: Rng, most: float, step: float) -> Pixels:
    """The mean over zooms from 1 to `most`."""
    zooms = np.arange(1, most, step)
    return (x + sum(_zoomed(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


def snow(
    x: Pixels, rng: Rng, mean: float, spread: float, zoom: float, least: float, radius: float, sigma: float, kept: float
) -> Pixels:
    """Falling flakes over a whiter image."""
    flakes = _zoomed(rng.normal(mean, spread, (*x.shape[:2], 1)), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    flakes = _trail(flakes, radius * _scale(x), sigma * _scale(x), rng.uniform(-135, -45))
    whiter = kept * x + (1 - kept) * np.maximum(x, x.mean(-1, keepdims=True) * 1.5 + 0.5)
    return whiter + flakes + flakes[::-1, ::-1]


def frost(x: Pixels, rng: Rng, kept: float, share: float) -> Pixels:
    """Ice in needles and films over the image."""
    film, needles = plasma(rng, x.shape[:2], 1.6), 1 - np.abs(2 * plasma(rng, x.shape[:2], 1.4) - 1)
    ice = np.clip(0.6 * film + 0.6 * needles**4, 0, 1)[:, :, None]
    tint = np.array([0.85, 0.95, 1.0]) if x.shape[2] == 3 else 1.0
    return kept * x + share * ice * tint


def fog(x: Pixels, rng: Rng, amount: float, decay: float) -> Pixels:
    """Clouds, at the same largest value."""
    most = x.max()
    return (x + amount * plasma(rng, x.shape[:2], decay)[:, :, None]) * most / (most + amount)


def brightness(x: Pixels, rng: Rng, more: float) -> Pixels:
    """A larger value at the same hue and saturation."""
    value = x.max(-1, keepdims=True)
    lighter = np.clip(value + more, 0, 1)
    return np.where(value > 0, x * lighter / np.where(value > 0, value, 1), lighter)


def contrast(x: Pixels, rng: Rng, kept: float) -> Pixels:
    """A share of the distance to each channel's mean."""
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * kept + mean


def elastic_transform(x: Pixels, rng: Rng, far: float, smooth: float, shear: float) -> Pixels:
    """A random affine map, then smooth displacements; in shares of the shorter edge."""
    side, sizes = min(x.shape[:2]), np.array(x.shape[:2])
    corners = sizes / 2 + side / 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng.uniform(-shear * side, shear * side, corners.shape)
    # Where each place comes from: [3 points, (row, column, 1)] @ affine = points before.
    affine = np.linalg.solve(np.c_[moved, np.ones(3)], corners)
    rows, columns = np.indices(x.shape[:2])
    places = np.stack([rows, columns, np.ones_like(rows)], -1) @ affine
    for axis in range(2):
        drawn = rng.uniform(-1, 1, x.shape[:2])
        places[..., axis] += far * side * ndimage.gaussian_filter(drawn, smooth * side, mode="reflect", truncate=3)
    at = np.moveaxis(places, -1, 0)
    return np.stack([ndimage.map_coordinates(part, at, order=1, mode="reflect") for part in np.moveaxis(x, -1, 0)], -1)


def pixelate(x: Pixels, rng: Rng, share: float) -> Pixels:
    """Fewer pixels, each a box."""
    image, (height, width) = _image(x), x.shape[:2]
    small = image.resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    return _pixels(small.resize((width, height), Image.Resampling.BOX), x)


def jpeg_compression(x: Pixels, rng: Rng, quality: int) -> Pixels:
    """Stored as JPEG of a low quality."""
    held = io.BytesIO()
    _image(x).save(held, "JPEG", quality=quality)
    return _pixels(Image.open(held), x)


def plasma(rng: Rng, shape: Sequence[int], decay: float) -> np.ndarray:
    """Clouds in [0, 1], [height, width]: noise at every scale, each half as coarse and `decay` times weaker."""
    total = np.zeros(shape)
    for octave in range(max(1, math.ceil(math.log2(max(shape)))) + 1):
        cells = 2**octave + 1
        at = np.meshgrid(*(np.linspace(0, cells - 1, size) for size in shape), indexing="ij")
        total += ndimage.map_coordinates(rng.uniform(-1, 1, (cells, cells)), at, order=1) * decay**-octave
    total -= total.min()
    return total / (total.max() or 1)


def _scale(x: Pixels) -> float:
    return min(x.shape[:2]) / 224


def _blurred(x: Pixels, sigma: float) -> Pixels:
    return ndimage.gaussian_filter(x, (sigma, sigma, 0))


def _trail(x: Pixels, radius: float, sigma: float, angle: float) -> Pixels:
    """The image and its shifts along a line, by a half of a normal density; angle in degrees."""
    count = max(1, round(2 * radius + 1))
    weights = np.exp(-(np.arange(count) ** 2) / (2 * max(sigma, 1e-9) ** 2))
    way = np.array([math.sin(math.radians(angle)), math.cos(math.radians(angle)), 0])
    shifts = (ndimage.shift(x, way * i, order=1, mode="nearest") if i else x for i in range(count))
    return sum(weight * part for weight, part in zip(weights / weights.sum(), shifts, strict=True))


def _zoomed(x: Pixels, zoom: float) -> Pixels:
    """Magnified around the middle, at the same size."""
    matrix = np.array([1 / zoom, 1 / zoom, 1])
    offset = (np.array([*x.shape[:2], 1]) - 1) / 2 * (1 - matrix)
    return ndimage.affine_transform(x, matrix, offset, order=1, mode="nearest")


def _image(x: Pixels) -> Image.Image:
    values = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(values[:, :, 0] if x.shape[2] == 1 else values)


def _pixels(image: Image.Image, like: Pixels) -> Pixels:
    return np.asarray(image, np.float64).reshape(like.shape) / 255


# {name: (function, its constants at severity 1 to 5)}
IMAGE: dict[str, tuple[Callable[..., Pixels], tuple[tuple[Any, ...], ...]]] = {
    "gaussian_noise": (gaussian_noise, ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),
    "shot_noise": (shot_noise, ((60,), (25,), (12,), (5,), (3,))),
    "impulse_noise": (impulse_noise, ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),
    "defocus_blur": (defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": (glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": (motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": (zoom_blur, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    "snow": (
        snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": (fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": (brightness, ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),
    "contrast": (contrast, ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),
    "elastic_transform": (
        elastic_transform,
        ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
    "pixelate": (pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    "jpeg_compression": (jpeg_compression, ((25,), (18,), (15,), (10,), (7,))),
}
