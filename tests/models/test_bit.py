"""Standardised convolutions and unpadded pools, by hand."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.models import kernels
from jaxfer.models.bit import inner
from jaxfer.models.convolutions import StandardisedConv
from jaxfer.registry import MODELS


def standardised(kernel, epsilon):
    kernel = np.asarray(kernel, np.float64)
    return (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + epsilon)


def test_a_convolution_and_its_low_rank_gain():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((2, 5, 4, 3), (3, 3, 3, 6)))
    a, b = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((3, 3, 3, 2), (2, 6)))
    layer = StandardisedConv(6, (3, 3), 2, 1, epsilon=0.5)
    plain = nn.Conv(6, (3, 3), 2, ((1, 1), (1, 1)), use_bias=False)

    def expected(kernel):
        return plain.apply({"params": {"kernel": jnp.asarray(standardised(kernel, 0.5), jnp.float32)}}, x)

    variables = {"params": {"kernel": kernel}}
    np.testing.assert_allclose(layer.apply(variables, x), expected(kernel), rtol=1e-4, atol=1e-4)
    gain = layer.apply(variables, x, a, b, method="low_rank")
    moved = kernel + np.tensordot(a, b, 1)
    np.testing.assert_allclose(gain, expected(moved) - expected(kernel), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(3, 4), (7, 6)])
def test_a_pool_without_padding_and_its_gradient(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)

    def plain(x):
        return nn.max_pool(x, (3, 3), (2, 2))

    np.testing.assert_array_equal(kernels.valid_max_pool(x), plain(x))
    gradients = [jax.grad(lambda x, pool=pool: (pool(x) ** 2).sum())(x) for pool in (kernels.valid_max_pool, plain)]
    np.testing.assert_array_equal(*gradients)


def test_widths_of_the_3x3_convolutions():
    assert [inner(width) for width in (8, 40, 48, 256, 2048, 6144)] == [8, 16, 16, 64, 512, 1536]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(stage_sizes=(1,) * 5), "at most 4 stages, found (1, 1, 1, 1, 1)"),
        (dict(widths=(8, 16)), "a width for each of the 4 stages, found (8, 16)"),
        (dict(width=5, groups=1), "widths must be multiples of 8, found 20"),
        (dict(width=16, groups=32), "groups=32 must divide the channels of every norm, found 16"),
        (dict(padding="same", image=(4, 9, 3)), "smaller than the 5 pixels of an unpadded stem"),
    ],
)
def test_networks_that_there_are_none_of(options, message):
    with pytest.raises(InputError) as error:
        MODELS.make("bit", outputs=2, **options)
    assert message in str(error.value)
