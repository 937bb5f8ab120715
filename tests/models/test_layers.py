from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.models.layers import BatchNorm, Conv, Dense, Depthwise, zeros

from . import reference

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_dense_sums_the_trailing_axes():
    x, kernel, bias = normal(2, 5, 3, 4), normal(3, 4, 6), normal(6)
    y = Dense((6,), inputs=2).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = np.array([[(x[b, t][:, :, None] * kernel).sum((0, 1)) + bias for t in range(5)] for b in range(2)])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_dense_splits_heads():
    x, kernel = normal(2, 4), normal(4, 3, 5)
    y = Dense((3, 5), use_bias=False).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(y, np.stack([x @ kernel[:, h] for h in range(3)], 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("features", "inputs", "shape"), [((40, 50), 1, (200,)), ((50,), 2, (20, 10))])
def test_dense_initial_variance_counts_every_summed_axis(features, inputs, shape):
    params = Dense(features, inputs).init(jax.random.key(0), jnp.zeros(shape))["params"]
    assert params["kernel"].shape == (*shape, *features)
    assert float(params["kernel"].std()) == pytest.approx(200**-0.5, rel=0.02)
    assert not params["bias"].any()


@pytest.mark.parametrize(
    ("size", "stride", "padding", "image"),
    [
        ((3, 3), 1, 1, (5, 4)),
        ((3, 3), 2, 1, (6, 7)),
        ((7, 7), 2, 3, (8, 5)),
        ((2, 2), 2, 0, (5, 6)),
        ((4, 2), 3, 1, (9, 6)),
    ],
)
def test_conv_equals_explicit_loops(size, stride, padding, image):
    x, kernel, bias = normal(2, *image, 3), normal(*size, 3, 4), normal(4)
    layer = Conv(4, size, stride, padding, use_bias=True)
    y = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(y, reference.conv(x, kernel, stride, padding) + bias, rtol=1e-5, atol=1e-4)


def test_conv_initial_variance_is_he_fan_out():
    kernel = Conv(64, (3, 3)).init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))["params"]["kernel"]
    assert float(kernel.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_conv_is_a_correlation():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    kernel = jnp.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(2, 2, 1, 1)
    assert Conv(1, (2, 2)).product(x, kernel).item() == 0 * 1 + 1 * 10 + 2 * 100 + 3 * 1000


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("image", [(7, 5), (6, 8)])
def test_conv_1x1_by_dot_equals_the_general_convolution(stride, image):
    x, kernel = normal(2, *image, 3), normal(1, 1, 3, 4)
    general = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(Conv(4, (1, 1), stride).product(x, kernel), general, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(general, reference.conv(x, kernel, stride), rtol=1e-5, atol=1e-5)


def test_conv_1x1_with_padding_pads():
    x, kernel = normal(1, 3, 3, 2), normal(1, 1, 2, 2)
    y = Conv(2, (1, 1), 1, 1).product(x, kernel)
    np.testing.assert_allclose(y, reference.conv(x, kernel, 1, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "stride", "expected"),
    [((5, 4), 1, ((1, 1), (1, 1))), ((5, 4), 2, ((1, 1), (0, 1))), ((1, 7), 3, ((1, 1), (1, 1)))],
)
def test_same_padding_by_hand(image, stride, expected):
    assert zeros(image, (3, 3), stride, "same") == expected
    assert zeros(image, (3, 3), stride, 2) == ((2, 2), (2, 2))


@pytest.mark.parametrize("padding", [0, 1, "same"])
@pytest.mark.parametrize(("size", "stride"), [((3, 3), 1), ((3, 3), 2), ((2, 5), 3)])
def test_depthwise_is_a_convolution_of_each_channel(size, stride, padding):
    x, window = normal(2, 9, 8, 3), normal(*size, 1, 3)
    layer = Depthwise(size, stride, padding)
    y = layer.apply({"params": {"window": window}}, x)
    padded = np.pad(x, ((0, 0), *zeros((9, 8), size, stride, padding), (0, 0)))
    planes = [reference.conv(padded[..., c : c + 1], window[..., c : c + 1], stride) for c in range(3)]
    np.testing.assert_allclose(y, np.concatenate(planes, -1), rtol=1e-5, atol=1e-5)
    grouped = jax.lax.conv_general_dilated(
        padded, window, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3
    )
    np.testing.assert_allclose(y, grouped, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [0, 1, "same"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 2), (2, 2), (1, 3)])
def test_a_dilated_depthwise_has_its_taps_apart(stride, dilation, padding):
    x, window = normal(2, 9, 8, 3), normal(3, 3, 1, 3)
    y = Depthwise((3, 3), stride, padding, dilation).apply({"params": {"window": window}}, x)
    pads = "SAME" if padding == "same" else ((padding * dilation,) * 2,) * 2
    grouped = jax.lax.conv_general_dilated(
        x,
        window,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    np.testing.assert_allclose(y, grouped, rtol=1e-5, atol=1e-5)


def test_depthwise_initial_variance_is_he_of_one_channel():
    window = Depthwise((3, 3)).init(jax.random.key(0), jnp.zeros((1, 4, 4, 2000)))["params"]["window"]
    assert float(window.std()) == pytest.approx((2 / 9) ** 0.5, rel=0.02)


def test_trap_batchnorm_momentum_and_unbiased_variance():
    # Two values, 1 and 3: mean 2, biased variance 1, unbiased 2; PyTorch's momentum 0.1 weighs the new value.
    x = jnp.array([[1.0], [3.0]])
    variables = {
        "params": {"scale": jnp.array([2.0]), "bias": jnp.array([5.0])},
        "batch_stats": {"mean": jnp.array([10.0]), "var": jnp.array([4.0])},
    }
    y, updated = BatchNorm(epsilon=0.0).apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    np.testing.assert_allclose(y, [[3.0], [7.0]], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.9 * 10 + 0.1 * 2], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 * 4 + 0.1 * 2], rtol=1e-6)
    y = BatchNorm(epsilon=0.0).apply(variables, x, use_running_average=True)
    np.testing.assert_allclose(y, [[(1 - 10) / 2 * 2 + 5], [(3 - 10) / 2 * 2 + 5]], rtol=1e-6)


