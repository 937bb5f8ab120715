"""Weight normalisation of the output layer: a step by hand, what a run leaves, and what it can't be put on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.rules import flatten, unflatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage

SGD = dict(optimizer="sgd", momentum=0.0, weight_decay=0.0, lr=0.1)


def test_a_step_by_hand():
    """Eqs. 2 and 3: of w = g v / |v|, dL/dg = dL/dw . v / |v|, dL/dv = g / |v| (dL/dw - dL/dg v / |v|)."""
    stage = tiny_stage("vit_cls", method="full", adds=("weight_norm",), **SGD)
    (params, model_state), (batch,) = backbone(stage), batches(stage, 1)
    state = stage.enter(params, model_state, 0)
    leaves = flatten(state.params)
    v, g = leaves["head/out/kernel"], leaves["weight_norm/head/out/scale"]
    np.testing.assert_allclose(g, np.linalg.norm(v, axis=0), rtol=1e-6)

    @jax.grad
    def gradient(kernel):
        own = unflatten({**flatten(params), "head/out/kernel": kernel})
        outputs = stage.spec.port.apply(own, {}, batch)[0]
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["label"][:, None], 1).mean()

    dw, length = np.asarray(gradient(v), np.float64), np.linalg.norm(np.asarray(v, np.float64), axis=0)
    dg = (dw * v).sum(0) / length
    dv = np.asarray(g) / length * (dw - dg * np.asarray(v) / length)
    after, _ = jax.jit(make_train_step(stage.spec))(state, batch)
    found = flatten(after.params)
    np.testing.assert_allclose(found["weight_norm/head/out/scale"], g - 0.1 * dg, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["head/out/kernel"], v - 0.1 * dv, rtol=1e-5, atol=1e-6)

    plain, _ = stage.leave(after)
    assert "weight_norm" not in plain
    kernel = np.asarray(found["head/out/kernel"])
    wanted = kernel * np.asarray(found["weight_norm/head/out/scale"]) / np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(plain["head"]["out"]["kernel"], wanted, rtol=1e-5)


def test_it_is_in_the_kernel_s_group_and_no_decay_draws_it():
    stage = tiny_stage("resnet_basic", method="full", adds=("weight_norm",))
    rows = dict(stage.spec.leaves)
    assert rows["weight_norm/head/out/scale"].group == rows["head/out/kernel"].group == "head"
    assert rows["weight_norm/head/out/scale"].decay_scale == 0.0 and rows["head/out/kernel"].decay_scale == 1.0


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("shot", "by the task's loss alone, such as full"),
        ("l2sp", "by the task's loss alone, such as full"),
    ],
)
def test_what_it_cannot_be_put_on(method, message):
    with pytest.raises(InputError, match=f"add-on weight_norm: .*{message}"):
        tiny_stage("resnet_basic", method=method, adds=("weight_norm",))
