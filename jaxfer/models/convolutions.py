"""Convolutions that are not linear in the plain way: in groups of channels, with standardised kernels, gated.

`low_rank` of a layer says what its output gains when its kernel gains the product of two low-rank factors; layers
without it gain the product of what the factors compute one after the other.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.models import kernels
from jaxfer.models.layers import ACTIVATIONS, Conv, Dense, conv_init, like, zeros


class GroupedConv(Conv):
    """A convolution within each of `groups` equal groups of channels: kernel [kh, kw, in / groups, out].

    Xie et al., 2016 (ResNeXt), arXiv:1611.05431, section 3.3. Output channel o reads group o // (out / groups).
    """

    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.size, x.shape[-1] // self.groups, self.features)
        return self.product(x, self.param("kernel", self.kernel_init, shape))

    @nn.nowrap
    def product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The same window, stride, padding and groups with another kernel [kh, kw, in / groups, any times groups]."""
        pads = zeros(x.shape[1:3], self.size, self.stride, self.padding)
        return jax.lax.conv_general_dilated(
            x,
            like(kernel, x),
            (self.stride, self.stride),
            pads,
            dimension_numbers=kernels.LAYOUT,
            feature_group_count=self.groups,
        )

    @nn.nowrap
    def low_rank(self, x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        """Gain for the kernel's a @ b: a [kh, kw, in / groups, rank] reads every group, b [rank, out] its own part."""
        rank, features = b.shape
        narrow = self.product(x, jnp.tile(a, (1, 1, 1, self.groups)))
        narrow = narrow.reshape(*narrow.shape[:-1], self.groups, rank)
        parts = like(b, narrow).reshape(rank, self.groups, features // self.groups)
        return jnp.einsum("bhwgr,rgo->bhwgo", narrow, parts).reshape(*narrow.shape[:-2], features)


class StandardisedConv(Conv):
    """A convolution whose kernel has mean 0 and variance 1 in each output channel before it is applied.

    Qiao et al., 2019, arXiv:1903.10520, eq. 2; `epsilon` is added to the variance.
    """

    epsilon: float = 1e-8

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (*self.size, x.shape[-1], self.features))
        return self.product(x, self.standardised(kernel))

    @nn.nowrap
    def standardised(self, kernel: jax.Array) -> jax.Array:
        """[kh, kw, in, out], over all axes but the last."""
        centred = kernel - kernel.mean((0, 1, 2))
        return centred * jax.lax.rsqrt((centred**2).mean((0, 1, 2)) + self.epsilon)

    @nn.nowrap
    def low_rank(self, x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        """Gain for the kernel's a @ b: that of the standardised kernel, which is of no low rank."""
        kernel = self.get_variable("params", "kernel")
        moved = kernel + jnp.tensordot(like(a, x), like(b, x), 1)
        gained = self.standardised(moved) - self.standardised(kernel)
        return self.product(x, gained)


class SqueezeExcite(nn.Module):
    """Channels scaled by what their means say: x * sigmoid(expand(relu(reduce(mean(x))))).

    Hu et al., 2017, arXiv:1709.01507, eq. 2 to 4.

    Attributes:
      hidden: channels that `reduce` gives.
      act: name of the activation of `reduce`.
      out: name of the activation of `expand`.
    """

    hidden: int
    act: str = "relu"
    out: str = "sigmoid"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Dense((self.hidden,), kernel_init=conv_init, name="reduce")(x.mean((1, 2), keepdims=True))
        y = Dense(x.shape[-1:], kernel_init=conv_init, name="expand")(ACTIVATIONS[self.act](y))
        return x * ACTIVATIONS[self.out](y)


def average_pool(x: jax.Array) -> jax.Array:
    """2x2 means of stride 2, of what there is at an odd edge: [b, h, w, c] -> [b, ceil(h/2), ceil(w/2), c]."""
    for axis in (1, 2):
        first, second = (jax.lax.slice_in_dim(x, start, None, 2, axis) for start in (0, 1))
        if x.shape[axis] % 2:  # the last line is its own mean
            last = jax.lax.slice_in_dim(first, first.shape[axis] - 1, None, 1, axis)
            second = jnp.concatenate([second, last], axis)
        x = (first + second) / 2
    return x
