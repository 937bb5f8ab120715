"""LoRA (arXiv:2106.09685): exact at step 0, exact when merged, on every kind of kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.registry import METHODS
from jaxfer.rules import flatten, unflatten
from jaxfer.step import make_eval_step
from tests.experiments import backbone, batches, tiny_stage

CASES = ("resnet_basic", "resnet_bottleneck", "resnet_grouped", "vit_cls", "vit_mean")


@pytest.mark.parametrize("case", CASES)
def test_at_step_0_the_logits_are_the_backbones(case):
    stage = tiny_stage(case, method="lora")
    params, model_state = backbone(stage)
    state = stage.enter(params, model_state, 0)
    (batch,) = batches(stage, 1)
    adapted = jax.jit(make_eval_step(stage.spec))(state.params, state.model_state, state.extra, batch)["collected"]
    plain = jax.jit(lambda: stage.spec.port.apply(params, model_state, batch)[0])()
    np.testing.assert_allclose(adapted, plain, rtol=0, atol=1e-6 * max(1, float(np.abs(plain).max())))


@pytest.mark.parametrize("case", CASES)
def test_adapters_change_every_targeted_kernel_and_merge_is_exact(case):
    """With b far from zero: intercepted logits = logits of the merged weights = W + (alpha / rank) a b by hand."""
    stage = tiny_stage(case, method="lora", options={"rank": 2, "alpha": 6.0, "targets": (".*/kernel",)})
    params, model_state = backbone(stage)
    full, _ = stage.spec.method.init(params, jax.random.key(3), NOTHING)
    leaves = flatten(full)
    rng = np.random.default_rng(0)
    for path in [path for path in leaves if path.endswith("/b")]:
        leaves[path] = jnp.asarray(0.1 * rng.normal(size=leaves[path].shape), jnp.float32)
    full = unflatten(leaves)
    (batch,) = batches(stage, 1)
    adapted = jax.jit(make_eval_step(stage.spec))(full, model_state, {}, batch)["collected"]
    merged = stage.spec.method.merge(full, {})
    for path, kernel in flatten(params).items():
        if path.endswith("/kernel"):
            site = "lora/" + path.removesuffix("/kernel")
            a, b = np.asarray(leaves[f"{site}/a"]), np.asarray(leaves[f"{site}/b"])
            delta = (a.reshape(-1, 2) @ b.reshape(2, -1)).reshape(kernel.shape)
            np.testing.assert_allclose(flatten(merged)[path], kernel + 3.0 * delta, rtol=0, atol=1e-5)
        else:
            assert np.array_equal(flatten(merged)[path], kernel)
    forward = jax.jit(lambda params: stage.spec.port.apply(params, model_state, batch)[0])
    plain = forward(merged)
    assert float(jnp.abs(adapted - forward(params)).max()) > 0.1
    np.testing.assert_allclose(adapted, plain, rtol=0, atol=2e-5 * max(1, float(jnp.abs(plain).max())))


def test_default_targets_are_every_kernel_between_stem_and_head():
    stage = tiny_stage("vit_cls", method="lora")
    sites = {path.rsplit("/", 1)[0] for path in flatten(stage.shapes[0]["lora"])}
    layers = ("attn/query", "attn/key", "attn/value", "attn/out", "mlp/fc1", "mlp/fc2")
    assert sites == {f"block_{i}/{layer}" for i in (0, 1) for layer in layers}


@pytest.mark.parametrize("rank", [0, -1])
def test_rank_is_checked(rank):
    stage = tiny_stage("vit_cls")
    with pytest.raises(InputError, match="expected rank >= 1"):
        METHODS.make("lora", stage.spec.port, rank=rank)
