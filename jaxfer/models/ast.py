"""AST: the audio spectrogram transformer (Gong et al., 2021, arXiv:2104.01778), a DeiT-B that reads log-mels.

Patches overlap: 16 x 16 every 10 bins and 10 frames. Checkpoints of AudioSet have 1024 frames (10.2 s), those of Speech
Commands 128. With another number of frames or bins, position embeddings are cut or interpolated as the authors do.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.data.encodings.fbank import FbankEncoding, padded
from jaxfer.errors import InputError
from jaxfer.models import kernels
from jaxfer.models.chain import check_positive, linear_rates
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import EMBEDDING, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Conv, Dense, kernel_init, like
from jaxfer.models.options import Options as Base
from jaxfer.models.options import option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import Block, Spec, layer_norm

HEADS = (POOLED, EMBEDDING)
SPECIAL = ("cls", "dist")


class Patches(Conv):
    """A convolution without padding whose steps differ along its axes.

    Attributes:
      strides: along height and width.
    """

    strides: tuple[int, int] = (1, 1)

    @nn.nowrap
    def product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, like(kernel, x), self.strides, "VALID", dimension_numbers=kernels.LAYOUT)


class Stem(nn.Module):
    """[batch, frames, mels] -> [batch, 2 + patches, width]: class and distillation token, then patches by bin."""

    patch: int
    strides: tuple[int, int]
    width: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.swapaxes(1, 2)[..., None]
        window = (self.patch, self.patch)
        how = dict(use_bias=True, kernel_init=kernel_init, strides=self.strides, name="patch")
        x = Patches(self.width, window, **how)(x)
        x = x.reshape(x.shape[0], -1, self.width)
        tokens = [self.param(name, nn.initializers.zeros, (1, 1, self.width)) for name in SPECIAL]
        x = jnp.concatenate([*(jnp.broadcast_to(token, (len(x), 1, self.width)) for token in tokens), x], 1)
        x = x + self.param("pos", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


class Head(nn.Module):
    """The final norm, the mean of the two special tokens, a norm of that and the output layer."""

    outputs: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pooled = layer_norm(self.epsilon, "norm")(x[:, : len(SPECIAL)]).mean(1)
        if not self.outputs:
            return pooled
        return Dense((self.outputs,), name="out")(layer_norm(self.epsilon, "out_norm")(pooled))


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """The published size is the default.

    Attributes:
      width: channels of a token.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      patch: side of the square patches, in bins and frames.
      frequency_stride: bins from one patch to the next.
      time_stride: frames from one patch to the next.
      qkv_bias: whether query, key and value have biases.
      epsilon: of every LayerNorm.
      dropout: rate after the position embeddings, the attention output and the MLP.
      attention_dropout: rate on the attention weights.
      stochastic_depth: drop rate of the last block's branches, linear in depth (arXiv:1603.09382).
      rate: samples a second; sounds of another rate are resampled.
      frames: length of the input, one each 10 ms: longer sounds are cut, shorter ones padded.
      mels: bins of the spectrogram.
      log_mean: of the log energies; AudioSet's.
      log_std: of the log energies, likewise.
    """

    width: int = size(768)
    layers: int = size(12)
    heads: int = size(12)
    mlp_width: int = size(3072)
    patch: int = size(16)
    frequency_stride: int = size(10)
    time_stride: int = size(10)
    qkv_bias: bool = option(True)
    epsilon: float = positive(1e-12)
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)
    rate: int = size(16000, inputs=True)
    frames: int = size(1024, inputs=True)
    mels: int = size(128, inputs=True)
    log_mean: float = option(-4.2677393, inputs=True)
    log_std: float = positive(4.5689974, inputs=True)

    def check(self) -> None:
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, found width={self.width} and heads={self.heads}")
        if self.rate % 200 or self.rate < 1000:
            raise InputError(f"rate must be a multiple of 200 from 1000 samples a second, found {self.rate}")
        if not math.isfinite(self.log_mean):
            raise InputError(f"log_mean must be a number, found {self.log_mean}")
        most = padded(self.encoding.window) // 2
        if self.mels > most:
            raise InputError(f"mels must be at most the {most} frequencies of a window, found {self.mels}")
        for name in ("frames", "mels"):
            if getattr(self, name) < self.patch:
                raise InputError(f"{name} must be at least a patch of {self.patch}, found {getattr(self, name)}")

    @functools.cached_property
    def encoding(self) -> FbankEncoding:
        normal = dict(log_mean=self.log_mean, log_std=self.log_std)
        return FbankEncoding(rate=self.rate, frames=self.frames, mels=self.mels, **normal)

    @property
    def grid(self) -> tuple[int, int]:
        """(bins, frames) of patches."""
        return grid(self.mels, self.frames, self.patch, self.frequency_stride, self.time_stride)


def grid(mels: int, frames: int, patch: int, frequency_stride: int, time_stride: int) -> tuple[int, int]:
    """Patches along the bins and the frames of an input."""
    check_positive(patch=patch, frequency_stride=frequency_stride, time_stride=time_stride)
    return (mels - patch) // frequency_stride + 1, (frames - patch) // time_stride + 1


class AST(Family):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def special(self) -> tuple[str, ...]:
        return SPECIAL

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        strides = (options.frequency_stride, options.time_stride)
        spec = Spec(
            heads=options.heads,
            mlp_width=options.mlp_width,
            epsilon=options.epsilon,
            qkv_bias=options.qkv_bias,
            dropout=options.dropout,
            attention_dropout=options.attention_dropout,
        )
        blocks = {
            f"block_{i}": functools.partial(Block, dataclasses.replace(spec, drop_rate=drop))
            for i, drop in enumerate(linear_rates(options.stochastic_depth, options.layers))
        }
        outputs = 0 if self.head == EMBEDDING else self.outputs
        stem = functools.partial(Stem, options.patch, strides, options.width, options.dropout)
        return {"stem": stem, **blocks, "head": functools.partial(Head, outputs, options.epsilon)}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """An audio spectrogram transformer whose head is `pooled`, or `embedding` for the mean of the special tokens."""
    return family_port(
        AST,
        options,
        outputs=outputs,
        head=head,
        input_axes=((r"stem/patch/kernel", 3), (r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        no_decay=((r".*/(bias|scale|cls|dist|pos)", 0.0), (".*", 1.0)),
        tensor_axes=(*BLOCK_TENSOR_AXES, (".*", None)),
    )


TINY = dict(
    width=12,
    layers=2,
    heads=3,
    mlp_width=20,
    patch=3,
    frequency_stride=2,
    time_stride=3,
    rate=8000,
    frames=9,
    mels=7,
)
