"""Augmentations of colour and sharpness, which move no pixel and leave masks alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance
from scipy import ndimage

from jaxfer.data.encodings.augment.augmentation import Augmentation, Change, Size, colours


def jitter(rng: np.random.Generator, size: Size) -> tuple[Change, ...]:
    """Brightness, then contrast about the mean grey level, each times a factor in 0.6..1.4.

    Chen et al., 2020, arXiv:2002.05709, A: the strengths for CIFAR-10; hue and saturation are left alone.
    """
    brightness, contrast = rng.uniform(0.6, 1.4, 2)

    def jittered(image: np.ndarray, filter: str) -> np.ndarray:
        bright = image.astype(np.float32) * brightness
        return np.clip((bright - bright.mean()) * contrast + bright.mean(), 0, 255).astype(image.dtype)

    return (Change(jittered),)


def color_jitter(
    rng: np.random.Generator, size: Size, *, brightness: float, contrast: float, saturation: float, hue: float
) -> tuple[Change, ...]:
    """torchvision's `ColorJitter` on Pillow images: factors from 1 - x to 1 + x, but never below 0, in random order.

    The hue is turned by -hue..hue of the circle. What has strength 0 is left out; grey images keep hue and saturation.
    """
    order = rng.permutation(4)
    strengths = (brightness, contrast, saturation)
    factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths] + [rng.uniform(-hue, hue)]
    functions = (brightened, contrasted, saturated, turned)
    return (colours(*(functions[i](factors[i]) for i in order if (*strengths, hue)[i])),)


Picture = Callable[[Image.Image], Image.Image]


def brightened(factor: float) -> Picture:
    """0 is black, 1 the image."""
    return lambda picture: ImageEnhance.Brightness(picture).enhance(factor)


def contrasted(factor: float) -> Picture:
    """0 is its mean grey level, 1 the image."""
    return lambda picture: ImageEnhance.Contrast(picture).enhance(factor)


def saturated(factor: float) -> Picture:
    """0 is grey, 1 the image."""
    return lambda picture: ImageEnhance.Color(picture).enhance(factor)


def sharpened(factor: float) -> Picture:
    """0 is smoothed, 1 the image."""
    return lambda picture: ImageEnhance.Sharpness(picture).enhance(factor)


def turned(hue: float) -> Picture:
    """The hue turned by this share of the circle, -0.5..0.5."""

    def applied(picture: Image.Image) -> Image.Image:
        if picture.mode == "L":
            return picture
        hues, saturation, value = picture.convert("HSV").split()
        moved = Image.fromarray(np.asarray(hues) + np.uint8(int(hue * 255) % 256))  # wraps around
        return Image.merge("HSV", (moved, saturation, value)).convert("RGB")

    return applied


def grayscale(rng: np.random.Generator, size: Size) -> tuple[Change, ...]:
    """Its luma (ITU-R 601) in every channel."""
    return (colours(lambda picture: picture.convert("L").convert(picture.mode)),)


def gaussian_blur(rng: np.random.Generator, size: Size, *, low: float, high: float) -> tuple[Change, ...]:
    """Blurred with a deviation of `low` to `high` pixels (Chen et al., 2020, arXiv:2002.05709, A).

    The kernel is a tenth of the shorter side wide, made odd and at least 3: SimCLR's 23 of 224 pixels. Borders are
    mirrored, as in torchvision.
    """
    width = max(3, min(size) // 10 // 2 * 2 + 1)
    sigma = rng.uniform(low, high)
    return (Change(lambda image, filter: blurred(image, sigma, width)),)


def blurred(image: np.ndarray, sigma: float, width: int) -> np.ndarray:
    """Convolved with a Gaussian of `sigma` pixels, cut to `width` of them (odd); 8-bit images are rounded."""
    x = np.arange(width) - (width - 1) / 2
    kernel = np.exp(-0.5 * (x / sigma) ** 2)
    kernel /= kernel.sum()
    found = image.astype(np.float32)
    for axis in (0, 1):
        found = ndimage.correlate1d(found, kernel, axis=axis, mode="mirror")
    return np.rint(found).astype(image.dtype) if image.dtype == np.uint8 else found.astype(image.dtype)


STRENGTHS = {"brightness": (0.4, 0, 10), "contrast": (0.4, 0, 10), "saturation": (0.4, 0, 10), "hue": (0.1, 0, 0.5)}
COLOUR = {
    "jitter": Augmentation(draw=jitter),
    "color_jitter": Augmentation(draw=color_jitter, options={**STRENGTHS, "p": (1.0, 0, 1)}, colours=True),
    "grayscale": Augmentation(draw=grayscale, options={"p": (0.1, 0, 1)}, colours=True),
    "gaussian_blur": Augmentation(
        draw=gaussian_blur, options={"low": (0.1, 0.01, 100), "high": (2.0, 0.01, 100), "p": (0.5, 0, 1)}
    ),
}
