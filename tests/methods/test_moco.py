"""MoCo: its loss by hand, what the queue holds and how the copy follows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.methods import moco
from jaxfer.models.port import FEATURES
from jaxfer.rules import flatten, unflatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage


def normed(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(queries, keys, queue, temperature):
    """Eq. 1, query by query."""
    total = 0.0
    for q, own in zip(queries, keys, strict=True):
        similar = np.exp(np.array([q @ own, *(q @ other for other in queue)]) / temperature)
        total -= np.log(similar[0] / similar.sum())
    return total / len(queries)


def test_loss_by_hand():
    rng = np.random.default_rng(0)
    queries, keys, queue = (normed(rng.normal(size=shape)) for shape in ((5, 4), (5, 4), (7, 4)))
    with jax.enable_x64(True):
        value, right = moco.info_nce(*(jnp.asarray(x) for x in (queries, keys, queue)), 0.07)
    assert float(value) == pytest.approx(by_hand(queries, keys, queue, 0.07), rel=1e-9)
    nearer = (queries * keys).sum(1) > (queries @ queue.T).max(1)
    assert float(right) == pytest.approx(nearer.mean())


def test_a_queue_gives_its_oldest_places():
    queue, place = moco.enqueued(jnp.zeros((5, 1)), jnp.asarray(3), jnp.arange(1.0, 5.0)[:, None])
    np.testing.assert_array_equal(queue[:, 0], [3, 4, 0, 1, 2])
    assert int(place) == 2


def test_a_step_by_hand():
    fields = dict(optimizer="sgd", lr=0.5, momentum=0.0, weight_decay=0.0)
    options = {"queue": 10, "projection": 5, "hidden": True, "momentum_copy": 0.9}
    stage = tiny_stage("vit_cls", method="moco", options=options, **fields)
    (params, model_state), feed, port = backbone(stage), batches(stage, 2), stage.spec.port
    state, step = stage.enter(params, model_state, 0), jax.jit(make_train_step(stage.spec))
    extra = jax.device_get(state.extra)

    def projected(leaves, batch):
        plain = {path: x for path, x in leaves.items() if not path.startswith("projection/")}
        x = np.asarray(port.forward(unflatten(plain), model_state, batch, taps=(FEATURES,)).taps[FEATURES])
        layers = [{name: leaves[f"projection/head/layer_{i}/{name}"] for name in ("kernel", "bias")} for i in (0, 1)]
        inner = np.maximum(x @ layers[0]["kernel"] + layers[0]["bias"], 0)
        return normed(inner @ layers[1]["kernel"] + layers[1]["bias"])

    queue, place, copy = extra["queue"].copy(), 0, extra["copy"]
    for batch in feed:
        queries, keys = projected(flatten(state.params), batch), projected(copy, batch["view"])
        wanted = by_hand(queries, keys, queue, 0.07)
        state, metrics = step(state, batch)
        assert float(metrics["loss"]) == pytest.approx(wanted, rel=1e-4)
        moved = flatten(state.params)
        copy = {path: 0.9 * x + 0.1 * np.asarray(moved[path]) for path, x in copy.items()}
        queue[(place + np.arange(8)) % 10] = keys
        place = (place + 8) % 10
        np.testing.assert_allclose(state.extra["queue"], queue, rtol=1e-4, atol=1e-5)
        for path, leaf in copy.items():
            np.testing.assert_allclose(state.extra["copy"][path], leaf, rtol=1e-5, atol=1e-6)
    assert int(state.extra["place"]) == 6


def test_what_is_refused():
    with pytest.raises(InputError, match="expected queue >= 1 and projection >= 1, found 0 and 128"):
        tiny_stage("vit_cls", method="moco", options={"queue": 0})
    with pytest.raises(InputError, match="a queue of 3 keys is smaller than a batch of 4; raise options.queue"):
        moco.enqueued(jnp.zeros((3, 1)), 0, jnp.zeros((4, 1)))
