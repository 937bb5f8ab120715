"""Image files to pixels: orientation and the modes that files come in, against values by hand and by Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxfer.data.encodings.pixels import decode, verify


def saved(image, format="PNG", **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def tagged(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


STORED = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
# EXIF 2.32, 4.6.5: where the 0th row and the 0th column of the stored pixels are in the picture.
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],  # top, left
    2: [[3, 2, 1], [6, 5, 4]],  # top, right
    3: [[6, 5, 4], [3, 2, 1]],  # bottom, right
    4: [[4, 5, 6], [1, 2, 3]],  # bottom, left
    5: [[1, 4], [2, 5], [3, 6]],  # left, top
    6: [[4, 1], [5, 2], [6, 3]],  # right, top
    7: [[6, 3], [5, 2], [4, 1]],  # right, bottom
    8: [[3, 6], [2, 5], [1, 4]],  # left, bottom
    9: [[1, 2, 3], [4, 5, 6]],  # no such orientation
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_a_photograph_is_turned_upright(format, orientation):
    lossless = {"lossless": True} if format == "WEBP" else {}
    content = saved(Image.fromarray(STORED), format, exif=tagged(orientation), **lossless)
    assert decode(content)[..., 0].tolist() == UPRIGHT[orientation]
    known = orientation if orientation in range(2, 9) and format != "TIFF" else 1
    assert verify(content) == known


def test_a_jpeg_is_turned_as_pillow_turns_it():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8))
    content = saved(image, "JPEG", exif=tagged(8))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert expected.shape == (23, 17, 3) and np.array_equal(decode(content), expected)


def test_without_a_tag_every_bit_is_as_stored():
    content = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)), "JPEG")
    assert np.array_equal(decode(content), np.asarray(Image.open(io.BytesIO(content))))


def palette(mode="RGB"):
    """Two pixels of a palette: red, and green which is transparent."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    return image


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(palette()), [[[255, 0, 0], [0, 255, 0]]]),
        (saved(palette(), transparency=1), [[[255, 0, 0], [0, 255, 0]]]),
        (saved(palette(), "GIF"), [[[255, 0, 0], [0, 255, 0]]]),
        (saved(Image.new("RGBA", (1, 1), (9, 8, 7, 0))), [[[9, 8, 7]]]),
        (saved(Image.new("LA", (1, 1), (9, 100))), [[[9]]]),
        (saved(Image.new("1", (1, 1), 1)), [[[255]]]),
        (saved(Image.fromarray(np.array([[0, 128, 257, 65535]], np.uint16))), [[[0], [0], [1], [255]]]),
        # Ink: cyan takes all red away, black half of all light.
        (saved(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"), [[[0, 255, 255]]]),
        (saved(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG"), [[[0, 0, 0]] * 8] * 8),
    ],
    ids=["palette", "transparent palette", "gif", "rgba", "grey and alpha", "bits", "16 bits", "cmyk", "cmyk jpeg"],
)
def test_modes(content, expected):
    assert decode(content).tolist() == expected
