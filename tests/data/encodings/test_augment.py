"""Augmentations beside torchvision's on the same draws, and by hand; `torchvision_augment.npz` holds what
make_torchvision_augment.py got."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfer.data.encoding import Draw
from jaxfer.data.encodings.augment import AUGMENTATIONS, applied, augmentations, canonical, finish
from jaxfer.data.encodings.augment.geometry import random_resized_crop
from jaxfer.data.encodings.augment.policies import AUGMIX, OPERATIONS, RANDAUGMENT, TRIVIALAUGMENT
from jaxfer.data.encodings.image import OUTSIDE, ImageEncoding, augmented, augmented_mask, normalize
from jaxfer.data.loader import Feed
from jaxfer.data.order import example_rng
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from tests.data.encodings.test_image import Scripted

THEIRS = np.load(Path(__file__).parents[1] / "torchvision_augment.npz")
PICTURE = THEIRS["picture"]
EXACT = [
    name for name in THEIRS if THEIRS[name].ndim == 4 and name not in ("augmix", "gaussian_blur", "random_erasing")
]


def ours(name, seed, image=PICTURE):
    return applied(image, augmentations((name,)), np.random.default_rng(seed))


@pytest.mark.parametrize("name", EXACT)
def test_every_bit_is_torchvisions_on_the_same_draws(name):
    for seed, theirs in enumerate(THEIRS[name]):
        np.testing.assert_array_equal(ours(name, seed), theirs, err_msg=f"seed {seed}")


def test_a_blur_is_torchvisions():
    """Its sums are in another order: of 5,000 values a few at .5 are rounded the other way."""
    theirs = THEIRS["gaussian_blur"].astype(int)
    difference = np.stack([ours("gaussian_blur", seed) for seed in range(len(theirs))]) - theirs
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01


def test_augmix_is_torchvisions_but_rounded():
    theirs = THEIRS["augmix"].astype(int)
    difference = np.stack([ours("augmix", seed) for seed in range(len(theirs))]) - theirs
    assert set(np.unique(difference)) == {0, 1} and 0.4 < difference.mean() < 0.6


@pytest.mark.parametrize(
    "name, table, bins",
    [("randaugment", RANDAUGMENT, 31), ("trivialaugment", TRIVIALAUGMENT, 31), ("augmix", AUGMIX, 10)],
)
def test_the_tables_are_torchvisions(name, table, bins):
    assert list(table) == [key.partition("/")[2] for key in THEIRS if key.startswith(f"{name}/")]
    for operation, magnitudes in table.items():
        *theirs, signed = THEIRS[f"{name}/{operation}"]
        found = [magnitudes.at(bin, bins, (12, 10)) for bin in range(bins)] if len(theirs) > 1 else [0.0]
        assert (found, magnitudes.signed) == (theirs, bool(signed)), operation


def test_an_erased_rectangle_is_torchvisions_and_the_models_mean():
    encoding = ImageEncoding(size=(12, 10, 3), mean=(0.2, 0.5, 0.7), std=(0.3,))
    for seed, theirs in enumerate(THEIRS["random_erasing"]):
        image = normalize(PICTURE, encoding)
        finish(image, augmentations(("random_erasing",)), np.random.default_rng(seed))
        assert (image == 0).all(axis=2).sum() == (theirs == 0).all(axis=2).sum()
        kept = (theirs != 0).any(axis=2)
        np.testing.assert_array_equal(image, np.where(kept[..., None], normalize(PICTURE, encoding), 0))


def test_erased_with_noise():
    image = np.full((40, 30, 3), 7, np.float32)
    entries = augmentations(("random_erasing(p=1, low=0.5, high=0.5, noise=1)",))
    finish(image, entries, np.random.default_rng(0))
    noise = image[(image != 7).any(axis=2)]
    assert len(noise) == pytest.approx(600, abs=40)
    assert (noise.mean(), noise.std()) == (pytest.approx(0, abs=0.08), pytest.approx(1, abs=0.06))


def test_erasing_comes_after_the_rest_of_the_draws():
    """The generator goes on where the other augmentations leave it."""
    encoding, augment = ImageEncoding(size=(12, 10, 3)), ("flip", "random_erasing(p=1)")
    split = Split.whole(image=Array(PICTURE[None], "image"))
    (found,) = encoding.reader(split)(np.zeros(1, int), None, Draw(3, 4, np.arange(1), augment))["image"]
    rng = example_rng(3, 4, 0)
    expected = normalize(applied(PICTURE, augmentations(("flip",)), rng), encoding)
    (change,) = augmentations(augment)[1].changes(rng, (12, 10))
    np.testing.assert_array_equal(found, change.apply(expected, "nearest"))
    assert (found == 0).any()


# sha256 of the results for 20 seeds of an array, of floats and of an opened image, before there were options.
BEFORE = {
    ("flip",): "9a63dc81a7513bdc",
    ("shift",): "fd5d800faa3c27aa",
    ("crop",): "c09d671230dfa786",
    ("jitter",): "6a52dbae074fffa2",
    ("crop", "flip", "jitter"): "69b09877e71e65da",
    ("flip", "crop", "shift"): "10feb2e14c6791db",
}


@pytest.mark.parametrize("names", BEFORE, ids=str)
def test_names_without_options_keep_their_bits(names):
    image, encoding = np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8), ImageEncoding(size=(12, 10, 3))
    encoding, digest = dataclasses.replace(encoding, interpolation="bicubic"), hashlib.sha256()
    for seed in range(20):
        for given in (image, image.astype(np.float32), Image.fromarray(image)):
            digest.update(augmented(given, names, np.random.default_rng(seed), encoding).tobytes())
    assert digest.hexdigest()[:16] == BEFORE[names]


def test_a_crop_that_never_fits_is_cut_from_the_centre():
    """Ratios of 3 / 4 in an image 2 x 20: 10 tries of two numbers each, then 2 rows and round(2 * 4 / 3) columns."""
    rng = Scripted(*[1.0, 0.0] * 10)
    assert random_resized_crop(rng, (2, 20), area=0.08) == (0, 8, 2, 3)
    assert (len(rng.asked), rng.asked[0]) == (20, (0.08, 1.0))
    assert random_resized_crop(Scripted(*[1.0, 0.0] * 10), (20, 3), area=0.08) == (8, 0, 4, 3)
    assert random_resized_crop(Scripted(0.25, 0.0, 1, 2), (4, 8), area=0.2) == (1, 2, 3, 3)  # sqrt(8) rounds to 3


def test_colours_by_hand():
    image = np.array([[[100, 200, 0], [0, 0, 0]]], np.uint8)
    double = applied(image, augmentations(("color_jitter(contrast=0, saturation=0, hue=0)",)), Fixed(1.25))
    assert double.tolist() == [[[125, 250, 0], [0, 0, 0]]]
    (grey,) = applied(image, augmentations(("grayscale(p=1)",)), None).tolist()
    assert grey == [[147] * 3, [0] * 3]  # (19595 * 100 + 38470 * 200) / 65536 = 147.3
    bright = np.array([[[250, 0, 0]]], np.uint8)
    third = applied(
        bright, augmentations(("color_jitter(brightness=0, contrast=0, saturation=0, hue=0.5)",)), Fixed(1 / 3)
    )
    assert third.tolist() == [[[0, 250, 0]]]  # red to green; 85 of 255 steps


def test_posterized_to_no_bits_is_black():
    assert AUGMIX["Posterize"].at(9, 10, (12, 10)) == 0
    assert not OPERATIONS["Posterize"](0.0).apply(PICTURE, "nearest").any()
    np.testing.assert_array_equal(OPERATIONS["Posterize"](3.0).apply(PICTURE, "nearest"), PICTURE // 32 * 32)


@pytest.mark.parametrize("shape", [(12, 10, 3), (12, 10, 1), (1, 1, 3)])
@pytest.mark.parametrize("name", ["augmix(severity=10, width=2)", "randaugment(ops=4, magnitude=30)", "trivialaugment"])
def test_the_strongest_operations_keep_shape_and_type(name, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for seed in range(40):
        found = ours(name, seed, image)
        assert (found.shape, found.dtype) == (shape, np.uint8)


class Fixed:
    """A generator of one number, which leaves orders as they are."""

    def __init__(self, value):
        self.value = value

    def uniform(self, low, high):
        return self.value

    def permutation(self, n):
        return np.arange(n)


def test_a_blur_by_hand():
    """One bright pixel in the middle: the kernel, times itself."""
    image = np.zeros((5, 5, 1), np.float32)
    image[2, 2] = 100
    x = np.exp(-0.5 * np.array([1.0, 0.0, 1.0]))
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = 100 * np.outer(x, x) / x.sum() ** 2
    found = applied(image, augmentations(("gaussian_blur(p=1, low=1, high=1)",)), np.random.default_rng(0))
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["vertical_flip", "rotation", "randaugment(magnitude=20)", "trivialaugment"])
def test_a_mask_moves_as_its_image_and_has_its_own_colours(name):
    mask = np.random.default_rng(0).integers(1, 200, (12, 10), np.uint8)
    encoding, moved = ImageEncoding(size=(12, 10, 1)), 0
    for seed in range(30):
        expected = mask[..., None]
        for change in augmentations((name,))[0].changes(np.random.default_rng(seed), (12, 10)):
            expected = change.apply(expected, "nearest") if change.moves else expected
        found = augmented_mask(mask, (name, "random_erasing"), np.random.default_rng(seed), encoding)
        np.testing.assert_array_equal(found, np.where(expected == 0, OUTSIDE, expected)[..., 0])
        moved += (found != mask).any()
    assert 0 < moved < 30 or name == "rotation"


def test_an_image_of_floats_moves_and_has_no_colours():
    image = np.random.default_rng(0).random((6, 5, 4), np.float32)
    found = ours("vertical_flip(p=1)", 0, image)
    np.testing.assert_array_equal(found, image[::-1])
    assert ours("rotation", 0, image).dtype == np.float32
    with pytest.raises(InputError, match="^randaugment needs 8-bit images, grey or RGB, found float32 with 4 channels"):
        ours("randaugment", 0, image)


@pytest.mark.parametrize(
    "given, recorded",
    [
        ("randaugment(ops=2, magnitude=9)", "randaugment"),
        ("randaugment( magnitude=5,ops=2 )", "randaugment(magnitude=5)"),
        ("randaugment(magnitude=5, ops=3)", "randaugment(ops=3, magnitude=5)"),
        ("rotation(degrees=15)", "rotation(degrees=15.0)"),
        ("rotation()", "rotation"),
        ("flip", "flip"),
    ],
)
def test_one_augmentation_is_recorded_in_one_spelling(given, recorded):
    assert canonical((given,)) == canonical((recorded,)) == (recorded,)


@pytest.mark.parametrize(
    "entry, message",
    [
        ("flop(p=1)", "unknown augmentation 'flop'; nearest: 'flip'"),
        ("randaugment(magnitud=9)", "randaugment has no option 'magnitud'; nearest: 'magnitude'"),
        ("shift(p=1)", "shift has no option 'p'; known: none"),
        ("randaugment(ops=1.5)", "randaugment expects an integer as ops, found 1.5"),
        ("randaugment(ops=True)", "randaugment expects an integer as ops, found True"),
        ("rotation(degrees='x')", "rotation expects a number as degrees, found 'x'"),
        ("randaugment(magnitude=31)", "randaugment expects magnitude from 0 to 30, found 31"),
        ("flip(p=-1)", "flip expects p from 0 to 1, found -1"),
        ("flip(p=1, p=0)", r"expected each option once, found 'flip\(p=1, p=0\)'"),
        ("gaussian_blur(low=3)", "gaussian_blur expects low of at most high, found 3 and 2; set both"),
        *(
            (text, r"expected NAME or NAME\(OPTION=VALUE, ...\), found 'flip")
            for text in ("flip(", "flip(0.5)", "flip(p=x)", "flip(p=1)(p=2)", "flip(**{})", "flip(p=1)+1")
        ),
    ],
)
def test_what_is_wrong_with_an_entry_is_one_line(entry, message):
    with pytest.raises(InputError, match=message):
        augmentations(("crop", entry))


def test_erasing_before_something_else_is_refused():
    assert len(augmentations(("flip", "random_erasing", "random_erasing(noise=1)"))) == 3
    with pytest.raises(InputError, match="random_erasing acts on the model's input.*before flip; move it to the end"):
        augmentations(("random_erasing", "flip"))


def test_augmix_of_masks_is_refused():
    values = np.zeros((3, 4, 4, 1), np.uint8)
    split = Split.whole(image=Array(values, "image"), mask=Array(values[..., 0], "mask"))
    feed = Feed(split=split, encodings=(ImageEncoding(size=(4, 4, 1)),))
    feed.check(("trivialaugment",))
    with pytest.raises(InputError, match="augmix mixes moved images, whose masks can't be mixed; remove it"):
        feed.check(("flip", "augmix"))


def test_colours_of_other_images_are_refused_before_training():
    split = Split.whole(image=Array(np.zeros((3, 4, 4, 2), np.float32), "image"))
    feed = Feed(split=split, encodings=(ImageEncoding(size=(4, 4, 2)),))
    feed.check(("flip", "rotation", "random_erasing"))
    with pytest.raises(InputError, match="grayscale needs 8-bit images, grey or RGB, found float32 with 2 channels"):
        feed.check(("flip", "grayscale"))


def test_every_default_is_within_its_bounds():
    for kind in AUGMENTATIONS.values():
        assert [kind.draw, kind.rectangle, kind.rewrite].count(None) == 2
        bounded = [option for option in kind.options.values() if not isinstance(option[0], str)]
        assert all(least <= default <= most for default, least, most in bounded)
