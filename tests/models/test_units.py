"""Units that pass on a pytree, and depths from a table: two towers in one chain, against plain functions by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfer.models
from jaxfer import conformance
from jaxfer.config.experiment import ParallelConfig
from jaxfer.conformance import models, tiny
from jaxfer.conformance.training import backbone, batches, tiny_stage, train
from jaxfer.errors import InputError
from jaxfer.models.execution import Execution
from jaxfer.models.port import FEATURES, Training
from jaxfer.parallel.placement import placement
from jaxfer.rules import flatten
from tests import test_streams

CASE = "two_towers"
SGD = dict(optimizer="sgd", lr=0.5, momentum=0.0)


@pytest.fixture(autouse=True)
def _towers(monkeypatch):
    """The model `two_towers`, for one test."""
    monkeypatch.setattr(jaxfer.models, "__path__", [*jaxfer.models.__path__, str(Path(__file__).parent / "own")])


def by_hand(params, batch):
    """The model as one function, without flax, chain or units."""
    left = batch["left"]
    for unit in ("a_0", "a_1"):
        left = jnp.tanh(left @ params[unit]["mix"]["kernel"] + params[unit]["mix"]["bias"])
    right, kept = params["b_0"]["token"]["embedding"][batch["right"]], (batch["right"] > 0)[..., None]
    centred = right - right.mean(-1, keepdims=True)
    right = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    right = right * params["b_1"]["norm"]["scale"] + params["b_1"]["norm"]["bias"]
    right = (right * kept).sum(1) / jnp.maximum(kept.sum(1), 1)
    right = jnp.tanh(right @ params["b_1"]["mix"]["kernel"] + params["b_1"]["mix"]["bias"])
    return (left * right) @ params["head"]["out"]["kernel"] + params["head"]["out"]["bias"]


def gradient_by_hand(params, batch):
    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(by_hand(params, batch), batch["label"]).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def drawn(port):
    (params, state), batch = tiny.draw(port), tiny.batch(port)
    assert not state
    return params, batch


def test_the_model_keeps_the_contract():
    """Cuts, frozen units, gradients, one device and four, a restored state: what every model is held to."""
    verdicts = dict(conformance.check_model(CASE))
    assert {name: problem for name, problem in verdicts.items() if problem} == {}
    assert len(verdicts) > 20


WAYS = {
    "plain": ({}, {}),
    "remat": (dict(remat=(".*",)), {}),
    "slices": (dict(accumulate=2), {}),
    "fsdp": ({}, dict(devices=4, mode="fsdp")),
    "fsdp, remat": (dict(remat=("b_.*",)), dict(devices=4, fsdp=2)),
    "pmap": ({}, dict(devices=4, mode="pmap")),
}


@pytest.mark.parametrize("way", WAYS)
def test_three_steps_are_those_of_the_plain_function(way):
    fields, parallel = WAYS[way]
    stage = tiny_stage(CASE, **SGD, layer_decay=0.5, **fields)
    (params, _), wanted = backbone(stage), []
    for batch in batches(stage, 3):
        loss, gradient = gradient_by_hand(params, batch)
        wanted.append(float(loss))
        rates = {"a_0": 0.125, "a_1": 0.25, "b_0": 0.125, "b_1": 0.25, "head": 0.5}
        params = {
            unit: jax.tree.map(lambda p, g, r=rates[unit]: p - r * g, params[unit], gradient[unit]) for unit in params
        }
    state, losses = train(stage, 3, **parallel)
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-6)
    found = flatten(jax.device_get(state.params))
    for path, leaf in flatten(params).items():
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=2e-6, err_msg=path)


@pytest.mark.parametrize("parallel", [{}, {"devices": 4}], ids=str)
def test_a_stream_with_a_head_of_its_own_joins(parallel):
    """Its head reads the tap of both towers, a pytree that is cut into the rows of each stream."""
    data = dict(source="synthetic", image=(2, 2, 1), classes_count=3, examples=48)
    stage = test_streams.stage_of(CASE, data=data)
    value, wanted = test_streams.by_hand(stage)
    state, (loss,) = train(stage, 1, **parallel)
    assert loss == pytest.approx(value, abs=1e-6)
    found = flatten(jax.device_get(state.params))
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=1e-6, err_msg=path)


def test_a_unit_s_depth_is_the_table_s():
    stage = tiny_stage(CASE, method="lora", options=dict(rank=2, targets=(r"[ab]_1/mix/kernel",)))
    assert stage.spec.trainable["lora/b_1/mix/a"].depth == 1
    assert stage.spec.port.depth("added/scale") == 0
    plain = dataclasses.replace(stage.spec.port, depths=None)
    assert [plain.depth(f"{unit}/mix/kernel") for unit in plain.units] == [4, 3, 2, 1, 0]
    assert plain != stage.spec.port and hash(plain) != hash(stage.spec.port)


@pytest.mark.parametrize(("levels", "frozen"), [(1, {"a_0", "b_0"}), (2, {"a_0", "a_1", "b_0", "b_1"})])
def test_freeze_units_counts_levels_of_the_table(levels, frozen):
    stage = tiny_stage(CASE, freeze_units=levels)
    assert stage.spec.live == set(stage.spec.port.units) - frozen
    with pytest.raises(InputError, match="freeze_units: the model is 3 units deep, found 3"):
        tiny_stage(CASE, freeze_units=3)


@pytest.mark.parametrize("remat", [False, True])
def test_a_tap_is_what_the_unit_gives_and_a_loss_on_it_has_its_gradient(remat):
    port = tiny.make(CASE)
    port = port.computed(Execution(remat=frozenset(port.units) if remat else frozenset()))
    params, batch = drawn(port)
    training = Training(key=jax.random.key(0), live=frozenset(port.units), eval_norms=frozenset())

    def loss(params):
        taps = port.forward(params, {}, batch, training=training, taps=("b_0", "b_1", FEATURES)).taps
        return (taps["b_0"]["right"] ** 2).sum() + (taps["b_0"]["left"] ** 2).sum(), taps

    (_, taps), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert {name: leaf.shape for name, leaf in taps["b_0"].items()} == {
        "left": (4, 8),
        "right": (4, 6, 8),
        "kept": (4, 6),
    }
    embedding = params["b_0"]["token"]["embedding"]
    np.testing.assert_array_equal(taps["b_0"]["right"], embedding[batch["right"]])
    np.testing.assert_array_equal(taps["b_0"]["kept"], batch["right"] > 0)
    np.testing.assert_allclose(taps[FEATURES], taps["b_1"]["left"] * taps["b_1"]["right"], rtol=1e-6)
    counts = np.bincount(np.ravel(batch["right"]), minlength=3)
    np.testing.assert_allclose(gradient["b_0"]["token"]["embedding"], 2 * counts[:, None] * embedding, rtol=1e-5)
    assert np.abs(gradient["a_0"]["mix"]["kernel"]).max() > 0 and not np.any(gradient["b_1"]["mix"]["kernel"])


def test_types_are_of_the_numbers_alone():
    """In bfloat16 the mask stays one, the head's outputs are float32, and a unit alone may be low."""
    port = tiny.make(CASE)
    params, batch = drawn(port)
    low = port.computed(Execution(dtypes=tuple((unit, "bfloat16") for unit in port.units)))
    passed = jax.jit(lambda: low.forward(params, {}, batch, taps=("a_1", "b_0", "b_1")))()
    types = {tap: {name: str(leaf.dtype) for name, leaf in tree.items()} for tap, tree in passed.taps.items()}
    numbers = {"left": "bfloat16", "right": "bfloat16", "kept": "bool"}
    assert types == {"a_1": {"left": "bfloat16"}, "b_0": numbers, "b_1": numbers}
    plain = by_hand(params, batch)
    assert passed.outputs.dtype == np.float32
    assert 1e-5 < float(np.abs(passed.outputs - plain).max() / np.abs(plain).max()) < 3e-2
    one = port.computed(Execution(dtypes=(("a_1", "bfloat16"),)))
    taps = jax.jit(lambda: one.forward(params, {}, batch, taps=("a_1", "b_0")).taps)()
    assert taps["a_1"]["left"].dtype == jnp.bfloat16 and taps["b_0"]["left"].dtype == np.float32


