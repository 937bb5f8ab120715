"""MCD: the paper's updates one after the other, by hand; jointly, each side's gradient is the sum of theirs."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.conformance import tiny
from jaxfer.conformance.training import entered
from jaxfer.errors import InputError
from jaxfer.method import NOTHING, Streamed
from jaxfer.methods import mcd
from jaxfer.models.port import FEATURES, Training
from jaxfer.registry import METHODS, TASKS
from jaxfer.rules import flatten, unflatten
from jaxfer.step import make_train_step
from tests.experiments import batches, tiny_stage

PORT = tiny.make("vit_cls")


def test_discrepancy_and_imbalance_by_hand():
    first, second = np.random.default_rng(0).normal(size=(2, 5, 3))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (first, second))
    with jax.enable_x64(True):
        found = float(mcd.discrepancy(jnp.asarray(first), jnp.asarray(second))), float(mcd.imbalance(first))
    wanted = np.abs(p - q).sum() / 15, -np.log(p.mean(0) + 1e-6).sum() / 3
    assert found == (pytest.approx(wanted[0], abs=1e-12), pytest.approx(wanted[1], abs=1e-12))


def test_the_defaults_are_the_papers():
    """Domains apart, and no balance, which it has for VisDA alone."""
    method = METHODS.make("mcd", PORT)
    assert method.separate and method.hparams["balance"][0] == 0.0
    assert not METHODS.make("mcd", PORT, norms="joint").separate


@pytest.mark.parametrize("norms", ["separate", "joint"])
def test_a_step_is_the_papers_updates_one_after_the_other(norms):
    """A moves all, B the heads, C the backbone twice; each side has its momentum, and C sees the heads of B."""
    options = {"discrepancy_steps": 2, "trade_off": 0.7, "balance": 0.3, "norms": norms}
    fields = dict(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.0)
    stage = tiny_stage("resnet_basic", method="mcd", options=options, **fields)
    state, feed, port = entered(stage), batches(stage, 2), stage.spec.port
    step, settings = (
        jax.jit(make_train_step(stage.spec)),
        Training(key=jax.random.key(0), live=stage.spec.live, eval_norms=frozenset()),
    )
    heads, rest = set(), set()
    for path in flatten(state.params):
        (heads if path.startswith(("head/out/", "mcd/")) else rest).add(path)

    def losses(leaves, model_state, batch):
        params = unflatten(leaves)
        images, features = [batch["image"], batch["target"]["image"]], []
        plain = {unit: value for unit, value in params.items() if unit != "mcd"}
        for image in images if norms == "separate" else [jnp.concatenate(images)]:
            passed = port.forward(plain, model_state, {"image": image}, training=settings, taps=(FEATURES,))
            model_state = passed.model_state
            features.append(passed.taps[FEATURES])
        features = jnp.concatenate(features)
        own, second = params["head"]["out"], params["mcd"]["head"]["layer_0"]
        logits = [features @ layer["kernel"] + layer["bias"] for layer in (own, second)]
        p, q = (jax.nn.softmax(x[8:]) for x in logits)
        cross = optax.softmax_cross_entropy_with_integer_labels
        learn = sum(cross(x[:8], batch["label"]).mean() for x in logits)
        learn += 0.3 * sum(-jnp.log(x.mean(0) + 1e-6).mean() for x in (p, q))
        apart = jnp.abs(p - q).mean()
        return jnp.stack([learn, learn - 0.7 * apart, 0.7 * apart]), model_state

    @jax.jit
    def gradient(leaves, model_state, batch, weights):
        return jax.grad(lambda x: (lambda v, s: (v @ weights, s))(*losses(x, model_state, batch)), has_aux=True)(leaves)

    leaves, model_state = flatten(state.params), state.model_state
    traces = dict.fromkeys(leaves, 0.0)
    for batch in feed:
        for which, moving in ((0, heads | rest), (1, heads), (2, rest), (2, rest)):
            found, model_state = gradient(leaves, model_state, batch, jnp.eye(3)[which])
            traces |= {path: found[path] + 0.9 * traces[path] for path in moving}
            leaves = {**leaves, **{path: leaves[path] - 0.2 * traces[path] for path in moving}}
        state, _ = step(state, batch)
    for path, leaf in flatten(state.params).items():
        np.testing.assert_allclose(leaf, leaves[path], rtol=2e-3, atol=2e-4, err_msg=path)
    for path, leaf in flatten(model_state).items():
        np.testing.assert_allclose(flatten(state.model_state)[path], leaf, rtol=2e-3, atol=2e-4, err_msg=path)


def test_what_is_refused():
    for options, line in (
        ({"form": "both"}, "options.form: expected paper or joint, found 'both'"),
        ({"discrepancy_steps": 0}, "options.discrepancy_steps: expected at least 1, found 0"),
    ):
        with pytest.raises(InputError, match=line):
            METHODS.make("mcd", PORT, **options)
    with pytest.raises(InputError, match="config.accumulate: the loss of method 'mcd' is of the batch as a whole"):
        tiny_stage("vit_cls", method="mcd", accumulate=2)


def test_gradients_are_those_of_the_three_steps():
    rng = np.random.default_rng(1)
    source, target = (rng.normal(size=(n, 12)).astype(np.float32) for n in (6, 4))
    method, label = METHODS.make("mcd", PORT, form="joint"), jnp.arange(6) % 3
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
