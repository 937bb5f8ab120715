"""Random erasing, of normalised pixels."""

from __future__ import annotations

import math

import numpy as np

from jaxfer.data.encodings.augment.augmentation import Augmentation, Change, Rectangle, Size
from jaxfer.data.encodings.augment.geometry import TRIES


def random_erasing(rng: np.random.Generator, size: Size, *, low: float, high: float, noise: int) -> tuple[Change, ...]:
    """A rectangle of `low` to `high` of the area is erased (Zhong et al., 2017, arXiv:1708.04896).

    Its ratio of height to width is log-uniform in 0.3..3.3. One that does not fit is drawn again, 10 times at most, as
    in timm and torchvision. It acts after the normalisation, as there: 0 is exactly the model's mean colour, whatever
    that is, and with `noise` each value is drawn from a standard normal distribution. No pixel moves, so masks stay.
    """
    rectangle = _rectangle(rng, size, low, high)
    if rectangle is None:
        return ()
    seed = int(rng.integers(2**32)) if noise else None
    return (Change(lambda image, filter: erased(image, rectangle, seed)),)


def _rectangle(rng: np.random.Generator, size: Size, low: float, high: float) -> Rectangle | None:
    height, width = size
    for _ in range(TRIES):
        area = rng.uniform(low, high) * height * width
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
        tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if tall < height and wide < width:
            return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
    return None


def erased(image: np.ndarray, rectangle: Rectangle, seed: int | None) -> np.ndarray:
    """A copy of an image [h, w, c] with 0 in the rectangle, or normal noise from this seed."""
    top, left, height, width = rectangle
    image, shape = image.copy(), (height, width, image.shape[2])
    fill = 0 if seed is None else np.random.default_rng(seed).standard_normal(shape, np.float32)
    image[top : top + height, left : left + width] = fill
    return image


ERASING = {
    "random_erasing": Augmentation(
        draw=random_erasing,
        options={"p": (0.5, 0, 1), "low": (0.02, 0, 1), "high": (0.33, 0, 1), "noise": (0, 0, 1)},
        last=True,
    ),
}
