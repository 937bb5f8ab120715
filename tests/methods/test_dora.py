"""DoRA (arXiv:2402.09353): lengths and directions by hand, and a norm that lets no gradient through."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.config.experiment import ParallelConfig
from jaxfer.models.layers import Dense
from jaxfer.parallel.placement import placement
from jaxfer.rules import flatten, unflatten
from jaxfer.training.summary import summary
from tests.experiments import backbone, tiny_stage
from tests.methods.added import added


class Block(nn.Module):
    """The layer block_0/mlp/fc1 alone."""

    @nn.compact
    def __call__(self, x):
        return Mlp(name="block_0")(x)


class Mlp(nn.Module):
    inner: bool = False

    @nn.compact
    def __call__(self, x):
        return Dense((20,), name="fc1")(x) if self.inner else Mlp(inner=True, name="mlp")(x)


def drawn(stage):
    state, rng = stage.enter(*backbone(stage), 0), np.random.default_rng(0)
    leaves = flatten(state.params)
    for path in [path for path in leaves if path.startswith("dora/")]:
        leaves[path] += jnp.asarray(0.3 * rng.normal(size=leaves[path].shape), jnp.float32)
    return unflatten(leaves), state.extra


def test_the_merged_kernel_by_hand():
    stage = tiny_stage("vit_cls", method="dora", options={"rank": 2, "alpha": 6.0})
    params, extra = drawn(stage)
    leaves, merged = flatten(params), flatten(stage.spec.method.merge(params, extra))
    for site, n in (("block_0/attn/key", 1), ("block_1/attn/out", 2)):
        a, b, m = (np.float64(leaves[f"dora/{site}/{name}"]) for name in ("a", "b", "magnitude"))
        moved = np.float64(leaves[f"{site}/kernel"]) + 3.0 * np.tensordot(a, b, 1)
        wanted = m * moved / np.sqrt((moved**2).sum(tuple(range(n))))
        np.testing.assert_allclose(merged[f"{site}/kernel"], wanted, rtol=0, atol=1e-6)


def test_the_norm_is_a_constant_of_the_gradient():
    """Of one layer, against the paper's section 4.3: V / |V| with |V| held, in float64 from the dense kernel."""
    stage = tiny_stage("vit_cls", method="dora", options={"rank": 2, "alpha": 6.0, "targets": (".*_0/mlp/fc1/kernel",)})
    params, extra = drawn(stage)
    leaves, site = flatten(params), "block_0/mlp/fc1"
    part = {name: leaves[f"dora/{site}/{name}"] for name in ("a", "b", "magnitude")}
    x = np.random.default_rng(1).normal(size=(5, 12)).astype(np.float32)

    def ours(part):
        full = unflatten({**leaves, **{f"dora/{site}/{name}": leaf for name, leaf in part.items()}})
        with nn.intercept_methods(stage.spec.method.intercept(full, extra)):
            return (Block().apply({"params": {"block_0": full["block_0"]}}, x) ** 2).sum()

    kernel, bias = leaves[f"{site}/kernel"], leaves[f"{site}/bias"]
    held = jnp.linalg.norm(kernel + 3.0 * part["a"] @ part["b"], axis=0)

    def dense(part):
        moved = kernel + 3.0 * part["a"] @ part["b"]
        return ((x @ (part["magnitude"] * moved / held) + bias) ** 2).sum()

    found, wanted = jax.grad(ours)(part), jax.grad(dense)(part)
    for name in part:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4)


def test_a_step_costs_at_most_two_and_a_fifth_of_a_forward_pass():
    """Operations as lowered, of a ViT of width 192 with every kernel adapted, beside the plain model's pass: without V
    no gradient of a frozen kernel is made, and the lengths cost no more than the kernels' products with A."""
    model = dict(name="vit", width=192, layers=2, heads=3, mlp_width=768, image=(64, 64, 3))
    where = placement(ParallelConfig(devices=1))
    found, plain = (summary(tiny_stage("vit_cls", model=model, method=method), where) for method in ("dora", "full"))
    assert 1.8 < found.step_flops / plain.forward_flops <= 2.2


def test_the_length_without_the_dense_kernel():
    """The ratio from |W|^2 + 2 s <W, B A> + s^2 |B A|^2: scaled outputs of one layer, against |V| in float64."""
    options = {"rank": 2, "alpha": 6.0, "targets": (".*_0/mlp/fc1/kernel",)}
    stage = tiny_stage("vit_cls", method="dora", options=options)
    params, extra = drawn(stage)
    leaves, site = flatten(params), "block_0/mlp/fc1"
    a, b, m = (np.float64(leaves[f"dora/{site}/{name}"]) for name in ("a", "b", "magnitude"))
    with nn.intercept_methods(stage.spec.method.intercept(params, extra)):
        found = Block().apply({"params": {"block_0": params["block_0"]}}, np.eye(12, dtype=np.float32))
    moved = np.float64(leaves[f"{site}/kernel"]) + 3.0 * a @ b
    wanted = m * moved / np.linalg.norm(moved, axis=0) + leaves[f"{site}/bias"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_count_on_roberta_base():
    """LoRA's 294,912 of query and value, and a length for each of their outputs."""
    assert added("dora", "roberta", targets=(r".*/attn/(query|value)/kernel",)) == 313_344
