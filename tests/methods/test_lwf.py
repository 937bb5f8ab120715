"""Learning without forgetting: the loss by hand, under the source's head and its own statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.conformance import tiny
from jaxfer.conformance.training import entered
from jaxfer.methods import lwf
from jaxfer.models.port import FEATURES, Training
from jaxfer.rules import flatten
from tests.experiments import backbone, batches, tiny_stage, train


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_divergence_in_float64():
    """Example by example, at TLlib's temperature of 3, without a factor T^2."""
    rng = np.random.default_rng(0)
    old, new = 2 * rng.normal(size=(5, 4)), 2 * rng.normal(size=(5, 4))
    p, q = (np.exp(x / 3) / np.exp(x / 3).sum(1, keepdims=True) for x in (old, new))
    with jax.enable_x64(True):
        found = float(lwf.divergence(jnp.asarray(old), jnp.asarray(new), 3.0))
    assert found == pytest.approx((p * np.log(p / q)).sum() / 5, abs=1e-9)


def test_the_new_head_alone_is_trained_first():
    """Two of four steps of SGD: the first is that without a warm-up, of the head alone; the others move all."""
    fields = dict(optimizer="sgd", lr=0.05, momentum=0.0, weight_decay=0.0)
    stage, plain = (
        tiny_stage("vit_cls", method="lwf", options={"source_outputs": 4, "warm_up": share}, **fields)
        for share in (0.5, 0.0)
    )
    start, first = flatten(entered(stage).params), flatten(train(plain, 1)[0].params)
    one, two, four = (flatten(train(stage, steps)[0].params) for steps in (1, 2, 4))
    for path, leaf in start.items():
        own = path.startswith("head/out/")
        np.testing.assert_array_equal(one[path], first[path] if own else leaf, err_msg=path)
        assert np.array_equal(two[path], leaf) == (not own), path
        if not path.endswith("key/bias"):  # attention does not depend on it
            assert not np.array_equal(four[path], two[path]), path


def test_loss_by_hand():
    """CE + trade_off * KL(old || new) at T = 2, after a step has moved parameters and statistics."""
    fields = dict(optimizer="sgd", lr=0.05, momentum=0.0, weight_decay=0.0)
    stage = tiny_stage("resnet_basic", method="lwf", options={"source_outputs": 4, "trade_off": 0.6}, **fields)
    (start, norms), (_, batch), port = backbone(stage), batches(stage, 2), stage.spec.port
    state, _ = train(stage, 1)
    training = Training(key=jax.random.key(0), live=stage.spec.live, eval_norms=stage.spec.eval_norms)

    @jax.jit
    def both(params, model_state):
        now = port.forward(params, model_state, batch, training=training, taps=(FEATURES,))
        old = port.forward(start, norms, batch, taps=(FEATURES,))
        return now.outputs, now.taps[FEATURES], old.taps[FEATURES]

    seen = {name: unit for name, unit in state.params.items() if name != "lwf"}
    outputs, *features = both(seen, state.model_state)
    new, old = (np.asarray(x, np.float64) for x in features)
    given, layer = tiny.given(stage.given).head, flatten(state.params["lwf"])
    wanted = log_softmax((old @ given["head/out/kernel"] + given["head/out/bias"]) / 2)
    found = log_softmax((new @ layer["head/out/kernel"] + layer["head/out/bias"]) / 2)
    divergence = (np.exp(wanted) * (wanted - found)).sum(-1).mean()
    task = float(stage.spec.task.loss(outputs, batch, {"label_smoothing": 0.0}).value())
    assert divergence > 1e-4 and layer["head/out/kernel"].shape == (12, 4)
    assert not np.array_equal(layer["head/out/kernel"], given["head/out/kernel"])
    assert train(stage, 2)[1][1] == pytest.approx(task + 0.6 * divergence, rel=1e-5)
