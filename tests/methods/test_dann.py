"""DANN: its loss and both gradients by hand, at two points of its schedule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.models.port import FEATURES
from jaxfer.rules import flatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage


@pytest.mark.parametrize("done", [pytest.param(0, marks=pytest.mark.system), 5])
def test_a_step_by_hand(done):
    """At rate 1 without momentum: the discriminator descends, the backbone ascends, scaled by how far training is."""
    fields = dict(optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, steps=10)
    stage = tiny_stage("vit_cls", method="dann", options={"hidden": 5, "layers": 1, "trade_off": 0.7}, **fields)
    port, (batch,) = stage.spec.port, batches(stage, 1)
    params, model_state = backbone(stage)
    state = stage.enter(params, model_state, 0).replace(step=jnp.asarray(done, jnp.int32))
    stack = state.params["discriminator"]["head"]
    together = {"image": np.concatenate([batch["image"], batch["target"]["image"]])}
    first = np.arange(16) < 8  # the source's

    def task(params):
        logits = port.apply(params, model_state, batch)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    def confusion(params, stack):
        x = port.forward(params, model_state, together, taps=(FEATURES,)).taps[FEATURES]
        x = jax.nn.relu(x @ stack["layer_0"]["kernel"] + stack["layer_0"]["bias"])
        logits = (x @ stack["layer_1"]["kernel"] + stack["layer_1"]["bias"])[:, 0]
        return jnp.where(first, jnp.log1p(jnp.exp(-logits)), jnp.log1p(jnp.exp(logits))).mean()

    found, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    strength = 2 / (1 + np.exp(-10 * done / 10)) - 1
    assert strength == (0 if done == 0 else pytest.approx(0.98661, abs=1e-5))
    loss, gradient = jax.jit(jax.value_and_grad(task))(params)
    both = jax.jit(jax.value_and_grad(confusion, argnums=(0, 1)))
    value, (of_backbone, of_stack) = both(params, stack)
    assert float(metrics["domain_loss"]) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["loss"]) == pytest.approx(float(loss + 0.7 * value), rel=1e-5)
    for path, reverse in flatten(of_backbone).items():
        wanted = flatten(params)[path] - flatten(gradient)[path] + strength * 0.7 * reverse
        np.testing.assert_allclose(flatten(found.params)[path], wanted, rtol=0, atol=2e-6, err_msg=path)
    for path, descend in flatten(of_stack).items():
        wanted = flatten(stack)[path] - 0.7 * descend
        after = flatten(found.params["discriminator"]["head"])[path]
        np.testing.assert_allclose(after, wanted, rtol=0, atol=2e-6, err_msg=path)
    assert max(float(abs(x).max()) for x in flatten(of_stack).values()) > 1e-2
