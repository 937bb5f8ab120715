"""Attention's forms have the same values and gradients, with padding and on several devices; which is used where."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxfer.models import attention
from jaxfer.models.execution import Execution

from . import tiny
from .test_kernels import both, drawn


@pytest.fixture
def interpreted(monkeypatch):
    """Pallas' kernels on a CPU."""
    monkeypatch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, interpret=True))


def inputs(tokens, heads=2, width=8, batch=2):
    """(query, key, value) and a mask: one text without padding, the others of two tokens more than the one before."""
    arrays = tuple(drawn(batch, tokens, heads, width, seed=i) for i in range(3))
    kept = np.where(np.arange(batch) > 0, 1 + 2 * np.arange(batch), tokens)
    return arrays, jnp.asarray(np.arange(tokens) < kept[:, None], jnp.int32)


def mesh(**axes):
    """The first devices as a mesh, examples split over `data`."""
    whole = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    return NamedSharding(whole, PartitionSpec(("data",)))


@pytest.mark.parametrize(
    ("platform", "dtype", "tokens", "width", "expected"),
    [
        ("cuda", "bfloat16", 197, 64, "cudnn"),
        ("cuda", "float16", 512, 128, "cudnn"),
        ("cuda", "float32", 512, 64, "plain"),
        ("cuda", "bfloat16", 512, 60, "plain"),
        ("cuda", "bfloat16", 512, 136, "plain"),
        ("tpu", "bfloat16", 512, 64, "flash"),
        ("tpu", "bfloat16", 1025, 80, "flash"),
        ("tpu", "bfloat16", 197, 64, "plain"),
        ("tpu", "bfloat16", 512, 256, "plain"),
        ("tpu", "float16", 512, 64, "plain"),
        ("tpu", "float32", 512, 64, "plain"),
        ("gpu", "bfloat16", 512, 64, "plain"),
        ("cpu", "bfloat16", 512, 64, "plain"),
    ],
)
def test_which_form_is_used(platform, dtype, tokens, width, expected):
    assert attention.kernel(platform, jnp.dtype(dtype), tokens, width) == expected


@pytest.mark.parametrize("masked", [False, True])
def test_plain_forms(masked):
    """By hand in float64, with the gradients of the form of GPUs and TPUs."""
    arrays, mask = inputs(5)
    mask = mask if masked else None
    both(lambda *a: attention.attention(*a, mask), lambda *a: attention._plain(*a, mask), *arrays)
    query, key, value = (np.float64(x) for x in arrays)
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(8)
    weights = np.exp(scores) * (1 if mask is None else np.asarray(mask)[:, None, None])
    wanted = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), value)
    np.testing.assert_allclose(attention.attention(*arrays, mask), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal,window,masked,biased", [(True, 2, True, True), (False, 0, False, False)])
def test_a_prefix_is_seen_by_every_query(causal, window, masked, biased):
    """By hand in float64, of four heads that share two heads of keys: rows of padding and of other windows too."""
    (query, key, value), mask = inputs(5, heads=4)
    key, value, prefix = key[:, :, :2], value[:, :, :2], (drawn(3, 2, 8, seed=7), drawn(3, 2, 8, seed=8))
    bias = drawn(1, 4, 5, 5, seed=9) if biased else None
    how = dict(bias=bias, causal=causal, window=window, prefix=prefix)
    found = attention.attention(query, key, value, mask if masked else None, **how)
    keys, values = (
        np.repeat(np.concatenate([np.broadcast_to(np.float64(first), (2, 3, 2, 8)), np.float64(x)], 1), 2, 2)
        for first, x in zip(prefix, (key, value), strict=True)
    )
    scores = np.einsum("bqhd,bkhd->bhqk", np.float64(query), keys) / np.sqrt(8)
    scores[..., 3:] += 0 if bias is None else np.float64(bias)
    back = np.arange(5)[:, None] - np.arange(5)
    seen = (np.abs(back) <= window if window else back == back) & (back >= 0 if causal else True)
    seen = np.broadcast_to(seen, (2, 1, 5, 5)) & (np.asarray(mask)[:, None, None] > 0 if masked else True)
    weights = np.exp(scores) * np.concatenate([np.ones((2, 1, 5, 3)), seen], -1)
    wanted = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), values)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [128, 512])
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_of_tpus(interpreted, monkeypatch, masked, block):
    """Interpreted on a CPU, in float32: two blocks and one, which the tokens do not fill."""
    monkeypatch.setattr(attention, "BLOCK", block)
    arrays, mask = inputs(130, heads=1)
    mask = mask if masked else None
    both(lambda *a: attention._flash(*a, mask), lambda *a: attention._plain(*a, mask), *arrays)


