"""DINO: its loss by hand, and what a step makes of the center and of the copy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxfer.errors import InputError
from jaxfer.methods import dino
from jaxfer.models.port import FEATURES
from jaxfer.rules import flatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage


def by_hand(student, teacher, center, student_temperature=0.1, teacher_temperature=0.04):
    """Eqs. 1 and 2 with the center of eq. 4, example by example."""
    total = 0.0
    for s, t in zip(student / student_temperature, (teacher - center) / teacher_temperature, strict=True):
        p, q = np.exp(t) / np.exp(t).sum(), np.exp(s) / np.exp(s).sum()
        total -= sum(a * np.log(b) for a, b in zip(p, q, strict=True))
    return total / len(student)


def test_loss_by_hand():
    rng = np.random.default_rng(0)
    student, teacher = rng.uniform(-1, 1, size=(2, 5, 4))
    center = 0.1 * rng.normal(size=4)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (student, teacher, center)]
        found = dino.cross_entropy(*arrays, 0.1, 0.04)
        through = jax.grad(lambda teacher: dino.cross_entropy(arrays[0], teacher, arrays[2], 0.1, 0.04))(arrays[1])
    assert float(found) == pytest.approx(by_hand(student, teacher, center), rel=1e-9)
    assert not np.any(through)


def head_by_hand(head, x):
    for i in range(3):
        x = x @ head["stack"][f"layer_{i}"]["kernel"] + head["stack"][f"layer_{i}"]["bias"]
        if i < 2:
            x = x * scipy.special.ndtr(x)
    kernel = head["classes"]["kernel"]
    return x / np.linalg.norm(x, axis=1, keepdims=True) @ (kernel / np.linalg.norm(kernel, axis=0))


def test_a_step_by_hand():
    fields = dict(optimizer="sgd", lr=0.5, momentum=0.0, weight_decay=0.0)
    options = {"classes": 6, "hidden": 7, "bottleneck": 5, "momentum_copy": 0.9, "center": 0.8}
    stage = tiny_stage("vit_cls", method="dino", options=options, **fields)
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    state = stage.enter(params, model_state, 0)
    center = np.random.default_rng(1).normal(size=6).astype(np.float32) * 0.1
    state = state.replace(extra={**state.extra, "center": jnp.asarray(center)})
    head, copy = jax.device_get((state.params["projection"]["head"], state.extra["copy"]))
    one, two = (
        head_by_hand(
            head, np.asarray(port.forward(params, model_state, x, taps=(FEATURES,)).taps[FEATURES], np.float64)
        )
        for x in (batch, batch["view"])
    )
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    wanted = by_hand(one, two, center) + by_hand(two, one, center)
    assert float(metrics["loss"]) == pytest.approx(wanted, rel=1e-4)
    mean = np.concatenate([one, two]).mean(0)
    np.testing.assert_allclose(after.extra["center"], 0.8 * center + 0.2 * mean, rtol=1e-4, atol=1e-6)
    moved = flatten(after.params)
    for path, leaf in copy.items():
        np.testing.assert_allclose(after.extra["copy"][path], 0.9 * leaf + 0.1 * moved[path], rtol=1e-5, atol=1e-6)


def test_what_is_refused():
    with pytest.raises(InputError, match=r"expected classes, hidden and bottleneck >= 1, found \(4096, 0, 256\)"):
        tiny_stage("vit_cls", method="dino", options={"hidden": 0})
