"""BYOL: its loss and a step by hand, and how much of itself the copy keeps."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.methods import _dense, _views, byol
from jaxfer.models.port import FEATURES
from jaxfer.rules import flatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage


def by_hand(predicted, target):
    """Eq. 2, example by example: the squared distance of the vectors at length 1."""
    apart = [p / np.linalg.norm(p) - t / np.linalg.norm(t) for p, t in zip(predicted, target, strict=True)]
    return np.mean([(x**2).sum() for x in apart])


def mlp(leaves, x):
    """Linear, batch norm, ReLU, linear."""
    x = x @ leaves["layer_0"]["kernel"]
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * leaves["layer_0"]["scale"] + leaves["layer_0"]["bias"]
    return np.maximum(x, 0) @ leaves["layer_1"]["kernel"] + leaves["layer_1"]["bias"]


def test_loss_by_hand():
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(2, 5, 4))
    with jax.enable_x64(True):
        found = byol.apart(jnp.asarray(predicted), jnp.asarray(target))
    assert float(found) == pytest.approx(by_hand(predicted, target), rel=1e-9)


def test_a_normed_stack_by_hand():
    rng = np.random.default_rng(0)
    stack = {
        "layer_0": {"kernel": rng.normal(size=(4, 6)), "scale": rng.normal(size=6), "bias": rng.normal(size=6)},
        "layer_1": {"kernel": rng.normal(size=(6, 3)), "bias": rng.normal(size=3)},
    }
    x = rng.normal(size=(5, 4))
    with jax.enable_x64(True):
        found = _dense.through(jax.tree.map(jnp.asarray, stack), jnp.asarray(x))
    np.testing.assert_allclose(found, mlp(stack, x), rtol=1e-9)
    like = _dense.drawn(jax.random.key(0), [4, 6, 3], normed=True)
    assert {path: x.shape for path, x in flatten(like).items()} == {p: x.shape for p, x in flatten(stack).items()}


def test_the_copy_keeps_ever_more_of_itself():
    for step in (0, 25, 100):
        ctx = types.SimpleNamespace(step=jnp.asarray(step), hparams={"total_steps": 100.0})
        wanted = 1 - (1 - 0.996) * (np.cos(np.pi * step / 100) + 1) / 2
        assert float(_views.rising(ctx, 0.996)) == pytest.approx(wanted, rel=1e-6)
    assert wanted == 1


def test_a_step_by_hand():
    fields = dict(optimizer="sgd", lr=0.5, momentum=0.0, weight_decay=0.0)
    options = {"hidden": 7, "projection": 5, "momentum_copy": 0.9}
    stage = tiny_stage("vit_cls", method="byol", options=options, **fields)  # 4 steps
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    state = stage.enter(params, model_state, 0)
    start, copy = jax.device_get((state.params, state.extra["copy"]))
    assert not any(path.startswith("predictor/") for path in copy)
    one, two = (
        np.asarray(port.forward(params, model_state, x, taps=(FEATURES,)).taps[FEATURES], np.float64)
        for x in (batch, batch["view"])
    )
    project, predict = (lambda x, leaves=start[name]["head"]: mlp(leaves, x) for name in ("projector", "predictor"))
    wanted = by_hand(predict(project(one)), project(two)) + by_hand(predict(project(two)), project(one))
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    assert float(metrics["loss"]) == pytest.approx(wanted, rel=1e-4)
    moved = flatten(after.params)
    for path, leaf in copy.items():  # at the first step 0.9 of itself
        np.testing.assert_allclose(after.extra["copy"][path], 0.9 * leaf + 0.1 * moved[path], rtol=1e-5, atol=1e-6)
    for name in ("projector", "predictor"):
        assert not np.array_equal(
            after.params[name]["head"]["layer_0"]["scale"], start[name]["head"]["layer_0"]["scale"]
        )


def test_what_is_refused():
    with pytest.raises(InputError, match="expected hidden >= 1 and projection >= 1, found 0 and 256"):
        tiny_stage("vit_cls", method="byol", options={"hidden": 0})
