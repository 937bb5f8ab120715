"""What a method is handed: `update` of a batch that several devices hold, another pass, and a key for its view."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.conformance import methods
from jaxfer.method import task_loss
from jaxfer.models.port import FEATURES
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage, train


def test_what_update_makes_of_a_batch_is_the_same_under_pmap():
    """A method that keeps a mean of its labels: pmap's devices see a quarter of them each."""

    def mean_label(ctx, extra):
        return {"label": ctx.batch["label"].astype("float32").mean(), "kept": extra["kept"]}

    stage = tiny_stage("resnet_basic", optimizer="sgd")
    method = dataclasses.replace(
        stage.spec.method,
        init=lambda params, key, given: (params, {"label": np.float32(0), "kept": np.float32(1 / 3)}),
        update=mean_label,
    )
    stage = dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, method=method))
    wanted = batches(stage, 2)[-1]["label"].mean()
    for mode, devices in methods.PLACEMENTS:
        state, _ = train(stage, 2, mode=mode, devices=devices)
        assert float(state.extra["label"]) == np.float32(wanted) and float(state.extra["kept"]) == np.float32(1 / 3)


def changed(stage, **fields):
    method = dataclasses.replace(stage.spec.method, **fields)
    return dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, method=method))


def test_another_pass():
    """In training it has the batch's statistics, as the step's own; else those that are running or given."""
    stage, logged = tiny_stage("resnet_basic"), {}
    (batch,), (params, model_state) = batches(stage, 1), backbone(stage)

    def loss(ctx, outputs):
        start = ctx.extra["start"]
        logged["train"] = jnp.abs(ctx.forward(ctx.params, train=True).outputs - outputs).max()
        passed = ctx.forward(ctx.params, model_state=start, taps=(FEATURES,))
        logged["start"] = jnp.abs(passed.outputs - ctx.apply(ctx.params)).max() + 0 * passed.taps[FEATURES].sum()
        logged["other"] = jnp.abs(ctx.forward(ctx.params, other={"image": ctx.batch["image"][:3]}).outputs).sum()
        logged["apply"] = jnp.abs(ctx.apply(ctx.params, {"image": ctx.batch["image"][:3]})).sum()
        logged["apart"] = jnp.abs(passed.outputs - outputs).max()
        return task_loss(ctx, outputs)[0], logged

    def init(params, key, given):
        return params, {"start": given.model_state}

    stage = changed(stage, loss=loss, init=init)
    state = stage.enter(params, model_state, 0)
    plain = changed(stage, loss=task_loss)
    after, found = jax.jit(make_train_step(stage.spec))(state, batch)
    assert float(found["train"]) == 0 and float(found["start"]) == 0 and float(found["apart"]) > 1e-3
    np.testing.assert_allclose(found["other"], found["apply"], rtol=1e-5)
    wanted, _ = jax.jit(make_train_step(plain.spec))(state, batch)
    jax.tree.map(np.testing.assert_array_equal, after.model_state, wanted.model_state)


def test_a_view_that_draws_does_so_in_training_alone():
    """The key is that of the step, and evaluation never sees it."""
    stage = tiny_stage("vit_cls", optimizer="sgd", momentum=0.0, lr=0.0)

    def noisy(params, extra, key):
        noise = jax.random.normal(key, params["head"]["out"]["bias"].shape)
        return {**params, "head": {**params["head"], "out": {**params["head"]["out"], "bias": 9 * noise}}}

    drawn = changed(stage, noisy_view=noisy)
    plain, losses = train(stage, 2)[1], train(drawn, 2)[1]
    assert losses == train(drawn, 2)[1] and np.abs(np.subtract(plain, losses)).min() > 1e-2
