"""Segmentation: losses and metrics by hand, and masks that move with their images."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxfer.conformance import tasks
from jaxfer.conformance.tiny import TINY, batch, draw
from jaxfer.data.encoding import Draw
from jaxfer.data.encodings.image import OUTSIDE, ImageEncoding, augmented, augmented_mask, fit_mask
from jaxfer.data.loader import Feed, eval_batches, train_batches
from jaxfer.data.sources import masks
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.models import heads
from jaxfer.registry import MODELS, TASKS
from jaxfer.task import Mean
from jaxfer.tasks import segmentation

NONE = segmentation.NONE
# Two images of 1 x 3 pixels, two classes; softmax (3/4, 1/4), (1/4, 3/4), (1/2, 1/2 + a little: class 1).
LOGITS = jnp.log(jnp.asarray([[[3.0, 1.0], [1.0, 3.0], [1.0, 1.0001]]] * 2))[:, None]
SEGMENTS = jnp.asarray([[[0, 0, NONE]], [[1, NONE, 1]]], jnp.int32)


@pytest.mark.parametrize("check", tasks.PROPERTIES, ids=lambda check: check.__name__)
def test_segmentation_keeps(check):
    assert check("segmentation") is None


def test_the_loss_is_of_labelled_pixels():
    found = TASKS.make("segmentation").loss(LOGITS, {"segments": SEGMENTS}, {})
    first, second = math.log(4 / 3) + math.log(4), math.log(4) + math.log(2.0001 / 1.0001)
    np.testing.assert_allclose(found.total, [first, second], rtol=1e-5)
    np.testing.assert_array_equal(found.count, [2, 2])
    np.testing.assert_allclose(found.value(), (first + second) / 4, rtol=1e-5)


def test_metrics_by_hand():
    task, batch = TASKS.make("segmentation"), {"segments": SEGMENTS}
    accuracy = jax.device_get(task.scores(LOGITS, batch)["pixel_accuracy"])
    assert Mean.of([accuracy]) == 2 / 4  # answers 0 1 1, twice; labels 0 0 - and 1 - 1
    collected = jax.device_get(task.collect(LOGITS, batch))
    assert collected["confusion"].dtype == np.int32
    assert collected["confusion"].tolist() == [[[1, 1], [0, 0]], [[0, 0], [1, 1]]]
    assert collected["area"].tolist() == [[1, 2], [1, 2]]
    # Class 0: 1 right of 2 + 2 - 1; class 1: 1 of 2 + 2 - 1.
    assert task.gathered(collected, None) == {"miou": pytest.approx(1 / 3), "miou_classes": 2.0}


def test_a_class_that_does_not_occur_is_left_out():
    counts = np.asarray([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    assert segmentation.iou(counts) == {"miou": pytest.approx((3 / 4 + 2 / 3) / 2), "miou_classes": 2.0}
    assert segmentation.iou(np.zeros((3, 3), int)) == {"miou": 0.0, "miou_classes": 0.0}


def test_an_image_without_labels_counts_nothing():
    batch = {"segments": jnp.full((2, 1, 3), NONE)}
    task = TASKS.make("segmentation")
    assert float(task.loss(LOGITS, batch, {}).value()) == 0
    assert not task.collect(LOGITS, batch)["confusion"].any()


def test_a_constant_mask_is_scored():
    mask = np.asarray([[0, 0, 0, 1], [2, 2, 255, 255]], np.uint8)
    split = Split.whole(image=Array(np.zeros((1, 2, 4, 1), np.uint8), "image"), mask=Array(mask[None], "mask"))
    found = segmentation.constant(split, ImageEncoding(size=(2, 4, 1)), 3)
    assert found == {"pixel_accuracy": 0.5, "miou": pytest.approx(0.5 / 3), "miou_classes": 3.0}


def test_an_answer_is_the_share_of_each_class():
    answer = TASKS.make("segmentation").answer({"area": np.asarray([1, 3, 0])}, ("a", "b", "c"), None)
    assert (answer.labels, answer.probabilities) == (("b", "a"), {"b": 0.75, "a": 0.25, "c": 0.0})


@pytest.mark.parametrize("resize", [(), (14,), (15, 13)])
@pytest.mark.parametrize(
    "augment", [(), ("flip",), ("shift",), ("crop",), ("flip", "shift"), ("crop", "flip", "shift")], ids=str
)
@pytest.mark.parametrize("files", [False, True])
def test_a_mask_stays_on_its_image(tmp_path, files, augment, resize):
    """Images that are their masks, over many draws; beyond the image it is 0 and the mask 255."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, 200, (20, 16, 19), np.uint8)
    images = Array(values[..., None], "image")
    if files:  # opened and cut before they become arrays
        for i, value in enumerate(values):
            Image.fromarray(value).save(tmp_path / f"{i}.png")
        images = masks.Files(tmp_path, tuple(f"{i}.png" for i in range(20)))
    split = Split.whole(image=images, mask=Array(values, "mask"))
    encoding = ImageEncoding(size=(12, 10, 1), mean=(0.0,), std=(1 / 255,), interpolation="nearest", resize=resize)
    reader, moved = encoding.reader(split), 0
    for step in range(5):
        fields = reader(np.arange(20), None, Draw(3, step, np.arange(20), augment))
        image, mask = fields["image"][..., 0].round(), fields["mask"]
        assert mask.dtype == np.uint8 and mask.shape == (20, 12, 10)
        np.testing.assert_array_equal(np.where(mask == OUTSIDE, 0, mask), image)
        moved += not np.array_equal(mask, reader(np.arange(20), None, None)["mask"])
    assert bool(moved) == bool(augment)


