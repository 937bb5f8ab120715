"""SetFit: its loss by hand, and two stages of few labels."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.methods.setfit import pairs
from jaxfer.rules import flatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage


def test_pairs_by_hand():
    rng, labels = np.random.default_rng(0), np.array([0, 1, 0, 2, 1])
    features = rng.normal(size=(5, 4))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    kinds = {True: [], False: []}
    for i, j in itertools.combinations(range(5), 2):
        same = labels[i] == labels[j]
        kinds[same].append((unit[i] @ unit[j] - same) ** 2)
    with jax.enable_x64(True):
        found = float(pairs(jnp.asarray(features), jnp.asarray(labels)))
        alone = float(pairs(jnp.asarray(features), jnp.arange(5)))  # no pair of one class
    assert found == pytest.approx((np.mean(kinds[True]) + np.mean(kinds[False])) / 2, rel=1e-9)
    every = [unit[i] @ unit[j] for i, j in itertools.combinations(range(5), 2)]
    assert alone == pytest.approx(np.square(every).mean() / 2, rel=1e-9)


def test_the_backbone_learns_and_the_head_waits():
    stage = tiny_stage("bert_mean", method="setfit", lr=3e-3)
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
