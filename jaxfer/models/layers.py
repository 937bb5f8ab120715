"""The layers every port is built from: products with a kernel, and batch normalisation as checkpoints expect it.

A layer with a `kernel` computes `product(x, kernel) + bias`, and `product` may be called with another kernel of the
same input axes: that is how a low-rank adapter runs the layer's own operation in r channels. Parameters are float32; a
layer computes in the type of its input, which `execution.py` chooses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.models import kernels

Padding = int | str | tuple[int, int]

# PyTorch's default for Linear and Conv heads would be uniform; fan-in truncated normal is the JAX field's.
kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
window_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # fan-out would count channels it never sums

# The axes of a transformer block that `tensor` splits, by layer name: heads, then the MLP's width.
BLOCK_TENSOR_AXES = (
    (r".*/attn/(query|key|value)/kernel", 1),
    (r".*/attn/(query|key|value)/bias", 0),
    (r".*/attn/out/kernel", 0),
    (r".*/mlp/(fc1|gate)/kernel", 1),
    (r".*/mlp/((fc1|gate)/bias|fc2/kernel)", 0),
)


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6); at 0 and at 6 the gradient is 0 as PyTorch's is, where `jax.nn.relu6` halves it."""
    return jnp.where(x < 6, nn.relu(x), 6.0)


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """relu6(x + 3) / 6 (Howard et al., 2019, arXiv:1905.02244, section 5.2)."""
    return relu6(x + 3) / 6


def hard_swish(x: jax.Array) -> jax.Array:
    """x * relu6(x + 3) / 6, likewise."""
    return x * relu6(x + 3) / 6


ACTIVATIONS = {
    "relu": nn.relu,
    "relu6": relu6,
    "silu": nn.silu,
    "sigmoid": nn.sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
}


def like(parameter: jax.Array, x: jax.Array) -> jax.Array:
    """The parameter cast to the floating type of x."""
    return parameter.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else parameter


