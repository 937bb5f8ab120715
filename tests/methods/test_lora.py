"""LoRA (arXiv:2106.09685): exact when merged, on every kind of kernel."""

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
from tests.experiments import backbone, batches, tiny_stage, train
from tests.methods.added import added

CASES = ("resnet_basic", "resnet_bottleneck", "resnet_grouped", "vit_cls", "vit_mean")


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
    np.testing.assert_allclose(adapted, plain, rtol=0, atol=1e-5 * max(1, float(jnp.abs(plain).max())))


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


def test_scalings_by_hand():
    """s a b with s = alpha / rank or alpha / sqrt(rank), in the merged kernel."""
    for scaling, scale in (("standard", 6 / 4), ("rank_stabilised", 6 / 2)):
        stage = tiny_stage("vit_cls", method="lora", options={"rank": 4, "alpha": 6.0, "scaling": scaling})
        leaves = flatten(stage.enter(*backbone(stage), 0).params)
        site = "lora/block_0/attn/out"
        leaves[f"{site}/b"] = b = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
        merged = flatten(stage.spec.method.merge(unflatten(leaves), {}))["block_0/attn/out/kernel"]
        product = np.float64(leaves[f"{site}/a"]).reshape(12, 4) @ b
        wanted = leaves["block_0/attn/out/kernel"] + scale * product.reshape(3, 4, 12)
        np.testing.assert_allclose(merged, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("case", ["vit_cls", "resnet_grouped"])
def test_other_starts_give_the_backbone_and_the_factors_of_its_kernels(start, case):
    stage = tiny_stage(case, method="lora", options={"rank": 2, "alpha": 6.0, "start": start})
    params, _ = backbone(stage)
    before, state = flatten(params), stage.enter(params, {}, 0)
    now = flatten(state.params)
    for path, leaf in flatten(stage.leave(state)[0]).items():
        np.testing.assert_allclose(leaf, before[path], rtol=0, atol=1e-5)
    for path in [path for path in now if path.startswith("lora/") and path.endswith("/a")]:
        site = path.removeprefix("lora/").removesuffix("/a")
        a, b = (np.float64(now[f"lora/{site}/{name}"]) for name in "ab")
        product = 3.0 * a.reshape(-1, 2) @ b.reshape(2, -1)
        kernel = np.float64(before[f"{site}/kernel"]).reshape(product.shape)
        if start == "pissa":
            u, s, v = np.linalg.svd(kernel, full_matrices=False)
            wanted = u[:, :2] * s[:2] @ v[:2]
        else:  # the columns of Q have signs of their own, which the product has not
            q, r = np.linalg.qr(kernel.T)
            wanted = 3.0 * (q[:, :2] @ r[:2]).T
        np.testing.assert_allclose(product, wanted, rtol=0, atol=2e-5)
        left = np.float64(now[f"{site}/kernel"]).reshape(product.shape)
        np.testing.assert_allclose(left, kernel - product, rtol=0, atol=1e-5)
    assert not any(np.array_equal(now[path], before[path]) for path in before if f"lora/{path[:-7]}/a" in now)


def test_b_learns_at_a_rate_of_its_own():
    """LoRA+: the first SGD step moves B by b_rate times what it moves it without."""
    moved = {}
    for b_rate in (1.0, 16.0):
        options = {"b_rate": b_rate}
        stage = tiny_stage("vit_cls", method="lora", options=options, optimizer="sgd", momentum=0.0, lr=1e-3)
        groups = {path: leaf.group for path, leaf in stage.spec.trainable.items()}
        assert groups["lora/block_0/attn/key/b"] == ("lora_b" if b_rate != 1 else "lora")
        assert groups["lora/block_0/attn/key/a"] == "lora"
        moved[b_rate] = {path: np.asarray(leaf) for path, leaf in flatten(train(stage, 1)[0].params).items()}
    for path in moved[1.0]:
        if path.startswith("lora/") and path.endswith("/b"):
            np.testing.assert_allclose(moved[16.0][path], 16 * moved[1.0][path], rtol=1e-5, atol=1e-9)
        else:
            np.testing.assert_array_equal(moved[16.0][path], moved[1.0][path])


def test_counts_on_roberta_base():
    """Query and value at rank 8, and all six kernels of a block; by shapes alone."""
    options = {"targets": (r".*/attn/(query|value)/kernel",)}
    assert added("lora", "roberta", **options) == 294_912
    assert added("lora", "roberta", targets=(r"block_.*/(attn|mlp)/\w+/kernel",)) == 1_327_104


@pytest.mark.parametrize("a_start,std,most", [("normal", 1.0, 5.0), ("uniform", 3**-0.5, 1.0)])
def test_how_a_is_drawn(a_start, std, most):
    """Times the root of the fan-in: a normal distribution, or peft's Kaiming-uniform, U(-1, 1)."""
    stage = tiny_stage("vit_cls", method="lora", options={"rank": 64, "a_start": a_start})
    leaves = flatten(stage.enter(*backbone(stage), 0).params)
    for site, fan in (("block_0/attn/key", 12), ("block_1/mlp/fc2", 20)):
        a = np.float64(leaves[f"lora/{site}/a"]) * fan**0.5
        assert a.std() == pytest.approx(std, rel=0.1) and 0.9 * std < np.abs(a).max() <= most * (1 + 1e-6)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"scaling": "rank_stabilized"}, "lora: unknown scaling 'rank_stabilized'; nearest: 'rank_stabilised'"),
        ({"start": "pisa"}, "lora: unknown start 'pisa'; nearest: 'pissa'"),
        ({"a_start": "unifrom"}, "lora: unknown a_start 'unifrom'; nearest: 'uniform'"),
        (
            {"a_start": "uniform", "start": "pissa"},
            "lora: start='pissa' takes A from each kernel, and a_start='uniform'",
        ),
        ({"b_rate": 0.0}, "lora: expected b_rate > 0, found 0.0"),
        ({"start": "pissa", "alpha": -1.0}, "lora: expected alpha > 0 with start='pissa', found -1.0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        METHODS.make("lora", tiny_stage("vit_cls").spec.port, **options)


def test_a_start_needs_kernels_of_its_rank():
    with pytest.raises(InputError, match="start='pissa' has no rank 8 in block_0/conv_1/kernel, which has 6 at most"):
        tiny_stage("resnet_basic", method="lora", options={"start": "pissa"})
