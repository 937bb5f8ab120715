"""Contrastive losses and retrieval, against values by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.data.encodings.text import texts
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.registry import TASKS
from jaxfer.tasks import contrastive

# Rows of an image times columns of a text; the right ones are on the diagonal.
TABLE = np.array([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [0.0, 0.0, 0.5]], np.float32)
OUTPUTS = np.stack([TABLE, np.eye(3, dtype=np.float32)], 1)  # images @ texts.T is the table


def softmax_by_hand(table):
    return -math.log(math.exp(table[0]) / sum(map(math.exp, table)))


def test_the_softmax_loss_is_the_mean_of_both_ways():
    rows = [softmax_by_hand(np.roll(TABLE[i], -i)) for i in range(3)]
    columns = [softmax_by_hand(np.roll(TABLE[:, i], -i)) for i in range(3)]
    expected = [(row + column) / 2 for row, column in zip(rows, columns, strict=True)]
    np.testing.assert_allclose(contrastive.softmax(jnp.asarray(OUTPUTS)), expected, rtol=1e-6)


def test_equal_texts_of_a_batch_are_negatives_of_each_other():
    """As in FLYP, whose captions are classes: two images of one class share half of the chance."""
    table = np.array([[9.0, 9.0], [9.0, 9.0]], np.float32)
    outputs = np.stack([table, np.eye(2, dtype=np.float32)], 1)
    np.testing.assert_allclose(contrastive.softmax(jnp.asarray(outputs)), [math.log(2)] * 2, rtol=1e-6)


def test_the_sigmoid_loss_sums_over_the_texts():
    expected = [
        sum(math.log1p(math.exp(-x if i == j else x)) for j, x in enumerate(row))
        for i, row in enumerate(TABLE.tolist())
    ]
    np.testing.assert_allclose(contrastive.sigmoid(jnp.asarray(OUTPUTS)), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", contrastive.LOSSES)
def test_the_loss_of_a_split_is_that_of_one_batch(loss, monkeypatch):
    monkeypatch.setattr(contrastive, "CHUNK", 4)
    outputs = np.random.default_rng(0).normal(size=(11, 2, 5)).astype(np.float32)
    split = Split.whole(image=Array(np.arange(11, dtype=np.uint8)[:, None], "image"))
    found = TASKS.make("contrastive", loss=loss).gathered(outputs, split)["loss"]
    assert abs(found - float(getattr(contrastive, loss)(jnp.asarray(outputs)).mean())) < 1e-5


def gathered(table, images, captions):
    """Metrics of a split whose scores are a table [pairs, pairs]."""
    outputs = np.stack([table, np.eye(len(table), dtype=np.float32)], 1)
    column = Array(np.array(images, np.uint8)[:, None], "image")
    split = Split.whole(image=column, text=texts(tuple(captions)))
    return TASKS.make("contrastive").gathered(outputs, split)


def test_places_and_recall_of_single_pairs():
    found = gathered(TABLE, (0, 1, 2), "abc")
    # Images: places 1, 2, 1; texts by column: 1, 1, 3.
    assert found["image_to_text@1"] == pytest.approx(2 / 3) and found["text_to_image@1"] == pytest.approx(2 / 3)
    assert found["recall@1"] == pytest.approx(2 / 3) and found["text_to_image@5"] == 1.0
    assert found["image_to_text_rank"] == 1.0 and found["text_to_image_rank"] == 1.0
    assert set(found) >= {f"{way}@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}


def test_an_image_with_two_texts_and_a_text_of_two_images_count_once():
    # Pairs (0, a), (0, b), (1, b): two images, two texts. Rows of equal inputs are equal.
    scores = {(0, "a"): 1.0, (0, "b"): 0.5, (1, "a"): 3.0, (1, "b"): 2.0}
    images, captions = (0, 0, 1), "abb"
    table = np.array([[scores[i, c] for c in captions] for i in images], np.float32)
    found = gathered(table, images, captions)
    assert found["image_to_text@1"] == 0.5  # of image 1, the wrong text a is before b
    assert found["text_to_image@1"] == 0.5  # of text a, image 1 is before image 0; both images are right for b
    assert found["image_to_text_rank"] == 1.5


def test_one_embedding_for_all_recalls_nothing():
    found = gathered(np.ones((20, 20), np.float32), range(20), [f"text {i}" for i in range(20)])
    assert found["recall@1"] == found["image_to_text@10"] == 0.0 and found["text_to_image_rank"] == 20.0


def test_a_gradient_reaches_both_towers():
    for loss in (contrastive.softmax, contrastive.sigmoid):
        slope = jax.grad(lambda x, loss=loss: loss(x).sum())(jnp.asarray(OUTPUTS))
        assert (jnp.abs(slope).sum((0, 2)) > 0).all()


def test_an_unknown_loss_is_refused():
    with pytest.raises(InputError, match="unknown config.task.loss 'sigmoids'; nearest: 'sigmoid'"):
        TASKS.make("contrastive", loss="sigmoids")