def test_batchnorm_normalises_over_all_axes_but_the_last():
    x = normal(4, 3, 2, 5) + 1000  # a one-pass variance would lose all digits here
    variables = BatchNorm().init(jax.random.key(0), x, use_running_average=False)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(5))  # initialising is no step
    y, updated = BatchNorm().apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    exact = x.astype(np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    np.testing.assert_allclose(y, (exact - mean) / np.sqrt(var + 1e-5), atol=3e-4)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * var * 24 / 23, rtol=1e-4)


def test_batchnorm_over_a_mapped_axis_equals_the_whole_batch():
    x = normal(6, 2, 5)
    variables = BatchNorm().init(jax.random.key(0), x, use_running_average=False)
    whole, stats = BatchNorm().apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    mapped = BatchNorm(axis_name="device")
    halves, synced = jax.vmap(
        lambda half: mapped.apply(variables, half, use_running_average=False, mutable=["batch_stats"]),
        axis_name="device",
    )(x.reshape(2, 3, 2, 5))
    np.testing.assert_allclose(halves.reshape(6, 2, 5), whole, rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        for half in synced["batch_stats"][name]:
            np.testing.assert_allclose(half, stats["batch_stats"][name], rtol=1e-5, atol=1e-6)


def test_trap_use_running_average_is_passed_in_the_call():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return BatchNorm(name="norm")(x, use_running_average=not train)

    def freeze(next_fun, args, kwargs, context):
        if isinstance(context.module, BatchNorm):
            kwargs = {**kwargs, "use_running_average": True}
        return next_fun(*args, **kwargs)

    x = jnp.array([[1.0], [3.0]])
    variables = Net().init(jax.random.key(0), x, False)
    with nn.intercept_methods(freeze):
        y, updated = Net().apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, Net().apply(variables, x, False))
    np.testing.assert_array_equal(updated["batch_stats"]["norm"]["mean"], [0.0])
    _, unfrozen = Net().apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(unfrozen["batch_stats"]["norm"]["mean"], [0.2], rtol=1e-6)
