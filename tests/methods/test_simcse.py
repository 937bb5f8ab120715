"""SimCSE: its loss by hand, two dropout masks of one batch, and networks that drop nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.methods.simcse import contrast
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage


def by_hand(one, other, temperature):
    """Eq. 4, text by text."""
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    similar = np.exp(one @ other.T / temperature)
    return -np.mean([np.log(similar[i, i] / similar[i].sum()) for i in range(len(one))])


def test_loss_by_hand():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(5, 4))
    other = one + 0.5 * rng.normal(size=(5, 4))
    with jax.enable_x64(True):
        value, right = contrast(jnp.asarray(one), jnp.asarray(other), 0.05)
    assert float(value) == pytest.approx(by_hand(one, other, 0.05), rel=1e-9)
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    assert float(right) == pytest.approx(np.mean((one @ other.T).argmax(1) == np.arange(5)))


def test_two_passes_of_the_same_texts():
    """Without dropout they would be equal, and the loss that of the features with themselves."""
    stage = tiny_stage("bert_pooler", method="simcse", options={"layer": False}, dropout_rules=((".*", 0.3),))
    (batch,), (params, model_state) = batches(stage, 1), backbone(stage)
    features = np.asarray(stage.spec.port.apply(params, model_state, batch)[0], np.float64)
    _, metrics = jax.jit(make_train_step(stage.spec))(stage.enter(params, model_state, 0), batch)
    assert float(metrics["loss"]) > 1.05 * by_hand(features, features, 0.05)


def test_what_is_refused():
    alone = "config.method: 'simcse' compares two passes that differ by dropout alone, and this stage drops nothing"
    with pytest.raises(InputError, match=f"{alone}; set config.dropout_rules="):
        tiny_stage("bert_pooler", method="simcse", dropout_rules=((".*", 0.0),))
