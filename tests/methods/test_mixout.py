"""Mixout: the mean and the spread of mixed weights, when they are mixed, and what refuses it."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.rules import flatten
from tests.experiments import backbone, tiny_stage, train


def test_mixed_weights():
    """Each weight is the start's or w0 + (w - w0) / (1 - p), with the mean w; what has not moved is exactly itself."""
    stage = tiny_stage("vit_cls", adds=("mixout",), options={"probability": 0.8})
    method, (params, _) = stage.spec.method, backbone(stage)
    _, extra = method.init(params, jax.random.key(0), stage.given)
    start = extra["start"]
    assert {"block_0/attn/query/kernel", "block_1/mlp/fc2/kernel"} <= start.keys()
    assert not any(path.startswith("head/out/") or not path.endswith("/kernel") for path in start)
    same = flatten(method.noisy_view(params, extra, jax.random.key(1)))
    assert all(np.array_equal(same[path], leaf) for path, leaf in flatten(params).items())
    moved, _ = backbone(stage, seed=1)
    view = jax.jit(jax.vmap(method.noisy_view, in_axes=(None, None, 0)))
    drawn, leaves = flatten(view(moved, extra, jax.random.split(jax.random.key(2), 400))), flatten(moved)
    for path, leaf in leaves.items():
        found, leaf = np.asarray(drawn[path], np.float64), np.asarray(leaf, np.float64)
        if path not in start:
            assert (found == leaf).all(), path
            continue
        w0 = np.asarray(start[path], np.float64)
        back = found == w0
        np.testing.assert_allclose(found[~back], np.broadcast_to(w0 + (leaf - w0) / 0.2, found.shape)[~back], rtol=1e-4)
        assert back.mean() == pytest.approx(0.8, abs=0.02)
        assert abs((found - leaf).mean()) < 0.15 * np.abs(leaf - w0).mean()


def test_evaluation_and_export_see_no_mixture():
    stage, plain = tiny_stage("vit_cls", adds=("mixout", "ema")), tiny_stage("vit_cls")
    params, model_state = backbone(stage)
    state = stage.enter(params, model_state, 0)
    for path, leaf in flatten(stage.spec.method.view(state.params, state.extra)).items():
        np.testing.assert_array_equal(leaf, flatten(params)[path])
    mixed, losses = train(stage, 2)[1], train(plain, 2)[1]
    assert mixed[0] == losses[0] and mixed[1] != losses[1]  # at the start there is nothing to mix


def test_what_is_refused():
    with pytest.raises(InputError, match="mixout mixes trained kernels .*, the method trains none; remove it"):
        tiny_stage("vit_cls", method="lora", adds=("mixout",))
    with pytest.raises(InputError, match="options.probability: expected at least 0 and less than 1, found 1.0"):
        tiny_stage("vit_cls", adds=("mixout",), options={"probability": 1.0})
