"""wav2vec 2.0 (Baevski et al., 2020, arXiv:2006.11477) and HuBERT (Hsu et al., 2021, arXiv:2106.07447) on samples.

| network              | width | layers | heads | mlp_width | norm | extractor_norm | conv_bias |
|----------------------|-------|--------|-------|-----------|------|----------------|-----------|
| base                 | 768   | 12     | 12    | 3072      | post | group          | False     |
| large (LibriSpeech)  | 1024  | 24     | 16    | 4096      | post | group          | False     |
| large (LV-60, XLS-R) | 1024  | 24     | 16    | 4096      | pre  | layer          | True      |
| HuBERT X-Large       | 1280  | 48     | 16    | 5120      | pre  | layer          | True      |

Seven convolutions make a place of each 20 ms. Published fine-tuning leaves them alone: `freeze_units=1`. Layers are not
dropped in training, and nothing is masked in it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.data.encodings.waveform import WaveformEncoding
from jaxfer.errors import InputError
from jaxfer.models import kernels
from jaxfer.models.chain import linear_rates
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import EMBEDDING, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Conv, Dense, like
from jaxfer.models.options import Options as Base
from jaxfer.models.options import choice, option, positive, rate, size, sizes
from jaxfer.models.port import Port
from jaxfer.models.transformer import ACTIVATIONS, Block, Spec, layer_norm

HEADS = (POOLED, EMBEDDING)
KINDS = ("wav2vec2", "hubert")
CONV_EPSILON = 1e-5  # of the convolutions' norms, which no file states


class Extractor(nn.Module):
    """Convolutions over time with GELUs: [batch, samples] -> [batch, places, widths[-1]].

    Attributes:
      norm: `group`: each channel of the first over the whole input; `layer`: each place of every one.
    """

    widths: tuple[int, ...]
    windows: tuple[tuple[int, int], ...]
    use_bias: bool
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: jax.Array) -> jax.Array:
        x = x[:, :, None, None]
        for i, (width, (window, step)) in enumerate(zip(self.widths, self.windows, strict=True)):
            x = Conv(width, (window, 1), step, use_bias=self.use_bias, name=f"conv_{i}")(x)
            if self.norm == "layer":
                x = layer_norm(CONV_EPSILON, f"norm_{i}")(x)
            elif i == 0:
                alone = dict(num_groups=None, group_size=1, use_fast_variance=False)
                x = nn.GroupNorm(epsilon=CONV_EPSILON, **alone, name=f"norm_{i}")(x)
            x = kernels.gelu(x)
        return x[:, :, 0]


class Positions(nn.Module):
    """A convolution in groups of channels, its GELU to be added: [batch, places, width] -> the same.

    Each tap's weights have the length `scale` (weight normalisation; Salimans and Kingma, 2016, arXiv:1602.07868):
    window [taps, 1, width / groups, width].
    """

    taps: int
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        shape = (self.taps, 1, width // self.groups, width)
        start = 2 / math.sqrt(self.taps * width)  # standard deviation
        window = self.param("window", nn.initializers.normal(start), shape)
        scale = self.param("scale", nn.initializers.constant(start * math.sqrt(math.prod(shape[2:]))), shape[:1])
        window = window * (scale / jnp.sqrt((window**2).sum((1, 2, 3))))[:, None, None, None]
        left = self.taps // 2
        x = jax.lax.conv_general_dilated(
            x[:, :, None],
            like(window, x),
            (1, 1),
            ((left, self.taps - 1 - left), (0, 0)),
            dimension_numbers=kernels.LAYOUT,
            feature_group_count=self.groups,
        )[:, :, 0]
        return kernels.gelu(x + like(self.param("bias", nn.initializers.zeros, (width,)), x))


class Projection(nn.Module):
    """Features to tokens: [batch, places, in] -> [batch, places, width]; places of padding become 0.

    Attributes:
      normed: whether features are normed before.
      post: whether tokens are normed after, as those of post-norm blocks are.
    """

    width: int
    taps: int
    groups: int
    normed: bool
    post: bool
    epsilon: float
    feature_dropout: float
    dropout: float

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, attention_mask: jax.Array | None = None, **side: jax.Array
    ) -> jax.Array:
        x = layer_norm(self.epsilon, "norm")(x) if self.normed else x
        x = Dense((self.width,), name="dense")(x)
        x = nn.Dropout(self.feature_dropout, name="drop_features")(x, deterministic=not train)
        if attention_mask is not None:
            x = jnp.where(attention_mask[..., None] > 0, x, 0)
        x = x + Positions(self.taps, self.groups, name="pos")(x)
        x = layer_norm(self.epsilon, "out_norm")(x) if self.post else x
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


class Stacked(Block):
    """A block that passes on what it reads, beside its output: [batch, places, n * width] -> [..., (n + 1) * width]."""

    width: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, **how: Any) -> jax.Array:
        return jnp.concatenate([x, super().__call__(x[..., -self.width :], **how)], -1)


class Head(nn.Module):
    """The final norm of pre-norm blocks, a layer at every place if there is one, the mean over the sound, outputs.

    Attributes:
      stacked: how many activations of equal width it reads, side by side, to take a learned mean of them; 0: one.
    """

    outputs: int
    projection: int
    pre: bool
    epsilon: float
    stacked: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, attention_mask: jax.Array | None = None, **side: jax.Array
    ) -> jax.Array:
        if self.stacked:
            shares = jax.nn.softmax(self.param("layer_weights", nn.initializers.zeros, (self.stacked,)))
            x = jnp.tensordot(like(shares, x), x.reshape(*x.shape[:2], self.stacked, -1), (0, 2))
        x = layer_norm(self.epsilon, "norm")(x) if self.pre else x
        if self.projection:
            x = Dense((self.projection,), name="project")(x)
        if attention_mask is None:
            x = x.mean(1)
        else:
            kept = (attention_mask > 0)[..., None]
            x = jnp.where(kept, x, 0).sum(1) / kept.sum(1)
        return Dense((self.outputs,), name="out")(x) if self.outputs else x


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """The module's table has the published sizes.

    Attributes:
      kind: what checkpoints call the network: `wav2vec2` or `hubert`.
      widths: channels of each convolution.
      windows: samples, then places, that each of them reads.
      steps: samples, then places, from one window to the next.
      conv_bias: whether they have biases.
      extractor_norm: `group`: each channel of the first is normed over the whole input, padding included; `layer`: each
        place of every one.
      width: channels of a token.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      norm: `post`: each sum of a block is normed; `pre`: each branch before it, and the last block after it.
      feature_norm: whether the extractor's features are normed.
      taps: places that the convolution of positions reads.
      groups: of channels, within which it sums.
      activation: of the MLP: `gelu` or another of `ACTIVATIONS`.
      layer_sum: whether the head reads a learned mean of the tokens and of all blocks' outputs, as in SUPERB (Yang et
        al., 2021, arXiv:2105.01051), and not the last block's alone.
      projection: width of the layer before the mean over the sound, which transformers' classifiers have; 0 for none.
      epsilon: of every LayerNorm but the extractor's.
      dropout: rate after the positions, the attention output and the MLP.
      attention_dropout: rate on the attention weights.
      activation_dropout: rate after the MLP's activation.
      feature_dropout: rate after the features' layer.
      stochastic_depth: drop rate of the last block's branches, linear in depth (arXiv:1603.09382).
      rate: samples a second; sounds of another rate are resampled.
      seconds: length of the input: longer sounds are cut, shorter ones padded.
      normalize: whether each sound gets mean 0 and variance 1.
      masked: whether padding is left out of attention and mean. Networks with `extractor_norm="group"` were trained
        without, and hear silence there.
    """

    kind: str = choice("wav2vec2", KINDS)
    widths: tuple[int, ...] = sizes((512,) * 7, of="width")
    windows: tuple[int, ...] = sizes((10, 3, 3, 3, 3, 2, 2), of="window")
    steps: tuple[int, ...] = sizes((5, 2, 2, 2, 2, 2, 2), of="step")
    conv_bias: bool = option(False)
    extractor_norm: str = choice("group", ("group", "layer"))
    width: int = size(768)
    layers: int = size(12)
    heads: int = size(12)
    mlp_width: int = size(3072)
    norm: str = choice("post", ("post", "pre"))
    feature_norm: bool = option(True)
    taps: int = size(128)
    groups: int = size(16)
    activation: str = choice("gelu", tuple(ACTIVATIONS))
    layer_sum: bool = option(False)
    projection: int = option(0)
    epsilon: float = positive(1e-5)
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    activation_dropout: float = rate(0.0)
    feature_dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)
    rate: int = size(16000, inputs=True)
    seconds: float = positive(10.0, training=True, inputs=True)
    normalize: bool = option(True, inputs=True)
    masked: bool = option(False)

    @property
    def order(self) -> str:
        return self.norm

    def check(self) -> None:
        if self.projection < 0:
            raise InputError(f"projection must be a positive integer, or 0 for none, found {self.projection}")
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, found width={self.width} and heads={self.heads}")
        if self.layer_sum and self.norm != "post":
            raise InputError(f"layer_sum needs norm='post', found {self.norm!r}, whose last output has a norm to come")
        if self.width % self.groups:
            raise InputError(f"groups must divide the width, found width={self.width} and groups={self.groups}")
        if not len(self.widths) == len(self.windows) == len(self.steps):
            raise InputError(
                f"widths, windows and steps must be of the same convolutions, found {len(self.widths)}, "
                f"{len(self.windows)} and {len(self.steps)}"
            )
        if self.rate % 200 or self.rate < 1000:
            raise InputError(f"rate must be a multiple of 200 from 1000 samples a second, found {self.rate}")
        if not math.isfinite(self.seconds) or self.encoding.places(self.encoding.samples) < 1:
            raise InputError(f"seconds must give the convolutions a place at least, found {self.seconds:g}")

    @functools.cached_property
    def encoding(self) -> WaveformEncoding:
        return WaveformEncoding(
            rate=self.rate,
            seconds=float(self.seconds),
            normalize=self.normalize,
            masked=self.masked,
            windows=tuple(zip(self.windows, self.steps, strict=True)),
        )


class Wav2Vec2(Family):
    """The chain stem (the extractor), project, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        spec = Spec(
            heads=options.heads,
            mlp_width=options.mlp_width,
            order=options.norm,
            epsilon=options.epsilon,
            activation=options.activation,
            dropout=options.dropout,
            attention_dropout=options.attention_dropout,
            mlp_dropout=options.activation_dropout,
        )
        block = functools.partial(Stacked, width=options.width) if options.layer_sum else Block
        stacked = options.layers + 1 if options.layer_sum else 0
        blocks = {
            f"block_{i}": functools.partial(block, dataclasses.replace(spec, drop_rate=drop))
            for i, drop in enumerate(linear_rates(options.stochastic_depth, options.layers))
        }
        windows = tuple(zip(options.windows, options.steps, strict=True))
        project = functools.partial(
            Projection,
            options.width,
            options.taps,
            options.groups,
            options.feature_norm,
            options.norm == "post",
            options.epsilon,
            options.feature_dropout,
            options.dropout,
        )
        outputs = 0 if self.head == EMBEDDING else self.outputs
        return {
            "stem": functools.partial(Extractor, options.widths, windows, options.conv_bias, options.extractor_norm),
            "project": project,
            **blocks,
            "head": functools.partial(
                Head, outputs, options.projection, options.norm == "pre", options.epsilon, stacked
            ),
        }


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A network of samples with a head that is `pooled`, or `embedding` for the mean over the sound itself."""
    return family_port(
        Wav2Vec2,
        options,
        outputs=outputs,
        head=head,
        input_axes=((r"stem/conv_\d+/kernel", 3), (r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        tensor_axes=(*BLOCK_TENSOR_AXES, (r"stem/conv_\d+/kernel", 3), (".*", None)),
    )


_SMALL = dict(
    widths=(3, 4),
    windows=(4, 3),
    steps=(3, 2),
    width=12,
    layers=2,
    heads=3,
    mlp_width=20,
    taps=4,
    groups=2,
    rate=1000,
    seconds=0.04,
)
TINY = {
    "": _SMALL,
    "summed": dict(_SMALL, layer_sum=True),
    "pre": dict(_SMALL, norm="pre", extractor_norm="layer", conv_bias=True, taps=3, projection=5, masked=True),
}