def test_a_text_of_padding_alone_is_finite(interpreted):
    arrays, mask = inputs(130, heads=1)
    assert np.isfinite(attention._flash(*arrays, 0 * mask)).all()
    assert np.isfinite(attention.attention(*arrays, 0 * mask)).all()


@pytest.mark.parametrize("axes", [{"data": 4}, {"data": 2, "tensor": 2}, {"data": 1, "tensor": 4}])
@pytest.mark.parametrize("masked", [False, True])
def test_on_several_devices_every_one_has_its_own_examples_and_heads(monkeypatch, axes, masked):
    """The kernel is exchanged for the plain form, which notes what it is given: heads that the mesh does not divide are
    whole on every device."""
    arrays, mask = inputs(5, batch=4)
    mask, shapes = mask if masked else None, []

    def noted(query, *rest):
        shapes.append(query.shape)
        return attention._plain(query, *rest)

    monkeypatch.setattr(attention, "_platform", lambda batched: "tpu")
    monkeypatch.setattr(attention, "kernel", lambda *_: "flash")
    monkeypatch.setitem(attention.FUSED, "flash", noted)
    batched = mesh(**axes)
    forms = (lambda *a: attention.attention(*a, mask, batched=batched), lambda *a: attention._heads_first(*a, mask))
    found, wanted = (jax.jit(lambda *a, f=f: jax.vjp(f, *a)[1](arrays[0]))(*arrays) for f in forms)
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    assert set(shapes) == {(4 // axes["data"], 5, {1: 2, 2: 1, 4: 2}[axes.get("tensor", 1)], 8)}
    shapes.clear()
    three = tuple(x[:3] for x in arrays)
    attention.attention(*three, batched=mesh(data=4))
    assert not shapes  # plain: three examples over four devices


def lowered(function, *arguments, platform):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("case", "devices"), [("vit_cls", 1), ("bert_mean", 4)])
def test_a_step_for_a_tpu_holds_its_kernel(monkeypatch, case, devices):
    """Forward, backward and recomputed, lowered without a TPU; not where the devices are unknown, or in float32."""
    monkeypatch.setattr(attention, "_platform", lambda batched: "tpu")
    monkeypatch.setattr(attention, "SHORTEST", 1)
    port, batch = tiny.make(case), tiny.batch(tiny.make(case))
    params, _ = jax.eval_shape(port.init, jax.random.key(0), batch)
    block, low = port.units[1], tuple((unit, "bfloat16") for unit in port.units)
    batched = mesh(data=devices)

    def calls(**execution):
        model = port.computed(Execution(**execution))

        def loss(params, batch):
            return model.apply(params, {}, batch)[0].sum()

        return lowered(jax.grad(loss), params, batch, platform="tpu").count("@tpu_custom_call")

    assert calls(dtypes=low, batched=batched, remat=frozenset({block})) > 0
    assert calls(dtypes=low) == calls(batched=batched) == 0


def test_dropout_of_the_weights_is_plain(monkeypatch):
    monkeypatch.setattr(attention, "kernel", lambda *_: pytest.fail("asked"))
    arrays, mask = inputs(5)
    found = attention.attention(*arrays, mask, drop=lambda weights: 0 * weights, batched=mesh(data=1))
    assert not found.any()


def test_a_step_for_a_gpu_holds_cudnns(monkeypatch):
    """Lowered without a GPU, which JAX asks for the version of its cuDNN; padding is a length."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(attention, "_platform", lambda batched: "cuda")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    arrays, mask = inputs(6)
    arrays = tuple(x.astype(jnp.bfloat16) for x in arrays)

    def loss(*arrays):
        return attention.attention(*arrays, mask, batched=mesh(data=1)).astype(jnp.float32).sum()

    text = lowered(jax.grad(loss), *arrays, platform="cuda")
    assert "__cudnn$fmhaSoftmaxBackward" in text and "PADDING" in text
