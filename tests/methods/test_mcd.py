"""MCD: each side's gradient is the sum of those of the paper's steps, computed one by one."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.conformance import tiny
from jaxfer.method import NOTHING, Streamed
from jaxfer.methods import mcd
from jaxfer.models.port import FEATURES
from jaxfer.registry import METHODS, TASKS
from jaxfer.rules import flatten

PORT = tiny.make("vit_cls")


def test_discrepancy_and_imbalance_by_hand():
    first, second = np.random.default_rng(0).normal(size=(2, 5, 3))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (first, second))
    with jax.enable_x64(True):
        found = float(mcd.discrepancy(jnp.asarray(first), jnp.asarray(second))), float(mcd.imbalance(first))
    wanted = np.abs(p - q).sum() / 15, -np.log(p.mean(0) + 1e-6).sum() / 3
    assert found == (pytest.approx(wanted[0], abs=1e-12), pytest.approx(wanted[1], abs=1e-12))


def test_gradients_are_those_of_the_three_steps():
    rng = np.random.default_rng(1)
    source, target = (rng.normal(size=(n, 12)).astype(np.float32) for n in (6, 4))
    method, label = METHODS.make("mcd", PORT), jnp.arange(6) % 3
    start = {"head": {"out": {"kernel": rng.normal(size=(12, 3)).astype(np.float32), "bias": np.ones(3, np.float32)}}}
    params, _ = method.init(start, jax.random.key(0), NOTHING)
    hparams = {name: jnp.float32(value) for name, (value, _) in method.hparams.items()}
    hparams |= {"label_smoothing": jnp.float32(0), "trade_off": jnp.float32(0.7), "balance": jnp.float32(0.3)}

    def loss(params, source, target):
        ctx = types.SimpleNamespace(task=TASKS.make("classification"), batch={"label": label}, params=params)
        ctx.hparams, ctx.taps, ctx.streams = hparams, {FEATURES: source}, {"target": Streamed(None, {FEATURES: target})}
        return method.loss(ctx, None)

    heads, features = jax.jit(jax.grad(lambda p, f: loss(p, *f)[0], (0, 1)))(params, (source, target))

    def outputs(params, x):
        layers = params["head"]["out"], params["mcd"]["head"]["layer_0"]
        return [x @ layer["kernel"] + layer["bias"] for layer in layers]

    def on_source(params, source, target):
        cross = optax.softmax_cross_entropy_with_integer_labels
        even = sum(-jnp.log(jax.nn.softmax(x).mean(0) + 1e-6).mean() for x in outputs(params, target))
        return sum(cross(x, label).mean() for x in outputs(params, source)) + 0.3 * even

    def apart(params, source, target):
        p, q = map(jax.nn.softmax, outputs(params, target))
        return 0.7 * jnp.abs(p - q).mean()

    def b(params, *features):
        return on_source(params, *features) - apart(params, *features)

    step_a, step_b, step_c = (jax.grad(f, (0, 1, 2))(params, source, target) for f in (on_source, b, apart))
    for path, found in flatten(heads).items():
        wanted = flatten(step_a[0])[path] + flatten(step_b[0])[path]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6, err_msg=path)
    for i, found in enumerate(features, start=1):
        np.testing.assert_allclose(found, step_a[i] + 4 * step_c[i], rtol=1e-4, atol=1e-6)
    assert np.abs(step_c[2]).max() > 1e-3
