"""Bi-tuning: both contrasts by hand, what the queues hold and how the copy follows."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from jaxfer.errors import InputError
from jaxfer.methods import bituning
from jaxfer.models.port import FEATURES
from jaxfer.rules import flatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage


def by_hand(anchors, own, queue, label, temperature):
    total = 0.0
    for anchor, mine, y in zip(anchors, own, label, strict=True):
        keys = np.concatenate([[mine], queue.reshape(-1, queue.shape[-1])])
        logits = keys @ anchor / temperature
        logs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        count = queue.shape[1]
        total -= (logs[0] + logs[1 + y * count : 1 + (y + 1) * count].sum()) / (1 + count)
    return total / len(anchors)


def normed(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_contrast_by_hand():
    rng = np.random.default_rng(0)
    anchors, own, queue = (normed(rng.normal(size=shape)) for shape in ((5, 4), (5, 4), (3, 2, 4)))
    label = np.array([0, 2, 1, 1, 0])
    found = bituning.contrast(*(x.astype(np.float32) for x in (anchors, own, queue)), label, 0.07)
    assert float(found) == pytest.approx(by_hand(anchors, own, queue, label, 0.07), rel=1e-5)


def test_a_queue_gives_its_oldest_place():
    queue, place = np.zeros((2, 3, 1), np.float32), np.array([2, 0], np.int32)
    rows, label = np.arange(1, 7, dtype=np.float32)[:, None], np.array([0, 1, 0, 0, 0, 1])
    found, after = bituning.enqueued(queue, place, rows, label)
    np.testing.assert_array_equal(found[..., 0], [[3, 4, 5], [2, 6, 0]])  # of class 0: 1, 3, 4, 5 from place 2 on
    np.testing.assert_array_equal(after, [0, 2])


def test_a_step_by_hand():
    fields = dict(optimizer="sgd", lr=0.5, momentum=0.0, weight_decay=0.0)
    options = {"queue": 4, "projection": 5, "trade_off": 0.3, "momentum_copy": 0.9}
    stage = tiny_stage("vit_cls", method="bituning", options=options, **fields)
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    state = stage.enter(params, model_state, 0)
    extra, label = jax.device_get(state.extra), batch["label"]
    stack = jax.device_get(state.params["projector"]["head"])

    def projected(x):
        hidden = np.maximum(x @ stack["layer_0"]["kernel"] + stack["layer_0"]["bias"], 0)
        return normed(hidden @ stack["layer_1"]["kernel"] + stack["layer_1"]["bias"])

    own, view = (port.forward(params, model_state, x, taps=(FEATURES,)) for x in (batch, batch["view"]))
    features, keys = (np.asarray(x.taps[FEATURES], np.float64) for x in (own, view))
    weights = normed(params["head"]["out"]["kernel"].T)[label]
    task = float(optax.softmax_cross_entropy_with_integer_labels(own.outputs, label).mean())
    classes = by_hand(weights, normed(features), extra["features"], label, 0.07)
    examples = by_hand(projected(features), projected(keys), extra["projections"], label, 0.07)
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    assert float(metrics["loss"]) == pytest.approx(task + 0.3 * (classes + examples), rel=1e-4)
    for name, rows in (("features", normed(keys)), ("projections", projected(keys))):
        wanted, place = extra[name].copy(), np.zeros(3, int)
        for row, y in zip(rows, label, strict=True):
            wanted[y, place[y] % 4], place[y] = row, place[y] + 1
        np.testing.assert_allclose(after.extra[name], wanted, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(after.extra["place"], place % 4)
    moved = flatten(after.params)
    for path, leaf in extra["copy"].items():
        np.testing.assert_allclose(after.extra["copy"][path], 0.9 * leaf + 0.1 * moved[path], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(moved["projector/head/layer_0/kernel"], stack["layer_0"]["kernel"])


def test_what_is_refused():
    with pytest.raises(InputError, match="expected queue >= 1 and projection >= 1, found 0 and 128"):
        tiny_stage("vit_cls", method="bituning", options={"queue": 0})
    with pytest.raises(InputError, match="config.accumulate: the loss of method 'bituning' is of the batch as a whole"):
        tiny_stage("vit_cls", method="bituning", accumulate=2)
