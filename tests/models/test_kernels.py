"""The forms that a CPU runs are XLA's own operations: values and gradients, where windows overlap, pad and tie."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from jaxfer.models import kernels
from jaxfer.models.layers import zeros


def drawn(*shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def both(ours, theirs, *arguments):
    """Asserts that two functions have the same values and gradients under a weighting that tells places apart."""
    wanted = theirs(*arguments)
    weights = drawn(*wanted.shape, seed=7)
    np.testing.assert_allclose(ours(*arguments), wanted, rtol=1e-5, atol=1e-5)
    found, expected = (
        jax.grad(lambda *a, f=f: (f(*a) * weights).sum(), argnums=tuple(range(len(arguments))))(*arguments)
        for f in (ours, theirs)
    )
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("image", "size", "stride", "padding", "dilation"),
    [
        ((7, 6), (3, 3), 1, 1, 1),
        ((7, 6), (3, 3), 2, 1, 1),
        ((8, 7), (3, 3), 2, "same", 1),
        ((9, 9), (3, 3), 1, 2, 2),
        ((9, 8), (5, 3), 3, "same", 1),
        ((6, 6), (2, 2), 2, 0, 1),
        ((5, 5), (1, 1), 2, 1, 1),
    ],
)
def test_depthwise(image, size, stride, padding, dilation):
    spans = tuple((side - 1) * dilation + 1 for side in size)
    pads = zeros(image, spans, stride, padding)

    def grouped(x, window):
        return jax.lax.conv_general_dilated(
            x,
            window,
            (stride, stride),
            pads,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=kernels.LAYOUT,
            feature_group_count=x.shape[-1],
        )

    both(lambda *a: kernels.depthwise(*a, stride, pads, dilation), grouped, drawn(2, *image, 4), drawn(*size, 1, 4))


def test_the_gradient_of_each_example_alone_is_the_same():
    """Under `vmap`, as EWC measures it."""
    x, window, pads = drawn(3, 6, 6, 2), drawn(3, 3, 1, 2), ((1, 1), (1, 1))

    def loss(window, x):
        return (kernels.depthwise(x[None], window, 1, pads, 1) ** 2).sum()

    rows = jax.vmap(jax.grad(loss), (None, 0))(window, x)
    for row, example in zip(rows, x, strict=True):
        np.testing.assert_allclose(row, jax.grad(loss)(window, example), rtol=1e-5)


@pytest.mark.parametrize("image", [(8, 8), (7, 7), (5, 6), (1, 2)])
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool(image, ties):
    x = drawn(2, *image, 3)
    both(kernels.max_pool, kernels._plain_max_pool, jnp.maximum(x, 0) if ties else x)


def test_pointwise():
    for stride in (1, 2):
        kernel = drawn(1, 1, 3, 5)
        both(
            lambda *a, stride=stride: kernels.pointwise(*a, stride),
            lambda x, kernel, stride=stride: jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), "VALID", dimension_numbers=kernels.LAYOUT
            ),
            drawn(2, 5, 6, 3),
            kernel,
        )


def test_gelu():
    x = jnp.linspace(-8.0, 8.0, 65)
    both(kernels.gelu, lambda x: x * norm.cdf(x), x)


def test_a_tpu_keeps_its_own():
    """Lowered for another platform, the same function holds XLA's convolution and window operations."""

    def network(x, window, kernel):
        x = kernels.depthwise(kernels.pointwise(kernels.max_pool(x), kernel, 1), window, 1, ((1, 1), (1, 1)), 1)
        return (x**2).sum()

    arguments = drawn(2, 8, 8, 3), drawn(3, 3, 1, 4), drawn(1, 1, 3, 4)
    lowered = {
        platform: jax.jit(jax.grad(network)).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("tpu", "cpu")
    }
    for operation in ("stablehlo.convolution", "stablehlo.select_and_scatter"):
        assert operation in lowered["tpu"] and operation not in lowered["cpu"]
