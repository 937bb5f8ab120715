"""Operations that a CPU computes faster in another form; GPUs and TPUs keep XLA's own.

The forms give the same values up to rounding. `lax.platform_dependent` chooses between them when a program is lowered,
so that a plan for a TPU made on a laptop has the TPU's. experiments/speed has the times.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Pads = tuple[tuple[int, int], ...]
LAYOUT = ("NHWC", "HWIO", "NHWC")


def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x), in float32 and in PyTorch's form. By erfc, as `jax.nn.gelu` has it, the gradient takes as long as the
    products of an MLP."""
    y = x.astype(jnp.float32)
    return (y * 0.5 * (1 + jax.lax.erf(y * np.float32(math.sqrt(0.5))))).astype(x.dtype)


def product(x: jax.Array, kernel: jax.Array, inputs: int = 1) -> jax.Array:
    """Sums over the last `inputs` axes of x and the first of the kernel: [..., *in] x [*in, *out] -> [..., *out]."""

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.tensordot(x, kernel, inputs)

    return jax.lax.platform_dependent(x, kernel, cpu=_product(inputs), default=plain)


@functools.lru_cache(maxsize=8)
def _product(inputs: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The product whose kernel gets its gradient from the transpose of the input, where JAX transposes the gradient.

    XLA fuses what a gradient is made of into its transpose: in a residual network, a sum over all later blocks.
    """

    @jax.custom_vjp
    def multiplied(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.tensordot(x, kernel, inputs)

    def forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return multiplied(x, kernel), (x, kernel)

    def backward(kept: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel = kept
        outputs = kernel.ndim - inputs
        back = jax.lax.dot_general(
            grad, kernel, ((range(grad.ndim - outputs, grad.ndim), range(inputs, kernel.ndim)), ((), ()))
        )
        rows = range(x.ndim - inputs)
        return back, jax.lax.dot_general(x, grad, ((rows, rows), ((), ())))

    multiplied.defvjp(forward, backward)
    return multiplied


def pointwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """1x1 convolution: [b, h, w, in] x [1, 1, in, out]. As a dot it takes half the time on a CPU."""

    def dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _product(1)(x[:, ::stride, ::stride], kernel[0, 0])

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=LAYOUT)

    return jax.lax.platform_dependent(x, kernel, cpu=dot, default=conv)


def depthwise(x: jax.Array, window: jax.Array, stride: int, pads: Pads, dilation: int) -> jax.Array:
    """Convolution of each channel by itself: [b, h, w, c] x [kh, kw, 1, c].

    XLA's grouped convolution is 14 to 50 times slower on a CPU than a sum of shifted products. Nor is the gradient of
    that sum what a CPU should compute: XLA adds zero-filled copies, and reduces to channels an element at a time.
    """

    def grouped(x: jax.Array, window: jax.Array) -> jax.Array:
        steps, apart = (stride, stride), (dilation, dilation)
        return jax.lax.conv_general_dilated(
            x, window, steps, pads, rhs_dilation=apart, dimension_numbers=LAYOUT, feature_group_count=x.shape[-1]
        )

    return jax.lax.platform_dependent(x, window, cpu=_shifted(stride, pads, dilation), default=grouped)


@functools.lru_cache(maxsize=256)
def _shifted(stride: int, pads: Pads, dilation: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    @jax.custom_vjp
    def convolved(x: jax.Array, window: jax.Array) -> jax.Array:
        return _sum_of_taps(jnp.pad(x, ((0, 0), *pads, (0, 0))), window, stride, dilation)

    def forward(x: jax.Array, window: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return convolved(x, window), (x, window)

    def backward(kept: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, window = kept
        padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        # Of the input: the mirrored window over the gradient, its rows and columns `stride` apart.
        around = [
            (span - 1 - low, size + span - 1 - (span - 1 - low) - ((out - 1) * stride + 1), stride - 1)
            for span, (low, _), size, out in zip(
                _spans(window, dilation), pads, x.shape[1:3], grad.shape[1:3], strict=True
            )
        ]
        spread = jax.lax.pad(grad, jnp.zeros((), grad.dtype), ((0, 0, 0), *around, (0, 0, 0)))
        return _sum_of_taps(spread, window[::-1, ::-1], 1, dilation), _of_window(padded, grad, window, stride, dilation)

    convolved.defvjp(forward, backward)
    return convolved


def _spans(window: jax.Array, dilation: int) -> tuple[int, ...]:
    return tuple((size - 1) * dilation + 1 for size in window.shape[:2])


def _sum_of_taps(x: jax.Array, window: jax.Array, stride: int, dilation: int) -> jax.Array:
    """[b, h, w, c], padded -> [b, rows, columns, c]."""
    rows, columns = (
        (side - span) // stride + 1 for side, span in zip(x.shape[1:3], _spans(window, dilation), strict=True)
    )
    down, right = ((count - 1) * stride + 1 for count in (rows, columns))

    def seen(i: int, j: int) -> jax.Array:
        top, left = i * dilation, j * dilation
        return x[:, top : top + down : stride, left : left + right : stride]

    return sum(seen(i, j) * window[i, j, 0] for i, j in np.ndindex(window.shape[:2]))


def _of_window(x: jax.Array, grad: jax.Array, window: jax.Array, stride: int, dilation: int) -> jax.Array:
    """Gradient of the window, from the padded input and the gradient of the output, summed row by row of the output."""
    _, rows, columns, _ = grad.shape
    taps, right = tuple(np.ndindex(window.shape[:2])), (columns - 1) * stride + 1

    def row(number: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        of_row = jax.lax.dynamic_index_in_dim(grad, number, 1, keepdims=False)
        lines = (
            jax.lax.dynamic_index_in_dim(x, number * stride + i * dilation, 1, keepdims=False)[
                :, j * dilation : j * dilation + right : stride
            ]
            for i, j in taps
        )
        return tuple(total + line * of_row for total, line in zip(sums, lines, strict=True))

    empty = tuple(jnp.zeros((len(x), columns, x.shape[-1]), jnp.float32) for _ in taps)
    sums = jax.lax.fori_loop(0, rows, row, empty)
    return jnp.stack([total.sum((0, 1)) for total in sums]).reshape(window.shape).astype(window.dtype)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 max-pool of stride 2 with one line of padding on each side: [b, h, w, c] -> [b, ceil(h/2), ceil(w/2), c]."""
    return jax.lax.platform_dependent(x, cpu=_max_pool, default=_plain_max_pool)


def valid_max_pool(x: jax.Array) -> jax.Array:
    """3x3 max-pool of stride 2 without padding: [b, h, w, c] -> [b, (h-1) // 2, (w-1) // 2, c]."""
    rows, columns = ((side - 1) // 2 for side in x.shape[1:3])
    # A line before the first moves all windows by one; those that it is in are left out.
    moved = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    return max_pool(moved)[:, 1 : 1 + rows, 1 : 1 + columns]


def _plain_max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


_max_pool = jax.custom_vjp(_plain_max_pool)
AROUND = ((0, 0), (1, 1), (1, 1), (0, 0))


def _pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Values, and which tap of each window is its maximum: of equal ones the first, as in XLA and PyTorch.

    Kept and not found again by comparing: XLA may round an input otherwise where it computes it a second time.
    """
    rows, columns = ((side + 1) // 2 for side in x.shape[1:3])
    padded = jnp.pad(x, AROUND, constant_values=-math.inf)
    best = jnp.full((len(x), rows, columns, x.shape[-1]), -math.inf, x.dtype)
    first = jnp.zeros(best.shape, jnp.int8)
    for tap in range(9):
        i, j = divmod(tap, 3)
        seen = padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        better = (seen > best) | jnp.isnan(seen)
        best, first = jnp.where(better, seen, best), jnp.where(better, jnp.int8(tap), first)
    return best, (x, first)


def _pool_backward(kept: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array]:
    """Each place gathers from the up to four windows that hold it; XLA scatters from windows, 16 times slower."""
    x, first = kept
    rows, columns = first.shape[1:3]
    first, grad = jax.lax.optimization_barrier((first, grad))  # else it is found anew for each of the four
    first, grad = jnp.pad(first, AROUND, constant_values=9), jnp.pad(grad, AROUND)

    def gathered(down: int, right: int) -> jax.Array:
        """Of the places in odd or even rows and columns of the padded input."""
        total = jnp.zeros((len(x), rows + 1, columns + 1, x.shape[-1]), grad.dtype)
        for i in range(down, 3, 2):
            for j in range(right, 3, 2):
                part = (slice(None), slice(1 - i // 2, 2 - i // 2 + rows), slice(1 - j // 2, 2 - j // 2 + columns))
                total += jnp.where(first[part] == 3 * i + j, grad[part], 0)
        return total

    quarters = [jnp.stack([gathered(down, 0), gathered(down, 1)], 3) for down in (0, 1)]
    whole = jnp.stack(quarters, 2).reshape(len(x), 2 * rows + 2, 2 * columns + 2, -1)
    return (whole[:, 1 : 1 + x.shape[1], 1 : 1 + x.shape[2]],)


_max_pool.defvjp(_pool_forward, _pool_backward)
