"""DANN: its loss and both gradients by hand, at two points of its schedule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.conformance import tiny
from jaxfer.conformance.training import entered
from jaxfer.errors import InputError
from jaxfer.models.port import FEATURES, Training
from jaxfer.registry import METHODS
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


@pytest.mark.parametrize("norms", ["joint", "separate"])
def test_batch_statistics_of_both_domains_or_of_each(norms):
    """One pass of both, or the source's and then the target's, whose running statistics follow in turn."""
    stage = tiny_stage("resnet_basic", method="dann", options={"hidden": 5, "layers": 1, "norms": norms})
    port, (batch,), state = stage.spec.port, batches(stage, 1), entered(stage)
    batch = {**batch, "target": {"image": 2 * batch["target"]["image"] + 1}}
    plain = {unit: value for unit, value in state.params.items() if unit != "discriminator"}
    settings = Training(key=jax.random.key(0), live=stage.spec.live, eval_norms=frozenset())
    images = batch["image"], batch["target"]["image"]
    features, model_state = [], state.model_state
    for read in images if norms == "separate" else [np.concatenate(images)]:
        passed = port.forward(plain, model_state, {"image": read}, training=settings, taps=(FEATURES,))
        features, model_state = [*features, passed.taps[FEATURES]], passed.model_state
    stack, x = state.params["discriminator"]["head"], jnp.concatenate(features)
    x = jax.nn.relu(x @ stack["layer_0"]["kernel"] + stack["layer_0"]["bias"])
    logits = (x @ stack["layer_1"]["kernel"] + stack["layer_1"]["bias"])[:, 0]
    wanted = jnp.logaddexp(0.0, jnp.where(np.arange(16) < 8, -logits, logits)).mean()
    found, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    assert float(metrics["domain_loss"]) == pytest.approx(float(wanted), rel=1e-4)
    for path, leaf in flatten(model_state).items():
        np.testing.assert_allclose(flatten(found.model_state)[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)


def test_a_discriminator_that_is_normed():
    """TLlib's: over the batch of both domains, biased, before the activation."""
    stage = tiny_stage("vit_cls", method="dann", options={"hidden": 5, "layers": 1, "normed": True})
    state, (batch,) = entered(stage), batches(stage, 1)
    plain = {unit: value for unit, value in state.params.items() if unit != "discriminator"}
    together = {"image": np.concatenate([batch["image"], batch["target"]["image"]])}
    x = np.asarray(stage.spec.port.forward(plain, {}, together, taps=(FEATURES,)).taps[FEATURES], np.float64)
    stack = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.params["discriminator"]["head"])
    x = x @ stack["layer_0"]["kernel"]
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * stack["layer_0"]["scale"] + stack["layer_0"]["bias"]
    logits = (np.maximum(x, 0) @ stack["layer_1"]["kernel"] + stack["layer_1"]["bias"])[:, 0]
    wanted = np.logaddexp(0.0, np.where(np.arange(16) < 8, -logits, logits)).mean()
    metrics = jax.jit(make_train_step(stage.spec))(state, batch)[1]
    assert float(metrics["domain_loss"]) == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(InputError, match="config.accumulate: the loss of method 'dann' is of the batch as a whole"):
        tiny_stage("vit_cls", method="dann", options={"normed": True}, accumulate=2)


@pytest.mark.parametrize(
    "name", ["cdan", "coral", "dan", "dann", "fixmatch", "jan", "mcc", "mcd", "mdd", "self_training"]
)
def test_every_method_of_two_domains_has_the_option(name):
    port = tiny.make("resnet_basic")
    assert METHODS.make(name, port, norms="separate").separate and not METHODS.make(name, port, norms="joint").separate
    assert METHODS.make(name, port).separate == (name == "mcd")  # as its paper's
    with pytest.raises(InputError, match="options.norms: expected joint or separate, found 'own'"):
        METHODS.make(name, port, norms="own")
