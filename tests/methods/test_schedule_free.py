"""Schedule-Free equals optax's own, which keeps y where this keeps z."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.errors import InputError
from jaxfer.rules import flatten
from tests.experiments import backbone, batches, tiny_stage, train

STEPS, RATE, BETA = 5, 0.05, 0.8


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_five_steps_are_those_of_optax(optimizer, warmup):
    fields = dict(optimizer=optimizer, momentum=0.0, schedule="constant", warmup=warmup, steps=STEPS, lr=RATE)
    stage = tiny_stage("vit_cls", method="full", adds=("schedule_free",), options={"beta": BETA}, **fields)
    state, losses = train(stage, STEPS)

    (start, _), port, task = backbone(stage), stage.spec.port, stage.spec.task
    rates = lambda step: RATE * jnp.minimum((step + 1) / max(warmup, 1), 1)  # noqa: E731
    bases = {"sgd": optax.sgd(rates), "adamw": optax.adamw(rates, b1=0.0, weight_decay=0.0)}
    tx = optax.contrib.schedule_free(bases[optimizer], rates, b1=BETA)

    @jax.jit
    def step(y, opt_state, batch):
        def loss(params):
            return task.loss(port.apply(params, {}, batch)[0], batch, {"label_smoothing": 0.0}).value()

        value, gradient = jax.value_and_grad(loss)(y)
        updates, opt_state = tx.update(gradient, opt_state, y)
        return optax.apply_updates(y, updates), opt_state, value

    y, opt_state, theirs = start, tx.init(start), []
    for batch in batches(stage, STEPS):
        y, opt_state, value = step(y, opt_state, batch)
        theirs.append(float(value))
    np.testing.assert_allclose(losses, theirs, rtol=2e-4)
    x = flatten(optax.contrib.schedule_free_eval_params(opt_state, y))
    for path, leaf in flatten(stage.leave(state)[0]).items():
        np.testing.assert_allclose(leaf, x[path], rtol=2e-3, atol=2e-5)


def test_moving_statistics_are_refused():
    with pytest.raises(InputError, match="config.adds: method 'full' with schedule_free averages parameters"):
        tiny_stage("resnet_basic", adds=("schedule_free",))
