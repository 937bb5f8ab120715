"""Corruptions: their arithmetic on small inputs, that a row always gets the same one, and what they refuse."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from jaxfer.data.corruptions import KINDS, Corruption, corrupted
from jaxfer.data.corruptions.image import brightness, contrast, fog, plasma, shot_noise
from jaxfer.data.corruptions.text import case, typos
from jaxfer.data.encodings.text import Words, texts
from jaxfer.data.prepare import DataConfig, prepare
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 20, 24, 3), np.uint8)
LABELS = Array(np.arange(6, dtype=np.int32) % 2, "class")


def data(column, **columns):
    split = Split.whole(**{column.kind: column}, label=LABELS, **columns)
    return Dataset(splits={"train": split, "test": split}, classes=("a", "b"), fingerprint="f")


def test_brightness_keeps_the_hue():
    found = brightness(np.array([[[0.2, 0.4, 0.4], [0.0, 0.0, 0.0]]]), RNG, 0.3)
    np.testing.assert_allclose(found, [[[0.35, 0.7, 0.7], [0.3, 0.3, 0.3]]])


def test_contrast_is_about_the_mean_of_a_channel():
    found = contrast(np.array([[[0.0], [1.0]]]), RNG, 0.2)
    np.testing.assert_allclose(found, [[[0.4], [0.6]]])


def test_shot_noise_has_the_variance_of_photons():
    found = shot_noise(np.full((400, 400, 1), 0.5), np.random.default_rng(0), 60)
    assert found.mean() == pytest.approx(0.5, abs=1e-3) and found.var() == pytest.approx(0.5 / 60, rel=0.02)


def test_fog_keeps_the_largest_value_and_plasma_fills_its_range():
    clouds = plasma(np.random.default_rng(1), (30, 40), 2)
    assert clouds.shape == (30, 40) and clouds.min() == 0 and clouds.max() == 1
    found = fog(np.full((30, 40, 1), 0.8), np.random.default_rng(1), 1.5, 2)
    np.testing.assert_allclose(found[:, :, 0], (0.8 + 1.5 * clouds) * 0.8 / 2.3)


def test_impulses_are_the_stated_share():
    image = np.full((200, 200, 3), 128, np.uint8)
    for severity, share in zip(range(1, 6), (0.03, 0.06, 0.09, 0.17, 0.27), strict=True):
        found = Corruption("impulse_noise", severity)(image, 0)
        assert (found != 128).mean() == pytest.approx(share, rel=0.05)
        assert (found == 255).sum() == pytest.approx((found == 0).sum(), rel=0.1)


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"]
)
def test_what_moves_pixels_leaves_an_even_image(name):
    image = np.full((28, 20, 3), 77, np.uint8)
    for severity in range(1, 6):
        np.testing.assert_array_equal(Corruption(name, severity)(image, 3), image)


@pytest.mark.parametrize("name", KINDS["image"])
def test_every_image_keeps_its_form_and_a_row_its_corruption(name):
    corruption = Corruption(name, 5)
    for shape in ((20, 24, 3), (20, 24, 1), (20, 24), (20, 24, 4), (8, 8, 1)):
        image = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
        found = corruption(image, 1)
        assert found.shape == shape and found.dtype == np.uint8
        np.testing.assert_array_equal(found, corruption(image, 1))
        if shape[-1] == 4:
            np.testing.assert_array_equal(found[:, :, 3], image[:, :, 3])
    large = np.random.default_rng(3).integers(0, 256, (64, 80, 3), np.uint8)
    assert np.abs(corruption(large, 0).astype(float) - large).mean() > 1


def test_pixelate_makes_boxes():
    image = np.array([[0, 100], [200, 100]], np.uint8).repeat(4, 0).repeat(4, 1)[:, :, None]
    found = Corruption("pixelate", 5)(image, 0)[:, :, 0]  # 8 x 8 to 2 x 2 and back
    np.testing.assert_array_equal(found, image[:, :, 0])


def test_typos_stay_inside_words_and_case_changes_nothing_else():
    rng, text = np.random.default_rng(0), "A quick brown fox, naïve and 1234567 straße jumped!"
    slipped = typos(text, rng, 1.0)
    assert slipped.split()[3] == "fox," and "1234567" in slipped and slipped != text and len(slipped) == len(text)
    for before, after in zip(text.split(), slipped.split(), strict=True):
        assert sorted(before) == sorted(after) and before[0] == after[0] and before[-1] == after[-1]
    assert case(text, rng, 1.0) == "a QUICK BROWN FOX, NAÏVE AND 1234567 straße JUMPED!"  # STRASSE would be longer
    assert typos(text, rng, 0.0) == case(text, rng, 0.0) == text


def test_a_data_set_of_images():
    before = data(Array(IMAGES, "image"), mask=Array(IMAGES[..., 0], "mask"))
    after = corrupted(before, "fog:5")
    image = after.splits["test"].columns["image"]
    assert image is after.splits["train"].columns["image"] and len(image) == 6 and image.kind == "image"
    assert image.key(2) == before.splits["train"].columns["image"].key(2) and not hasattr(image, "picture")
    np.testing.assert_array_equal(image[2], Corruption("fog", 5)(IMAGES[2], 2))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image))[4], image[4])
    assert after.splits["test"].columns["mask"] is before.splits["test"].columns["mask"]
    fingerprints = {after.fingerprint, corrupted(before, "fog").fingerprint, before.fingerprint}
    assert len(fingerprints) == 3 and corrupted(before, "fog:3").fingerprint in fingerprints
    assert "data.corrupt=fog:5: every split's inputs are corrupted" in after.notes


def test_texts_pairs_and_words():
    single, pairs = texts(("whole sentences",) * 6), texts(("first words",) * 6, ("second words",) * 6)
    words = Words((("several", "words", "here"),) * 6)
    for column in (single, pairs, words):
        found = corrupted(data(column), "typos:5").splits["train"].columns["text"]
        assert type(found) is type(column) and found.sha256 != column.sha256 and len(found) == 6
    assert all(len(sentence) == 3 for sentence in found.sentences)


def test_in_a_config():
    config = DataConfig(source="any", corrupt="contrast", val_per_class=1)
    assert config.corrupt == "contrast:3" and config.to_dict()["corrupt"] == "contrast:3"
    assert "corrupt" not in DataConfig(source="any").to_dict()
    found = prepare(data(Array(IMAGES, "image")), config, seed=0, with_test=False)
    row = int(found.splits["val"].rows[0])
    np.testing.assert_array_equal(found.splits["val"].example("image", 0), Corruption("contrast")(IMAGES[row], row))


@pytest.mark.parametrize(
    ("spelled", "message"),
    [
        ("fug", "config.data.corrupt: no corruption 'fug'; nearest: 'fog'"),
        ("fog:6", "config.data.corrupt=fog:6: expected a severity of 1 to 5 after the colon, found '6'"),
        ("fog:", "expected a severity of 1 to 5 after the colon, found ''"),
        ("case", "config.data.corrupt=case is of inputs of kind 'text'; expected one of gaussian_noise"),
    ],
)
def test_what_is_refused(spelled, message):
    with pytest.raises(InputError, match=message):
        corrupted(data(Array(IMAGES, "image")), spelled)


def test_inputs_without_corruptions():
    with pytest.raises(InputError, match="no corruption is of inputs of kind 'row'; remove it"):
        corrupted(data(Array(np.zeros((6, 3), np.float32), "row")), "fog")
