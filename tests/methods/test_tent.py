"""Adapting at evaluation: TENT by hand, batch by batch; what resets it, and what is refused."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest

import jaxfer
from jaxfer.config.experiment import ParallelConfig
from jaxfer.conformance.training import entered
from jaxfer.data.prepare import build
from jaxfer.errors import InputError
from jaxfer.models.port import Training
from jaxfer.parallel.placement import placement
from jaxfer.rules import flatten, unflatten
from jaxfer.training.adapting import Carried
from jaxfer.training.evaluation import evaluate_split, evaluate_streams
from jaxfer.training.preflight import preflight
from tests.experiments import tiny_config, tiny_stage

ONE = placement(ParallelConfig(devices=1))
SETTINGS = Training(key=jax.random.key(0), live=frozenset(), eval_norms=frozenset())


def built(case):
    config = preflight(tiny_config(case)).experiment
    return build(config.data, dict(config.source.options), seed=0, with_test=True)


@pytest.fixture(scope="module")
def data():
    return built("resnet_basic")


def planned(case="resnet_basic", adds=("tent",), **options):
    stage = tiny_stage(case, adds=adds, options=options)
    return stage, entered(stage).replace(key=None, opt_state=(), hparams={})


def by_hand(stage, state, images, size, *, rate, episodic, norms):
    """[n, classes] of a loop of its own over batches of `size`, the last one shorter."""
    port, whole = stage.spec.port, flatten(state.params)

    def entropy(leaves, x):
        params = unflatten({**whole, **leaves})
        logits = port.apply(params, state.model_state, {"image": x}, training=SETTINGS)[0]
        p = jax.nn.softmax(logits)
        return -(p * jax.numpy.log(p)).sum(-1).mean(), logits

    step, tx = jax.jit(jax.grad(entropy, has_aux=True)), optax.adam(rate)
    first = {path: x for path, x in whole.items() if path.rsplit("/", 1)[0] in norms}
    leaves, opt, rows = first, tx.init(first), []
    for begin in range(0, len(images), size):
        if episodic:
            leaves, opt = first, tx.init(first)
        gradients, logits = step(leaves, images[begin : begin + size])
        rows.append(logits)
        updates, opt = tx.update(gradients, opt)
        leaves = optax.apply_updates(leaves, updates)
    return np.concatenate(rows)


def normalised(port, split):
    images = np.stack([split.example("image", i) for i in range(len(split))])
    mean, std = (np.float32(getattr(port.encoding, name)) for name in ("mean", "std"))
    return (images.astype(np.float32) / 255 - mean) / std


@pytest.mark.parametrize("reset", ["online", "episodic"])
def test_every_batch_by_hand(data, reset):
    """Predictions are made before the step; the last batch is shorter, and nothing pads it."""
    stage, state = planned(reset=reset, adapt_rate=0.05)
    split, before = data.splits["train"], jax.tree.map(np.array, state.params)
    split = split.take(np.arange(21))
    found = evaluate_split(stage.spec, ONE.place(stage.spec, state), split, ONE, 8)
    how = {"rate": 0.05, "episodic": reset == "episodic", "norms": stage.spec.port.norms(state.model_state)}
    wanted = by_hand(stage, state, normalised(stage.spec.port, split), 8, **how)
    np.testing.assert_allclose(found.collected, wanted, rtol=1e-3, atol=1e-4)
    again = evaluate_split(stage.spec, ONE.place(stage.spec, state), split, ONE, 8)
    np.testing.assert_array_equal(again.collected, found.collected)  # nothing is left of an evaluation
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, state.params)), strict=True))


@pytest.mark.parametrize("reset", ["continual", "online", "episodic"])
def test_a_sequence_of_evaluations_is_one_where_the_reset_is_continual(data, reset):
    """Two splits of 16 are as one of 32; under another reset the second begins anew."""
    stage, state = planned(reset=reset, adapt_rate=0.05)
    whole, placed, carried = data.splits["train"].take(np.arange(32)), ONE.place(stage.spec, state), Carried()
    parts = [whole.take(np.arange(begin, begin + 16)) for begin in (0, 16)]
    found = [evaluate_split(stage.spec, placed, part, ONE, 8, carried=carried).collected for part in parts]
    alone = [evaluate_split(stage.spec, placed, part, ONE, 8).collected for part in parts]
    np.testing.assert_array_equal(found[0], alone[0])
    if reset == "continual":
        together = evaluate_split(stage.spec, placed, whole, ONE, 8).collected
        np.testing.assert_array_equal(np.concatenate(found), together)
        assert np.abs(found[1] - alone[1]).max() > 1e-3
    else:
        np.testing.assert_array_equal(found[1], alone[1])


def test_online_differs_from_episodic_after_the_first_batch(data):
    split = data.splits["train"].take(np.arange(16))
    found = []
    for reset in ("online", "episodic"):
        stage, state = planned(reset=reset, adapt_rate=0.05)
        found.append(evaluate_split(stage.spec, ONE.place(stage.spec, state), split, ONE, 8).collected)
    np.testing.assert_array_equal(found[0][:8], found[1][:8])
    assert np.abs(found[0][8:] - found[1][8:]).max() > 1e-3


def test_the_network_as_it_was_trained_is_evaluated_beside(data):
    stage, state = planned(reset="online")
    plain = tiny_stage("resnet_basic")
    placed = ONE.place(stage.spec, state)
    found = evaluate_streams(stage.spec, placed, data, "val", ONE, 4).metrics
    without = evaluate_split(plain.spec, placed, data.splits["val"], ONE, 4).metrics
    assert found["raw/loss"] == without["loss"] != found["loss"]
    assert dataclasses.replace(stage.spec.method, adapt=None).rules == plain.spec.method.rules


def test_layer_norms_adapt_too():
    """Norms without running statistics may have batches of one."""
    stage, state = planned("vit_cls", reset="online", adapt_rate=0.05)
    split = built("vit_cls").splits["train"].take(np.arange(3))
    found = evaluate_split(stage.spec, ONE.place(stage.spec, state), split, ONE, 1).collected
    norms = {path.rsplit("/", 1)[0] for path in flatten(state.params) if path.endswith("/scale")}
    how = {"rate": 0.05, "episodic": False, "norms": norms}
    wanted = by_hand(stage, state, normalised(stage.spec.port, split), 1, **how)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_what_is_refused(data):
    with pytest.raises(InputError, match="options.reset: tent expects 'episodic'.*found ''"):
        planned()
    with pytest.raises(InputError, match="options.adapt_rate: expected a number above 0, found 0.0"):
        planned(reset="online", adapt_rate=0.0)
    with pytest.raises(InputError, match="another add-on adapts at evaluation already"):
        from jaxfer.methods import tent

        tent.add(planned(reset="online")[0].spec.method, tiny_stage("resnet_basic").spec.port, reset="online")
    stage, state = planned(reset="online")
    split = data.splits["train"].take(np.arange(9))
    with pytest.raises(InputError, match="config.eval_batch_size: .*found 8, which leaves one of 9 examples alone"):
        evaluate_split(stage.spec, ONE.place(stage.spec, state), split, ONE, 8)
    config = tiny_config("resnet_basic", adds=("tent",), options={"reset": "online"}, eval_batch_size=1)
    config.parallel.devices = 1
    with pytest.raises(InputError, match="adapts to the statistics of a batch, found 1; choose another size"):
        preflight(config)
    config.eval_batch_size, config.parallel.devices = 8, 4
    with pytest.raises(InputError, match="config.parallel.devices: evaluation that adapts reads .* found 4; set it"):
        preflight(config)


def test_a_run_adapts_wherever_it_evaluates(tmp_path):
    """The source's splits and the target's; `jaxfer eval` of the finished run repeats the result."""
    fields = {"adds": ("tent",), "options": {"reset": "online", "adapt_rate": 0.05}, "eval_batch_size": 8}
    config = tiny_config("resnet_basic", method="dann", steps=2, lr=1e-2, test=True, **fields)
    config.parallel.devices = 1
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    test = result["metrics"]["test"]
    assert {"loss", "raw/loss", "target/loss"} <= set(test) and test["loss"] != test["raw/loss"]
    again = jaxfer.evaluate(tmp_path / "run", split="test", quiet=True)
    assert again["loss"] == pytest.approx(test["loss"], abs=1e-6)