class Dense(nn.Module):
    """Affine map from the last `inputs` axes of x to the axes `features`: kernel [*in, *features], bias [*features].

    `features=(heads, head_dim)` gives attention's per-head query, key and value; `inputs=2` its output projection.
    """

    features: tuple[int, ...]
    inputs: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = kernel_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*x.shape[-self.inputs :], *self.features)
        kernel = self.param("kernel", self._init, shape)
        y = self.product(x, kernel)
        return y + like(self.param("bias", nn.initializers.zeros, self.features), y) if self.use_bias else y

    @nn.nowrap
    def product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """[..., *in] x [*in, *out] -> [..., *out]."""
        return kernels.product(x, like(kernel, x), self.inputs)

    @nn.nowrap
    def _init(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # Initialised as the flat matrix it is, so that fan-in counts every summed axis.
        flat = (math.prod(shape[: self.inputs]), math.prod(shape[self.inputs :]))
        return self.kernel_init(key, flat, jnp.float32).reshape(shape)


class Conv(nn.Module):
    """2-D convolution over [batch, height, width, in]: kernel [kh, kw, in, out].

    Attributes:
      padding: zeros on each side, as PyTorch counts them, or (before, after) of both axes, or `same`: TensorFlow's,
        ceil(size / stride) outputs, the odd zero at the end.
    """

    features: int
    size: tuple[int, int]
    stride: int = 1
    padding: Padding = 0
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = conv_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (*self.size, x.shape[-1], self.features))
        y = self.product(x, kernel)
        return y + like(self.param("bias", nn.initializers.zeros, (self.features,)), y) if self.use_bias else y

    @nn.nowrap
    def product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The same window, stride and padding with another kernel [kh, kw, in, any]."""
        kernel = like(kernel, x)
        if self.size == (1, 1) and self.padding in (0, "same"):
            return kernels.pointwise(x, kernel, self.stride)
        pads = zeros(x.shape[1:3], self.size, self.stride, self.padding)
        return jax.lax.conv_general_dilated(
            x, kernel, (self.stride, self.stride), pads, dimension_numbers=kernels.LAYOUT
        )


class Depthwise(nn.Module):
    """2-D convolution of each channel by itself: window [kh, kw, 1, channels], padding as in `Conv`.

    With a dilation its taps are so many pixels apart, and the padding grows with them (Chen et al., 2017,
    arXiv:1706.05587, eq. 1). The leaf is no `kernel`: nothing is summed over channels, so it has no low-rank adapter.
    """

    size: tuple[int, int]
    stride: int = 1
    padding: Padding = 0
    dilation: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        window = like(self.param("window", window_init, (*self.size, 1, x.shape[-1])), x)
        spans = tuple((size - 1) * self.dilation + 1 for size in self.size)
        padding = self.padding * self.dilation if isinstance(self.padding, int) else self.padding
        pads = zeros(x.shape[1:3], spans, self.stride, padding)
        y = kernels.depthwise(x, window, self.stride, pads, self.dilation)
        return y + like(self.param("bias", nn.initializers.zeros, x.shape[-1:]), y) if self.use_bias else y


def zeros(image: tuple[int, ...], size: tuple[int, int], stride: int, padding: Padding) -> tuple[tuple[int, int], ...]:
    """((top, bottom), (left, right)) zeros that a padding means for an image (height, width)."""
    if padding != "same":
        return (padding if isinstance(padding, tuple) else (padding, padding),) * 2
    return tuple(map(tuple, jax.lax.padtype_to_pads(image, size, (stride, stride), "SAME")))


def steps(strides: Sequence[int], output_stride: int) -> list[tuple[int, int]]:
    """(stride, dilation) of each block after a stem of stride 2, at most `output_stride` times smaller; 0: no limit.

    A stride beyond the limit dilates the later blocks instead (Chen et al., 2017, arXiv:1706.05587).
    """
    found, total, dilation = [], 2, 1
    for stride in strides:
        moves = not output_stride or total * stride <= output_stride
        found.append((stride if moves else 1, dilation))
        total, dilation = (total * stride, dilation) if moves else (total, dilation * stride)
    return found


class PooledHead(nn.Module):
    """Mean over both axes of a feature map, dropout and the output layer: [batch, h, w, c] -> [batch, outputs].

    The mean itself for 0 outputs.
    """

    outputs: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pooled = x.mean((1, 2))
        if not self.outputs:
            return pooled
        x = nn.Dropout(self.dropout, name="drop")(pooled, deterministic=not train)
        return Dense((self.outputs,), name="out")(x)


class DenseHead(nn.Module):
    """The output layer at every place of a feature map: [batch, h, w, c] -> [batch, *size, outputs].

    Enlarged bilinearly, as every network of Long et al. (2014, arXiv:1411.4038) is; corners are those of PyTorch's
    `align_corners=False`.
    """

    outputs: int
    size: tuple[int, int]
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        y = Dense((self.outputs,), name="out")(x)
        return jax.image.resize(y, (len(y), *self.size, self.outputs), "bilinear")


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running statistics.

    `running = (1 - momentum) * running + momentum * batch`, the running variance unbiased (n - 1), the normalising one
    biased (n). flax's `nn.BatchNorm` counts momentum the other way round and keeps the biased variance.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, use_running_average: bool) -> jax.Array:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        running_var = self.variable("batch_stats", "var", jnp.ones, width)
        if use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            axes = tuple(range(x.ndim - 1))
            count = x.size // x.shape[-1]
            mean = self._across(x.mean(axes))
            var = self._across(jnp.square(x - mean).mean(axes))  # two passes: no cancellation where |mean| >> std
            if self.axis_name is not None:
                count *= jax.lax.axis_size(self.axis_name)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        return (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias

    @nn.nowrap
    def _across(self, value: jax.Array) -> jax.Array:
        return value if self.axis_name is None else jax.lax.pmean(value, self.axis_name)
