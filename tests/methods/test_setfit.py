"""SetFit: its loss by hand, and two stages of few labels."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.methods.setfit import of_batch, of_pairs
from jaxfer.models.port import FEATURES
from jaxfer.registry import TASKS
from jaxfer.rules import flatten
from jaxfer.step import make_train_step
from jaxfer.training.streams import check_pairs
from tests.experiments import backbone, batches, tiny_stage


def test_all_pairs_of_a_batch_by_hand():
    rng, labels = np.random.default_rng(0), np.array([0, 1, 0, 2, 1])
    features = rng.normal(size=(5, 4))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    kinds = {True: [], False: []}
    for i, j in itertools.combinations(range(5), 2):
        same = labels[i] == labels[j]
        kinds[same].append((unit[i] @ unit[j] - same) ** 2)
    with jax.enable_x64(True):
        found = float(of_batch(jnp.asarray(features), jnp.asarray(labels)))
        alone = float(of_batch(jnp.asarray(features), jnp.arange(5)))  # no pair of one class
    assert found == pytest.approx((np.mean(kinds[True]) + np.mean(kinds[False])) / 2, rel=1e-9)
    every = [unit[i] @ unit[j] for i, j in itertools.combinations(range(5), 2)]
    assert alone == pytest.approx(np.square(every).mean() / 2, rel=1e-9)


def test_sampled_pairs_by_hand():
    rng, same = np.random.default_rng(1), np.array([True, False, True])
    first, second = rng.normal(size=(2, 3, 4))
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    with jax.enable_x64(True):
        found = float(of_pairs(jnp.asarray(first), jnp.asarray(second), jnp.asarray(same)))
    assert found == pytest.approx(np.square(cosines - [1, 0, 1]).mean(), rel=1e-9)


def test_a_step_compares_each_example_with_its_partner():
    stage = tiny_stage("bert_mean", method="setfit", stream={"partner": {"rows": "pairs"}}, batch_size=4)
    (batch,), (params, model_state) = batches(stage, 1), backbone(stage)
    batch["label"], batch["partner"]["label"] = np.array([0, 1, 2, 1]), np.array([0, 0, 1, 1])
    port = stage.spec.port
    features = [
        np.asarray(
            port.forward(params, model_state, {name: of[name] for name in port.inputs}, taps=(FEATURES,)).taps[FEATURES]
        )
        for of in (batch, batch["partner"])
    ]
    _, metrics = jax.jit(make_train_step(stage.spec))(stage.enter(params, model_state, 0), batch)
    wanted = of_pairs(*map(jnp.asarray, features), jnp.array([True, False, False, True]))
    assert float(metrics["loss"]) == pytest.approx(float(wanted), rel=1e-5)


def test_partners_are_drawn_by_class():
    values, classes = np.array([0.5, 1.5], np.float32), np.zeros(2, np.int32)
    two = Array(np.array([0, 1], np.int32), "class")
    check_pairs(TASKS.make("classification"), Split.whole(label=two))
    for task, labels in (
        ("regression", Array(values, "value")),
        ("classification", Array(classes, "class")),
        ("unlabelled", two),
    ):
        with pytest.raises(InputError, match="rows='pairs' draws partners of the same and of another class, and"):
            check_pairs(TASKS.make(task), Split.whole(label=labels))


def test_slices_weigh_alike_whatever_the_classes_weigh():
    """The gradient is that of the whole batch: weights of classes are the task's, which this loss does not have."""
    found = []
    for accumulate in (1, 2):
        stage = tiny_stage(
            "bert_mean",
            method="setfit",
            stream={"partner": {"rows": "pairs"}},
            task={"name": "classification", "class_weights": (1.0, 5.0, 20.0)},
            accumulate=accumulate,
            optimizer="sgd",
            lr=1.0,
        )
        (batch,), start = batches(stage, 1), backbone(stage)
        state, metrics = jax.jit(make_train_step(stage.spec))(stage.enter(*start, 0), batch)
        found.append((float(metrics["loss"]), flatten(state.params)))
    (loss, params), (sliced, others) = found
    assert sliced == pytest.approx(loss, rel=1e-5)
    for path, leaf in params.items():
        np.testing.assert_allclose(others[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("form", ["sampled", "batch"])
def test_the_backbone_learns_and_the_head_waits(form):
    stream = {"partner": {"rows": "pairs"}} if form == "sampled" else {}
    stage = tiny_stage("bert_mean", method="setfit", options={"pairs": form}, stream=stream, lr=3e-3)
    (batch,), (params, model_state) = batches(stage, 1), backbone(stage)
    state, step = stage.enter(params, model_state, 0), jax.jit(make_train_step(stage.spec))
    losses = []
    for _ in range(8):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    before, after = flatten(params), flatten(state.params)
    head = [path for path in after if path.startswith("head/")]
    assert head and all(np.array_equal(before[path], after[path]) for path in head)
