"""Taps: activations of any unit, in training and evaluation, rematerialised, sharded and not."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxfer.config.experiment import ParallelConfig
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.models.execution import Execution
from jaxfer.models.port import FEATURES, Training
from jaxfer.network import Network
from jaxfer.parallel.placement import placement

CASES = ("resnet_basic", "vit_cls", "bert_pooler", "mobilenet_v1")


@pytest.mark.parametrize("case", CASES)
def test_units_and_features_in_evaluation(case):
    """A unit's tap is what a cut after it gives; the output layer makes the outputs of the features."""
    port, (params, state), batch = tiny.make(case), tiny.draw(tiny.make(case)), tiny.batch(tiny.make(case))
    middle = port.units[1]
    passed = jax.jit(lambda: Network(port=port, params=params, model_state=state)(batch, taps=(middle, FEATURES)))()
    np.testing.assert_array_equal(passed.outputs, jax.jit(lambda: port.apply(params, state, batch)[0])())
    cut = jax.jit(lambda: port.apply(params, state, batch, end=middle)[0])()
    np.testing.assert_allclose(passed.taps[middle], cut, rtol=1e-6, atol=1e-6)
    out = params["head"]["out"]
    outputs = np.asarray(passed.taps[FEATURES]) @ np.asarray(out["kernel"]) + np.asarray(out["bias"])
    np.testing.assert_allclose(passed.outputs, outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_in_training_and_its_gradient(remat):
    """A rematerialised unit gives its tap too, and the gradient of a loss on the tap is the same."""
    port = tiny.make("vit_cls")
    port = port.computed(dataclasses.replace(Execution(), remat=frozenset(port.units) if remat else frozenset()))
    (params, state), batch = tiny.draw(port), tiny.batch(port)
    training = Training(key=jax.random.key(0), live=frozenset(port.units), eval_norms=frozenset())

    def loss(params):
        taps = port.forward(params, state, batch, training=training, taps=("block_0",)).taps
        return (taps["block_0"] ** 2).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    cut = jax.jit(jax.value_and_grad(lambda p: (port.apply(p, state, batch, end="block_0")[0] ** 2).mean()))(params)
    np.testing.assert_allclose(value, cut[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, cut[1])


def test_sharded_over_four_devices():
    port = tiny.make("vit_cls")
    (params, state), batch = tiny.draw(port), tiny.batch(port, examples=8)
    where = placement(ParallelConfig(mode="fsdp"), [8])
    (placed,) = list(where.feed([{name: np.asarray(x) for name, x in batch.items()}], train=False))
    forward = jax.jit(lambda batch: port.forward(params, state, batch, taps=("block_1", FEATURES)).taps)
    sharded, alone = forward(placed), forward(batch)
    for tap in alone:
        np.testing.assert_allclose(sharded[tap], alone[tap], rtol=1e-5, atol=1e-5)


def test_an_unknown_tap():
    port = tiny.make("vit_cls")
    with pytest.raises(InputError, match="tap 'block_9' is neither a unit of the model nor 'features'"):
        port.forward({}, {}, tiny.batch(port), taps=("block_9",))
