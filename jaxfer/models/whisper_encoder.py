"""The encoder of Whisper (Radford et al., 2022, arXiv:2212.04356): log-mels through two convolutions and a transformer.

| network  | width | layers | heads | mlp_width | mels |
|----------|-------|--------|-------|-----------|------|
| tiny     | 384   | 4      | 6     | 1536      | 80   |
| base     | 512   | 6      | 8     | 2048      | 80   |
| small    | 768   | 12     | 12    | 3072      | 80   |
| medium   | 1024  | 24     | 16    | 4096      | 80   |
| large-v2 | 1280  | 32     | 20    | 5120      | 80   |
| large-v3 | 1280  | 32     | 20    | 5120      | 128  |

Whisper reads 30 seconds, short sounds ending in silence. `seconds` cuts that: places keep their positions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.encodings.audio import AudioEncoding
from jaxfer.errors import InputError
from jaxfer.models import kernels
from jaxfer.models.chain import audio_encoding, linear_rates
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import EMBEDDING, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Conv, Dense
from jaxfer.models.options import Options as Base
from jaxfer.models.options import option, rate, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import Block, Spec, layer_norm

HEADS = (POOLED, EMBEDDING)
EPSILON = 1e-5  # of every norm, which no file states
LONGEST = 10_000  # wavelength of the slowest sinusoid, over 2 pi


def sinusoids(places: int, width: int) -> np.ndarray:
    """float32 [places, width]: sines of each place at wavelengths from 2 pi to 2 pi * 10,000, then their cosines."""
    slow = np.exp(-np.log(LONGEST) * np.arange(width // 2) / (width // 2 - 1))
    angles = np.arange(places)[:, None] * slow
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


class Stem(nn.Module):
    """Two convolutions over time with GELUs, the second of stride 2: [b, frames, mels] -> [b, frames / 2, width]."""

    width: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        x = x[:, :, None]
        for i, stride in ((1, 1), (2, 2)):
            x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
            x = kernels.gelu(Conv(self.width, (3, 1), stride, use_bias=True, name=f"conv_{i}")(x))
        x = x[:, :, 0]
        x = x + jnp.asarray(sinusoids(x.shape[1], self.width), x.dtype)
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


class Head(nn.Module):
    """The final norm, a layer at every place where there is one, the mean over time and the output layer."""

    outputs: int
    projection: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = layer_norm(EPSILON, "norm")(x)
        if self.projection:
            x = Dense((self.projection,), name="project")(x)
        x = x.mean(1)
        return Dense((self.outputs,), name="out")(x) if self.outputs else x


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """The module's table has the published sizes.

    Attributes:
      width: channels of a place.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      projection: width of the layer before the mean over time, which transformers' classifiers have; 0 for none.
      positions: the longest input, in places of two frames.
      dropout: rate after the stem, the attention output and the MLP.
      attention_dropout: rate on the attention weights.
      activation_dropout: rate after the GELU.
      stochastic_depth: drop rate of the last block's branches, linear in depth (arXiv:1603.09382).
      rate: samples a second; sounds of another rate are resampled.
      seconds: length of the input: longer sounds are cut, shorter ones end in silence.
      mels: bins of the spectrogram.
    """

    width: int = size(384)
    layers: int = size(4)
    heads: int = size(6)
    mlp_width: int = size(1536)
    projection: int = option(0)
    positions: int = size(1500)
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    activation_dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)
    rate: int = option(16000, inputs=True)
    seconds: float = option(30.0, inputs=True)
    mels: int = option(80, inputs=True)

    def check(self) -> None:
        if self.projection < 0:
            raise InputError(f"projection must be a positive integer, or 0 for none, found {self.projection}")
        if self.width % self.heads or self.width % 2 or self.width < 4:
            raise InputError(f"width must be even and a multiple of the heads, found {self.width} and {self.heads}")
        if (self.encoding.frames + 1) // 2 > self.positions:
            limit = self.positions / 50
            raise InputError(f"seconds must be at most {limit:g}, {self.positions} places, found {self.seconds:g}")

    @functools.cached_property
    def encoding(self) -> AudioEncoding:
        return audio_encoding(self.rate, self.seconds, self.mels)


class WhisperEncoder(Family):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        spec = Spec(
            heads=options.heads,
            mlp_width=options.mlp_width,
            epsilon=EPSILON,
            qkv_bias=(True, False, True),
            dropout=options.dropout,
            attention_dropout=options.attention_dropout,
            mlp_dropout=options.activation_dropout,
        )
        blocks = {
            f"block_{i}": functools.partial(Block, dataclasses.replace(spec, drop_rate=drop))
            for i, drop in enumerate(linear_rates(options.stochastic_depth, options.layers))
        }
        outputs = 0 if self.head == EMBEDDING else self.outputs
        head = functools.partial(Head, outputs, options.projection)
        return {"stem": functools.partial(Stem, options.width, options.dropout), **blocks, "head": head}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """Whisper's encoder with a head that is `pooled`, or `embedding` for the mean over time itself."""
    return family_port(
        WhisperEncoder,
        options,
        outputs=outputs,
        head=head,
        input_axes=((r"stem/conv_\d/kernel", 3), (r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        tensor_axes=(*BLOCK_TENSOR_AXES, (r"stem/conv_\d/kernel", 3), (".*", None)),
    )


_SMALL = dict(width=12, layers=2, heads=3, mlp_width=20, positions=9, rate=8000, seconds=0.09, mels=7)
TINY = {"": _SMALL, "projected": {**_SMALL, "projection": 5}}
