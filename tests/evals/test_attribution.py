"""Integrated gradients and Grad-CAM of small networks, against what their definitions give in another way."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxfer.evals.attribution import Attribution
from jaxfer.method import Method
from jaxfer.network import Network
from jaxfer.ports import compiled_port_init
from jaxfer.registry import MODELS

IDS = np.array([[5, 7, 11, 3, 9, 0, 0, 0]], np.int32)


def network(name, **options):
    port = MODELS.make(name, outputs=3, **options)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), port.example(1))
    params, state = compiled_port_init(port)(jax.random.key(0), zeros)
    return Network(port=port, params=params, model_state=state)


def logits(net, batch):
    return np.asarray(net(batch).outputs, np.float64)[0]


@pytest.fixture(scope="module")
def images():
    return network("resnet", stage_sizes=(1, 1), width=4, stem="cifar", image=(8, 8, 3))


@pytest.fixture(scope="module")
def texts():
    sizes = dict(vocab=23, width=8, layers=2, heads=2, mlp_width=16, max_length=8, buckets=(8,))
    return network("bert", tokenizer="tests/data/tokenizer", **sizes)


def test_shares_of_pixels_add_up(images):
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    batch, blank = {"image": x}, {"image": np.zeros_like(x)}
    found = Attribution(images)(batch, blank, 2)
    assert found.places.shape == (8, 8) and found.error < 0.02
    difference = (logits(images, batch) - logits(images, blank))[2]
    assert found.places.sum() == pytest.approx(difference, abs=0.02 * abs(difference))


def test_the_map_is_that_of_a_linear_head(images):
    """Under a mean over places and a linear layer the gradient is the layer's weights (Zhou et al., 2016)."""
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 3)).astype(np.float32)
    unit = images.port.units[-2]
    maps = np.asarray(images({"image": x}, taps=(unit,)).taps[unit], np.float64)[0]
    kernel = np.asarray(images.params["head"]["out"]["kernel"], np.float64)
    for label in range(3):
        expected = np.maximum(maps @ kernel[:, label], 0)
        found = Attribution(images)({"image": x}, {"image": np.zeros_like(x)}, label).cam
        np.testing.assert_allclose(found, expected / (expected.max() or 1), atol=1e-4)


def test_shares_of_tokens_add_up(texts):
    fields = {name: np.zeros((1, 8), np.int32) for name in texts.port.inputs}
    first, mask = texts.port.inputs[0], next(name for name in texts.port.inputs if "mask" in name)
    batch = {**fields, first: IDS, mask: (IDS > 0).astype(np.int32)}
    blank = {**batch, first: np.zeros_like(IDS)}
    found = Attribution(texts)(batch, blank, 1)
    difference = (logits(texts, batch) - logits(texts, blank))[1]
    assert found.places.shape == (8,) and found.cam is None and found.error < 1e-3
    assert found.places.sum() == pytest.approx(difference, rel=1e-3)
    np.testing.assert_allclose(found.places[5:], 0, atol=1e-7)  # padding is padding in both


def test_what_can_not_be_asked(texts, images):
    """A method's interceptor may read what came before, as a side network does: no pass begins in the middle then."""
    apart = dataclasses.replace(texts, port=texts.port.with_apart())
    assert Attribution(texts).reads and not Attribution(apart).reads

    def unchanged(next_fun, args, kwargs, context):
        return next_fun(*args, **kwargs)

    method = Method(rules=(), intercept=lambda params, extra: unchanged)
    beside = [dataclasses.replace(net, method=method, extra={}) for net in (texts, images)]
    assert [Attribution(net).reads for net in beside] == [False, True]
    x = np.ones((1, 8, 8, 3), np.float32)
    found = Attribution(beside[1])({"image": x}, {"image": 0 * x}, 0)
    assert found.cam is None and found.places.shape == (8, 8)