def test_a_later_crop_takes_the_nearest_pixels_of_the_same_rectangle():
    mask = np.repeat(np.arange(10, dtype=np.uint8)[None], 12, 0)  # each column its number
    encoding = ImageEncoding(size=(12, 10, 1), interpolation="nearest")
    for seed in range(20):
        found = augmented_mask(mask, ("flip", "crop"), np.random.default_rng(seed), encoding)
        blended = augmented(mask[..., None], ("flip", "crop"), np.random.default_rng(seed), encoding)[..., 0]
        assert set(np.unique(found)) <= set(range(10))
        assert np.abs(found.astype(int) - blended).max() <= 1


def test_masks_are_not_blended():
    mask = np.asarray([[0, 2], [255, 0]], np.uint8)
    encoding = ImageEncoding(size=(6, 6, 3), interpolation="bicubic")
    np.testing.assert_array_equal(fit_mask(mask, encoding), mask.repeat(3, 0).repeat(3, 1))


def test_batches_have_segments_and_masks_of_padding():
    values = np.asarray([[[0, 255], [1, 2]]] * 3, np.uint8)
    split = Split.whole(image=Array(np.zeros((3, 2, 2, 3), np.uint8), "image"), mask=Array(values, "mask"))
    task = TASKS.make("segmentation")
    feed = Feed(split=split, encodings=(ImageEncoding(size=(2, 2, 3)),), targets=task.targets)
    (batch, last) = eval_batches(feed, batch_size=2)
    assert batch["segments"].dtype == np.int32 and batch["segments"][0].tolist() == [[0, NONE], [1, 2]]
    assert last["mask"].tolist() == [1, 0] and set(last) == {"image", "segments", "mask"}
    (batch,) = train_batches(feed, seed=0, batch_size=2, start=0, stop=1, augment=("flip",))
    assert set(batch) == {"image", "segments"}
    bare = Feed(split=Split.whole(image=split.columns["image"]), encodings=feed.encodings, targets=task.targets)
    assert (next(iter(eval_batches(bare, batch_size=2)))["segments"] == NONE).all()


@pytest.mark.parametrize("case", ["resnet_basic", "vit_mean", "vit_distilled", "vit_post", "mobilenet_v1"])
def test_a_dense_head_has_outputs_at_every_pixel(case):
    model, options = TINY[case]
    port = MODELS.make(model, **{**options, "head": heads.DENSE})
    params, model_state = draw(port)
    outputs, _ = port.apply(params, model_state, batch(port))
    assert outputs.shape == (4, *port.encoding.size[:2], 3) and outputs.dtype == jnp.float32
    assert set(params["head"]["out"]) == {"kernel", "bias"} and params["head"]["out"]["kernel"].ndim == 2


def test_one_class_is_refused():
    with pytest.raises(InputError, match="needs at least 2 classes, the data has 1"):
        TASKS.make("segmentation").outputs(1)
