"""Whole image files and those that were cut short, by their structure."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxfer.data.encodings.pixels import decode, verify
from jaxfer.errors import InputError


def saved(file, **options):
    """Noise as an image file: no row is like another, so that its data is long."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(file, **options)
    return file.read_bytes()


VIDEO = b"\0\0\0\x18ftypmp42" + b"\1" * 9999  # what a phone appends to a Motion Photo


@pytest.mark.parametrize("tail", [b"\0" * 4096, VIDEO], ids=["padding", "video"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("a.jpg", {}), ("a.jpg", {"progressive": True}), ("a.png", {}), ("a.webp", {}), ("a.bmp", {})],
)
def test_bytes_after_the_end_of_an_image_are_allowed(tmp_path, name, options, tail):
    content = saved(tmp_path / name, **options)
    expected = decode(tmp_path / name)
    (tmp_path / name).write_bytes(content + tail)
    verify(tmp_path / name)
    verify(content + tail)
    np.testing.assert_array_equal(decode(tmp_path / name), expected)


@pytest.mark.parametrize("kept", [0.5, 0.9])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp"])
def test_an_image_that_was_cut_short_is_refused_without_decoding_it(tmp_path, name, kept):
    # A whole thumbnail in the EXIF segment is no end of the image.
    content = saved(tmp_path / name, **({"exif": b"Exif\0\0\xff\xd8\xff\xd9"} if name == "a.jpg" else {}))
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=r"expected a readable image, found '.*a\..*'"):
        verify(tmp_path / name)
