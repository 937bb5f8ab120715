from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfer.data.encodings.augment import AUGMENTATIONS, applied, augmentations
from jaxfer.data.encodings.image import ImageEncoding, augmented, normalize, preprocess
from jaxfer.data.encodings.pixels import decode, resize, to_channels, verify
from jaxfer.errors import InputError


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


class Scripted:
    """A generator that gives the values of a list and remembers what it was asked."""

    def __init__(self, *values):
        self.values, self.asked = list(values), []

    def _next(self, *asked):
        self.asked.append(asked)
        return self.values.pop(0)

    random = uniform = integers = _next


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_decode_gives_grey_or_rgb(tmp_path, mode, channels):
    original = Image.fromarray(pixels(5, 7, 3)).convert(mode)
    original.save(tmp_path / "image.png")
    expected = np.asarray(original.convert("L" if channels == 1 else "RGB")).reshape(5, 7, channels)
    decoded = decode(tmp_path / "image.png")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def test_decode_scales_sixteen_bit_grey(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert decode(tmp_path / "deep.png").tolist() == [[[0], [100], [255]]]


def test_decode_converts_cmyk_jpeg_to_rgb(tmp_path):
    Image.fromarray(pixels(8, 8, 3)).convert("CMYK").save(tmp_path / "print.jpg")
    assert decode(tmp_path / "print.jpg").shape == (8, 8, 3)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
def test_unreadable_images_are_named(tmp_path, damage):
    file = tmp_path / "cat.jpg"
    Image.fromarray(pixels(64, 64, 3)).save(file)
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "text": b"not an image", "truncated": content[: len(content) // 2]}[damage])
    with pytest.raises(InputError, match=r"expected a readable image, found '.*cat\.jpg'") as caught:
        decode(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"cat\.jpg"):
        verify(file)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_whole_images_pass_verification(tmp_path, suffix):
    Image.fromarray(pixels(64, 64, 3)).save(tmp_path / f"cat.{suffix}")
    with (tmp_path / f"cat.{suffix}").open("ab") as file:
        file.write(b"\0" * 100)  # a camera's padding
    verify(tmp_path / f"cat.{suffix}")


def test_a_name_without_an_image_behind_it_is_refused(tmp_path):
    Image.fromarray(pixels(4, 4, 3)).save(tmp_path / "drawing.png", format="EPS")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    reasons = {"drawing": "PostScript, not pixels", "pipe": "not a regular file", "folder": "not a regular file"}
    for name, reason in reasons.items():
        for read in (verify, decode):
            with pytest.raises(InputError, match=rf"found '.*{name}\.png' \({reason}\); replace or remove the file"):
                read(tmp_path / f"{name}.png")


def test_to_channels():
    grey, rgb, rgba = pixels(3, 4, 1), pixels(3, 4, 3), pixels(3, 4, 4)
    np.testing.assert_array_equal(to_channels(grey, 3), np.concatenate([grey] * 3, axis=2))
    np.testing.assert_array_equal(to_channels(rgba, 3), rgba[..., :3])
    np.testing.assert_array_equal(to_channels(np.concatenate([grey, grey], 2), 1), grey)
    assert to_channels(rgb, 3) is rgb
    # 0.299, 0.587 and 0.114 of 255
    assert to_channels(np.diag([255] * 3).astype(np.uint8)[None], 1).ravel().tolist() == [76, 150, 29]


def test_luma_is_pillows():
    rgb = pixels(40, 50, 3)
    np.testing.assert_array_equal(to_channels(rgb, 1)[..., 0], np.asarray(Image.fromarray(rgb).convert("L")))
    floats = to_channels(rgb.astype(np.float32), 1)
    assert floats.dtype == np.float32
    weights = np.array([19595, 38470, 7471]) / 65536  # 0.299, 0.587 and 0.114 in 16 bits
    np.testing.assert_allclose(floats[..., 0], rgb @ weights, rtol=1e-6)


def test_channels_that_cannot_be_made():
    with pytest.raises(InputError, match="expected images with 5 channels, found 3"):
        to_channels(pixels(2, 2, 3), 5)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("size", [(5, 9), (30, 20)])
def test_resize_is_pillows(interpolation, size):
    how, to = Image.Resampling[interpolation.upper()], size[::-1]
    rgb = pixels(16, 12, 3)
    expected = np.asarray(Image.fromarray(rgb).resize(to, how))
    np.testing.assert_array_equal(resize(rgb, size, interpolation), expected)
    np.testing.assert_array_equal(resize(rgb[..., :1], size, interpolation), expected[..., :1])
    floats = rgb.astype(np.float32)
    band = np.asarray(Image.fromarray(floats[..., 1]).resize(to, how))
    resized = resize(floats, size, interpolation)
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized[..., 1], band)


def test_resize_is_anti_aliased():
    quad = np.array([[0, 100], [200, 100]], np.uint8)[..., None]
    assert resize(quad, (1, 1), "bilinear").item() == 100


def test_unknown_interpolation():
    with pytest.raises(InputError, match="unknown interpolation 'bilinaer'; nearest: 'bilinear'"):
        resize(pixels(2, 2, 1), (1, 1), "bilinaer")


def test_normalize_by_hand():
    encoding = ImageEncoding(size=(1, 2, 3), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    image_ = np.array([[[0, 51, 255], [255, 0, 102]]], np.uint8)
    expected = [
        [
            [(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225],
            [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.4 - 0.406) / 0.225],
        ]
    ]
    result = normalize(image_, encoding)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (300, 5, 3), (3, 130, 7, 1), (0, 4, 4, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_normalize_is_the_formula_bit_for_bit(shape, kind):
    values = (np.random.default_rng(0).random(shape) * 255).astype(kind)
    mean, std = (0.485, 0.456, 0.406)[: shape[-1]], (0.229, 0.224, 0.225)[: shape[-1]]
    for view in (values, values[::-1]):
        expected = (view.astype(np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std)
        result = normalize(view, ImageEncoding(size=(1, 1, shape[-1]), mean=mean, std=std))
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == np.float32


def test_normalize_wants_a_value_a_channel():
    with pytest.raises(InputError, match="expected 1 or 1 values of mean"):
        normalize(pixels(2, 2, 1), ImageEncoding(size=(2, 2, 1), mean=(0.1, 0.2, 0.3)))


def test_preprocess_skips_the_resize_where_the_size_matches():
    encoding = ImageEncoding(size=(4, 4, 3), interpolation="none such")
    grey = pixels(4, 4, 1)
    expected = np.repeat((grey.astype(np.float32) / 255 - 0.5) / 0.5, 3, axis=2)
    np.testing.assert_allclose(preprocess(grey, encoding), expected, rtol=1e-6)
    with pytest.raises(InputError, match="interpolation"):
        preprocess(pixels(5, 4, 1), encoding)


def changed(image, rng, *augment):
    return applied(image, augmentations(augment), rng)


def test_flip_by_hand():
    row = np.array([[[1], [2], [3]]], np.uint8)
    assert changed(row, Scripted(0.49), "flip").ravel().tolist() == [3, 2, 1]
    assert changed(row, Scripted(0.5), "flip").ravel().tolist() == [1, 2, 3]


def test_shift_by_hand():
    square = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1)
    rng = Scripted(0, 2)  # one row down, one column to the left
    assert changed(square, rng, "shift")[..., 0].tolist() == [[0, 0, 0], [2, 3, 0], [5, 6, 0]]
    assert rng.asked == [(3,), (3,)]
    np.testing.assert_array_equal(changed(square, Scripted(1, 1), "shift"), square)
    rng = Scripted(0, 0)
    shifted = changed(np.ones((32, 16, 2), np.uint8), rng, "shift")  # pads of 4 and 2
    assert rng.asked == [(9,), (5,)]
    assert shifted.shape == (32, 16, 2)
    assert shifted.sum(axis=(0, 1)).tolist() == [28 * 14] * 2


def test_crop_by_hand():
    rgb = pixels(8, 8, 3)
    rng = Scripted(0.25, 0.0, 2, 1)  # a quarter of the area, square: 4 x 4 at row 2, column 1
    expected = np.asarray(Image.fromarray(rgb[2:6, 1:5]).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(changed(rgb, rng, "crop"), expected)
    assert rng.asked == [(0.35, 1.0), (math.log(3 / 4), math.log(4 / 3)), (5,), (5,)]


def test_a_crop_that_comes_first_is_of_the_image_itself_and_resized_once():
    grey = pixels(16, 12, 1)
    rng = Scripted(0.5, 0.0, 3, 1, 0.6)  # half of the area, square: 10 x 10 at row 3, column 1; no flip
    expected = np.asarray(Image.fromarray(grey[3:13, 1:11, 0]).resize((6, 8), Image.Resampling.BILINEAR))
    result = augmented(grey, ("crop", "flip"), rng, ImageEncoding(size=(8, 6, 3), resize=(9,)))
    np.testing.assert_array_equal(result, np.repeat(expected[..., None], 3, axis=2))
    # By the model's filter; its resize to 9 px and the cut of the centre are for evaluation.
    rng = Scripted(0.5, 0.0, 3, 1)
    nearest = np.asarray(Image.fromarray(grey[3:13, 1:11, 0]).resize((6, 8), Image.Resampling.NEAREST))
    encoding = ImageEncoding(size=(8, 6, 1), resize=(9,), interpolation="nearest")
    np.testing.assert_array_equal(augmented(grey, ("crop",), rng, encoding)[..., 0], nearest)
    # Of the model's size there is nothing to fit: the order is all the same.
    encoding, seeds = ImageEncoding(size=(16, 12, 1)), (7, 7)
    first, after = (np.random.default_rng(seed) for seed in seeds)
    np.testing.assert_array_equal(augmented(grey, ("crop",), first, encoding), changed(grey, after, "crop"))


@pytest.mark.parametrize("names", [("crop", "flip"), ("flip", "crop")])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(31, 20, 3), (31, 20, 1)])
def test_an_opened_image_is_augmented_as_its_array_is(shape, channels, names):
    array, encoding = pixels(*shape), ImageEncoding(size=(9, 12, channels))
    picture = Image.fromarray(array if shape[2] == 3 else array[..., 0])
    for seed in range(5):
        results = [augmented(x, names, np.random.default_rng(seed), encoding) for x in (array, picture)]
        np.testing.assert_array_equal(*results)
        assert results[0].shape == encoding.size


def test_crop_cuts_a_rectangle_that_is_too_wide():
    rgb = pixels(4, 4, 3)
    rng = Scripted(1.0, math.log(4), 1, 0)  # 8 wide and 2 high, cut to 4 wide
    expected = np.asarray(Image.fromarray(rgb[1:3]).resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(changed(rgb, rng, "crop"), expected)


@pytest.mark.parametrize("name", [name for name, kind in AUGMENTATIONS.items() if kind.of == "image"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 1), (5, 9, 3)])
def test_augmentations_keep_shape_and_type_and_leave_their_input(name, shape):
    original = pixels(*shape)
    copy = original.copy()
    for seed in range(20):
        result = changed(original, np.random.default_rng(seed), name)
        assert result.shape == shape and result.dtype == np.uint8
        np.testing.assert_array_equal(result, changed(original, np.random.default_rng(seed), name))
    np.testing.assert_array_equal(original, copy)


def test_unknown_augmentation():
    with pytest.raises(InputError, match="unknown augmentation 'flop'; nearest: 'flip'"):
        augmentations(("crop", "flop"))


@pytest.mark.parametrize("name, largest, share", [("bilinear", 1, 0), ("bicubic", 10, 0.0129), ("lanczos", 12, 0.0273)])
def test_how_far_torchvisions_filters_are_on_hard_edges(name, largest, share):
    """Blocks of random colours; torchvision.npz holds what make_torchvision.py got. encodings/image.py says how far."""
    colours = np.random.default_rng(0).integers(0, 255, (48, 18, 3))
    blocks = np.kron(colours, np.ones((7, 7, 1))).astype(np.uint8)
    theirs = np.load(Path(__file__).parents[1] / "torchvision.npz")[name].astype(int)
    difference = np.abs(resize(blocks, (64, 64), name).astype(int) - theirs)
    assert difference.max() == largest and (difference > 1).mean() == pytest.approx(share, abs=1e-4)