def test_every_array_between_units_lies_along_the_examples():
    """Where parameters are split, every array that a unit passes on is constrained."""
    stage, where = tiny_stage(CASE), placement(ParallelConfig(devices=4, mode="fsdp"), [8])
    spec = where.applied(stage.spec)
    (params, _), (batch,) = backbone(stage), batches(stage, 1)
    (placed,) = list(where.feed([batch], train=False))
    forward = jax.jit(lambda params, batch: spec.model.forward(params, {}, batch, taps=("b_0", "b_1")).taps)
    shardings = where.shardings(stage.spec, params, params)
    taps = forward(jax.device_put(params, shardings), placed)
    for leaf in jax.tree.leaves(taps):
        assert leaf.sharding.is_equivalent_to(where.batched, leaf.ndim)
    alone = jax.jit(lambda: stage.spec.port.forward(params, {}, batch, taps=("b_0", "b_1")).taps)()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), taps, alone)
    text = str(jax.make_jaxpr(forward)(params, batch))
    assert (
        text.count("sharding_constraint") == 1 + 1 + 3 + 3 + 1 + 1
    )  # those of the five units, and the embedding table


def test_pairs_are_read_apart_where_all_inputs_are_pairs():
    port = tiny.make("bert_mean").with_apart()
    assert port.apart
    assert not dataclasses.replace(port, encodings=(port.encoding, tiny.make(CASE).encoding)).apart


@pytest.mark.parametrize(
    ("check", "fields", "problem"),
    [
        (models.depth_counts_units_to_the_head, {"depths": (2, 1, 2, 1)}, "depths: 4 of them for the units"),
        (
            models.depth_counts_units_to_the_head,
            {"depths": (2, 1, 2, 1, 1)},
            "depths: (2, 1, 2, 1, 1); expected 0 for 'head' and none below",
        ),
        (
            models.depth_counts_units_to_the_head,
            {"depths": (2, 1, 2, -1, 0)},
            "depths: (2, 1, 2, -1, 0); expected 0 for 'head' and none below",
        ),
        (models.depth_counts_units_to_the_head, {"depths": None}, None),
        (
            models.the_output_layer_reads_one_array,
            {"head": "head"},
            "head reads [(4, 6), (4, 8), (4, 8)] for 4 examples",
        ),
    ],
)
def test_a_model_that_breaks_a_property(check, fields, problem, monkeypatch):
    port = dataclasses.replace(tiny.make(CASE), **fields)
    variables = tiny.draw(tiny.make(CASE))
    monkeypatch.setattr(models, "make", lambda case: port)
    monkeypatch.setattr(models, "variables", lambda case: variables)
    found = check(CASE)
    assert found is None if problem is None else found.startswith(problem)
