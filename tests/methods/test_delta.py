"""DELTA: the penalty by hand against the start under its own statistics, and the supervised attention."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.config import resolve
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.measuring import make_measure
from jaxfer.method import Given
from jaxfer.methods import delta
from jaxfer.models.port import Training
from jaxfer.registry import METHODS, TASKS
from jaxfer.rules import flatten
from jaxfer.training.measured import examples
from jaxfer.training.preflight import preflight
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train


@pytest.mark.parametrize("attention", [False, True])
def test_penalty_by_hand(attention):
    """After a step the statistics of batch norms have moved, those of the start have not."""
    options = {"alpha": 0.7, "beta": 0.3, "units": ("block_0", "block_2"), "attention": attention}
    fields = dict(optimizer="sgd", lr=0.05, momentum=0.0, weight_decay=0.0)
    stage = tiny_stage("resnet_basic", method="delta", options=options, **fields)
    (start, norms), two, port = backbone(stage), batches(stage, 2), stage.spec.port
    state, _ = train(stage, 1)
    taps = ("block_0", "block_2")
    training = Training(key=jax.random.key(0), live=stage.spec.live, eval_norms=stage.spec.eval_norms)

    @jax.jit
    def both(params, model_state):
        now = port.forward(params, model_state, two[1], training=training, taps=taps)
        return now.outputs, now.taps, port.forward(start, norms, two[1], taps=taps).taps

    outputs, now, before = both(state.params, state.model_state)
    pull = 0.0
    for unit in taps:
        apart = np.square(np.asarray(now[unit], np.float64) - np.asarray(before[unit], np.float64))
        weights = np.ones(apart.shape[-1])
        if attention:
            measured = np.asarray(tiny.given(stage.given).measured[unit], np.float64)
            weights = np.exp((measured - measured.mean()) / measured.std() / 5)
            weights *= len(weights) / weights.sum()
        pull += 0.5 * (apart.mean((1, 2)) * weights).sum(-1).mean()
    head = sum(np.square(np.asarray(x, np.float64)).sum() for x in flatten(state.params["head"]["out"]).values())
    task = float(stage.spec.task.loss(outputs, two[1], {"label_smoothing": 0.0}).value())
    assert pull > 1e-2
    assert train(stage, 2)[1][1] == pytest.approx(task + 0.7 * pull + 0.15 * head, rel=1e-5)


def test_the_distance_of_two_maps():
    """The authors' c a / (h w) times half the squared distance, the sum over channels and the mean over examples; with
    the softmax of standardised increases. In float64."""
    rng = np.random.default_rng(0)
    new, start, rises = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 4, 5, 6)), rng.normal(size=6)
    wanted, z = 0.0, np.exp((rises - rises.mean()) / rises.std() / 5)
    for example in range(3):
        for channel in range(6):
            apart = np.linalg.norm(new[example, :, :, channel] - start[example, :, :, channel])
            wanted += 0.5 * 6 * z[channel] / z.sum() * apart**2 / (4 * 5) / 3
    with jax.enable_x64(True):
        found = float(delta.distance(jnp.asarray(new), jnp.asarray(start), delta.attended(jnp.asarray(rises))))
    assert found == pytest.approx(wanted, abs=1e-9)


def test_attention_is_measured_by_setting_channels_to_zero():
    """The increase of each example's loss, for the channels of one unit, one after the other."""
    port, task = tiny.make("vit_cls"), TASKS.make("classification")
    method = METHODS.make("delta", port, units=("block_1",), attention=True)
    params, model_state = tiny.draw(port)
    batch = {**tiny.batch(port), "label": jnp.asarray([0, 1, 2, 1])}
    rows = jax.jit(make_measure(port, task, method))(params, model_state, Given(), batch)
    assert rows.keys() == {"block_1"} and rows["block_1"].shape == (4, 12)
    seen = port.forward(params, model_state, batch, taps=("block_1",))

    def losses(activation):
        fields = {**batch, "image": activation}
        logits = np.asarray(port.apply(params, model_state, fields, begin="head")[0], np.float64)
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -logs[np.arange(4), [0, 1, 2, 1]]

    whole = losses(seen.taps["block_1"])
    for channel in (0, 7):
        wanted = losses(seen.taps["block_1"].at[..., channel].set(0)) - whole
        np.testing.assert_allclose(rows["block_1"][:, channel], wanted, rtol=1e-4, atol=1e-5)


def test_the_default_units_are_spread_and_others_refused():
    port = types.SimpleNamespace(units=("stem", *(f"block_{i}" for i in range(16)), "head"), head="head/out")
    assert delta.method(port).taps == ("block_3", "block_7", "block_11", "block_15")
    with pytest.raises(InputError, match="options.units: 'block_16' is no unit of the model before its head; nearest"):
        delta.method(port, units=("block_16",))
    with pytest.raises(InputError, match="options.measured: expected examples >= 0, found -1; 0 takes the whole"):
        delta.method(port, measured=-1)


def test_the_papers_defaults():
    """Attention; the authors' 0.01 of a sum over 64 examples as a factor of the mean; four of their batches."""
    stage = tiny_stage("vit_cls", method="delta")
    assert stage.given.measured.keys() == {"stem", "block_0", "block_1"}
    assert (stage.hparams["alpha"], stage.hparams["beta"]) == (pytest.approx(64 * 0.01), pytest.approx(0.01))
    assert stage.spec.method.measured_rows == 4 * 64
    assert stage.notes == (
        "config.method: 'delta' measures with the head that the stage begins with; unless the source's is kept, let a "
        "stage of probe train it first",
    )
    assert tiny_stage("vit_cls", method="delta", head="keep").notes == ()
    assert tiny_stage("vit_cls", method="delta", options={"attention": False}).notes == ()


def test_some_examples_are_measured():
    """The seed draws them; a split of fewer is measured whole."""
    config = tiny_config("vit_cls", method="delta", options={"measured": 7}, seed=3)
    plan = preflight(config)
    split, stage = plan.data.splits["train"], plan.stages[0]
    experiment = resolve(config)
    found = examples(experiment, stage, plan.data)
    rows = np.sort(np.random.default_rng(3).choice(len(split), 7, replace=False))
    np.testing.assert_array_equal(found.rows, split.rows[rows])
    few = dataclasses.replace(stage.spec.method, measured_rows=len(split))
    spec = dataclasses.replace(stage.spec, method=few)
    assert examples(experiment, dataclasses.replace(stage, spec=spec), plan.data) is split
