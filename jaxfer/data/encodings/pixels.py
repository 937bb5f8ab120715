"""Image files to pixels: decode, channels, resize. NumPy and Pillow, no device.

Pixels are uint8 [height, width, channels]; the resize also takes float32 on the same 0..255 scale.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxfer.data.encodings import ending
from jaxfer.errors import InputError, nearest

# Pillow's filters, which transformers' processors name by their numbers. Their torchvision backend, the default where
# torchvision is installed, shrinks with anti-aliasing too (torchvision 0.28): `nearest` is the same there, `bilinear`
# within one level of 255. `bicubic` and `lanczos` are within one level on photographs; beside hard edges, on blocks of
# random colours, they differ by up to 10 and 12 levels, in 1.3 and 2.7 % of the values by more than one. It refuses
# `box` and `hamming`.
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}

# Exceptions that Pillow's decoders raise on damaged files.
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


ORIENTATION = 0x0112  # the EXIF tag: how the camera was held
# Orientation -> how the stored pixels are turned or mirrored to stand upright (EXIF 2.32, 4.6.5).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def verify(file: str | Path | bytes, name: str = "") -> int:
    """Checks an image by its header and its end, without decoding it; bytes after the end are allowed.

    Returns:
      Its EXIF orientation, 1..8; 1 where it has none, and of a TIFF, which Pillow itself turns upright.

    Raises:
      InputError: the file is no image, or it was cut short.
    """
    try:
        with _open(file) as image, io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as content:
            if not ending.whole(image, content):
                raise EOFError("the file is cut short")
            return _orientation(image)
    except _DAMAGED as error:
        raise InputError(_unreadable(file, name, error)) from None


def opened(file: str | Path | bytes, name: str = "", *, upright: bool = True) -> Image.Image:
    """An image file, decoded: of mode L (grey) or RGB; alpha dropped, palettes looked up, CMYK converted, 16-bit grey
    scaled.

    Args:
      file: a path, or the content of such a file.
      name: its name in errors; default: the path.
      upright: whether it is turned as its EXIF orientation says; without that tag every bit is as stored.

    Raises:
      InputError: the file is missing, truncated or no image.
    """
    try:
        with _open(file) as image:
            image.load()
            turn = _UPRIGHT.get(_orientation(image)) if upright else None
            plain = _plain(image)
            return plain if turn is None else plain.transpose(turn)
    except _DAMAGED as error:
        raise InputError(_unreadable(file, name, error)) from None


def _orientation(image: Image.Image) -> int:
    """1..8, as the header has it. Not a PNG's own `getexif`, which would decode it."""
    found = 1 if image.format == "TIFF" else Image.Image.getexif(image).get(ORIENTATION, 1)
    return found if found in _UPRIGHT else 1


def _plain(image: Image.Image) -> Image.Image:
    """A loaded image, of mode L or RGB."""
    if image.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits at 255
        return Image.fromarray(np.rint(np.asarray(image, np.float64) / 257).clip(0, 255).astype(np.uint8))
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def pixels(picture: Image.Image) -> np.ndarray:
    """An opened image -> uint8 [h, w, 1] (grey) or [h, w, 3]."""
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def decode(file: str | Path | bytes, name: str = "") -> np.ndarray:
    """`pixels` of `opened`."""
    return pixels(opened(file, name))


def _open(file: str | Path | bytes) -> Image.Image:
    """Pillow's image, its header read. Pixels only: to draw a PostScript file, Pillow would start Ghostscript."""
    if not isinstance(file, bytes) and os.path.exists(file) and not os.path.isfile(file):  # a pipe would block
        raise OSError("not a regular file")
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    if image.format == "EPS":
        image.close()
        raise OSError("PostScript, not pixels")
    return image


def _unreadable(file: str | Path | bytes, name: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(file, bytes) and isinstance(error, UnidentifiedImageError):
        reason = "not in a format that Pillow reads"  # Pillow's own message gives the stream's address in memory
    return f"expected a readable image, found {name or str(file)!r} ({reason}); replace or remove the file"


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """[h, w, c] -> [h, w, channels], channels 1 or 3: grey repeated, RGB to ITU-R 601 luma as Pillow rounds it."""
    if image.shape[2] in (2, 4) and channels in (1, 3):
        image = image[..., :-1]  # alpha
    if image.shape[2] == channels:
        return image
    if image.shape[2] == 1 and channels == 3:
        return np.repeat(image, 3, axis=2)
    if image.shape[2] == 3 and channels == 1:
        red, green, blue = np.moveaxis(image, 2, 0).astype(np.int64 if image.dtype == np.uint8 else np.float64)
        luma = 19595 * red + 38470 * green + 7471 * blue
        luma = (luma + 0x8000) >> 16 if image.dtype == np.uint8 else luma / 0x10000
        return luma.astype(image.dtype)[..., None]
    raise InputError(f"expected images with {channels} channels, found {image.shape[2]}; convert the images")


def resize(image: np.ndarray | Image.Image, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """[h, w, c] uint8 or float32, or an opened image -> [*size, c] of the same type, by Pillow: anti-aliased (but for
    `nearest`)."""
    if interpolation not in INTERPOLATIONS:
        raise InputError(f"unknown interpolation {interpolation!r}{nearest(interpolation, INTERPOLATIONS)}")
    how, to = INTERPOLATIONS[interpolation], (size[1], size[0])
    if isinstance(image, Image.Image):
        return pixels(image.resize(to, how))
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(to, how))
    bands = (Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2]))
    return np.stack([np.asarray(band.resize(to, how)) for band in bands], axis=2)
