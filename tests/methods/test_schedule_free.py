"""Schedule-Free equals optax's own, which keeps y where this keeps z."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.errors import InputError
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
    # It weighs a step by the rate of the next one, its own count being one ahead; the authors' code by the step's own.
    tx = optax.contrib.schedule_free(bases[optimizer], lambda count: rates(count - 1), b1=BETA)

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
    # By what it gives: Adam moves a key's bias, whose gradient is rounding alone, as far as anything else.
    (batch,) = batches(stage, 1, seed=9)
    outputs = jax.jit(lambda params: port.apply(params, {}, batch)[0])
    wanted = outputs(optax.contrib.schedule_free_eval_params(opt_state, y))
    np.testing.assert_allclose(outputs(stage.leave(state)[0]), wanted, rtol=2e-3, atol=1e-4)
    assert np.abs(wanted - outputs(y)).max() > 1e-2


def test_moving_statistics_are_refused():
    with pytest.raises(InputError, match="config.adds: method 'full' with schedule_free averages parameters"):
        tiny_stage("resnet_basic", adds=("schedule_free",))
