"""PatchTST (Nie et al., 2022, arXiv:2211.14730): patches of each channel of a series through one transformer.

| network     | length | patch | stride | width | layers | heads | mlp_width |
|-------------|--------|-------|--------|-------|--------|-------|-----------|
| PatchTST/42 | 336    | 16    | 8      | 128   | 3      | 16    | 256       |
| PatchTST/64 | 512    | 16    | 8      | 128   | 3      | 16    | 256       |

Channels share all weights and meet in the head alone. Each series is scaled by itself, and a forecast is scaled back.
What passes between the units is [b, channels, patches, width], the class token, where there is one, the first patch.
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
import numpy as np

from jaxfer.data.encodings.series import NORMALIZE, SeriesEncoding
from jaxfer.errors import InputError
from jaxfer.models import options as families
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import FORECAST, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, BatchNorm, Dense, like
from jaxfer.models.options import choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import Attention, Mlp, Spec, layer_norm

HEADS = (POOLED, FORECAST)
LEAST = {"std": 1e-5, "mean": 1e-10}  # what is added to a variance; the least mean of absolute values


def scales(series: jax.Array, scaling: str) -> tuple[jax.Array, jax.Array]:
    """(location, scale) [b, 1, channels] of series [b, length, channels]: see `Options.scaling`."""
    if scaling == "std":
        loc = series.mean(1, keepdims=True)
        return loc, jnp.sqrt(jnp.square(series - loc).mean(1, keepdims=True) + LEAST["std"])
    loc = jnp.zeros_like(series[:, :1])
    if scaling == "mean":
        return loc, jnp.maximum(jnp.abs(series).mean(1, keepdims=True), LEAST["mean"])
    return loc, jnp.ones_like(loc)


def sinusoids(tokens: int, width: int) -> np.ndarray:
    """float32 [tokens, width]: sine and cosine by turns, then of mean 0 and standard deviation 0.1 over all entries."""
    slow = np.exp(np.arange(0, width, 2) * -(math.log(10_000.0) / width))
    angles = np.arange(tokens)[:, None] * slow
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(tokens, width)
    table -= table.mean()
    return (table / (10 * table.std(ddof=1))).astype(np.float32)


class Stem(nn.Module):
    """Scaled series in patches that end with it, each through one layer, and their positions."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        options = self.options
        loc, scale = scales(x, options.scaling)
        starts = options.length - options.patch - options.stride * np.arange(options.patches)[::-1]
        x = ((x - loc) / scale)[:, starts[:, None] + np.arange(options.patch)]  # [b, patches, patch, channels]
        x = jnp.moveaxis(x, -1, 1)
        if options.shared:
            x = Dense((options.width,), name="embed")(x)
        else:
            layers = [Dense((options.width,), name=f"embed_{i}") for i in range(options.channels)]
            x = jnp.stack([layer(x[:, i]) for i, layer in enumerate(layers)], 1)
        first = int(options.pool == "cls")
        if options.positions == "learned":
            places = self.param("pos", nn.initializers.normal(1.0), (options.patches + first, options.width))
        else:
            places = jnp.asarray(sinusoids(options.patches + first, options.width))
        places = like(places, x)
        x = nn.Dropout(options.position_dropout, name="drop")(x + places[first:], deterministic=not train)
        if not first:
            return x
        token = like(self.param("cls", nn.initializers.normal(0.02), (options.width,)), x) + places[0]
        return jnp.concatenate([jnp.broadcast_to(token, (*x.shape[:2], 1, options.width)), x], 2)


class Block(nn.Module):
    """Attention along time, along channels where asked for (with the same weights), and the MLP, a branch each."""

    options: Options
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        options = self.options
        spec = Spec(
            heads=options.heads,
            mlp_width=options.mlp_width,
            activation=options.activation,
            attention_dropout=options.attention_dropout,
            mlp_dropout=options.mlp_dropout,
        )
        attention = Attention(spec, name="attn")

        def attend(x: jax.Array) -> jax.Array:
            return attention(x.reshape(-1, *x.shape[2:]), train=train).reshape(x.shape)

        def mlp(x: jax.Array) -> jax.Array:
            return Mlp(dataclasses.replace(spec, bias=options.mlp_bias), name="mlp")(x, train=train)

        x = self._branch(x, attend, "1", train)
        if options.mixing:
            x = self._branch(x.swapaxes(1, 2), attend, "channels", train).swapaxes(1, 2)
        return self._branch(x, mlp, "2", train)

    @nn.nowrap
    def _branch(self, x: jax.Array, branch: Callable[[jax.Array], jax.Array], name: str, train: bool) -> jax.Array:
        options = self.options

        def norm(x: jax.Array) -> jax.Array:
            if options.norm == "layer":
                return layer_norm(options.epsilon, f"norm_{name}")(x)
            norm = BatchNorm(epsilon=options.epsilon, axis_name=self.axis_name, name=f"norm_{name}")
            return norm(x, use_running_average=not train)

        y = branch(norm(x) if options.order == "pre" else x)
        y = x + nn.Dropout(options.dropout, name=f"drop_{name}")(y, deterministic=not train)
        return y if options.order == "pre" else norm(y)


class Head(nn.Module):
    """Pools the patches of each channel, and reads all channels at once, or forecasts each by itself.

    Returns [b, outputs]; a forecast is [b, outputs, channels], in the unit of `history` [b, length, channels].
    """

    outputs: int
    options: Options
    kind: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, history: jax.Array | None = None) -> jax.Array:
        options = self.options
        pooled = {"cls": lambda x: x[:, :, 0], "mean": lambda x: x.mean(2), "max": lambda x: x.max(2)}
        x = pooled.get(options.pool, lambda x: x.reshape(*x.shape[:2], -1))(x)
        x = x if self.kind == FORECAST else x.reshape(len(x), -1)
        x = nn.Dropout(options.head_dropout, name="drop")(x, deterministic=not train)
        y = Dense((self.outputs,), name="out")(x)
        if self.kind != FORECAST:
            return y
        loc, scale = scales(history.astype(jnp.float32), options.scaling)
        return y.swapaxes(1, 2).astype(jnp.float32) * scale + loc


@dataclass(frozen=True, kw_only=True)
class Options(families.Options):
    """The defaults are PatchTST/64's sizes in the form of transformers' configuration.

    Attributes:
      length: points in time of a series.
      channels: values at each of them.
      patch: points in time of a patch; less than the length.
      stride: points from one patch to the next; the last one ends with the series.
      width: of a patch's embedding.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      mlp_bias: whether the layers of the MLP have biases.
      activation: of the MLP.
      norm: `batch` over all patches and channels of the batch, or `layer`.
      epsilon: of every norm.
      order: `pre`: norms in front of the branches; `post`: behind the sum.
      shared: whether channels share the layer that embeds patches.
      mixing: whether channels attend to each other, by the attention that patches do.
      positions: `sincos`, fixed, or `learned`.
      scaling: of each series and channel: `std` (mean 0, deviation 1), `mean` (of absolute values 1) or `none`.
      pool: what the head reads of a channel: a class token (`cls`), the `mean` or `max` of its patches, or all of them
        (`flatten`).
      position_dropout: rate after the positions.
      dropout: rate at the end of each branch.
      attention_dropout: rate on the attention weights.
      mlp_dropout: rate after the activation.
      head_dropout: rate in front of the output layer.
      normalize: of a series before the model, `each` or `none`; a forecast needs `none`.
    """

    length: int = size(512)
    channels: int = size(1)
    patch: int = size(16)
    stride: int = size(8)
    width: int = size(128)
    layers: int = size(3)
    heads: int = size(16)
    mlp_width: int = size(256)
    mlp_bias: bool = option(True)
    activation: str = choice("gelu", ("gelu", "relu"))
    norm: str = choice("batch", ("batch", "layer"))
    epsilon: float = positive(1e-5)
    order: str = choice("pre", ("pre", "post"))
    shared: bool = option(True)
    mixing: bool = option(False)
    positions: str = choice("sincos", ("sincos", "learned"))
    scaling: str = choice("std", ("std", "mean", "none"))
    pool: str = choice("mean", ("cls", "mean", "max", "flatten"))
    position_dropout: float = rate(0.0)
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    mlp_dropout: float = rate(0.0)
    head_dropout: float = rate(0.0)
    normalize: str = choice("none", NORMALIZE, inputs=True)

    def check(self) -> None:
        if self.width % self.heads:
            raise InputError(f"width must be a multiple of the heads, found {self.width} and {self.heads}")
        if self.positions == "sincos" and self.width % 2:
            raise InputError(f"width must be even with positions='sincos', found {self.width}")
        if self.patch >= self.length:
            raise InputError(f"patch must be shorter than the length {self.length}, found {self.patch}")

    @property
    def patches(self) -> int:
        """How many a channel has."""
        return (self.length - self.patch) // self.stride + 1

    @property
    def encoding(self) -> SeriesEncoding:
        return SeriesEncoding(length=self.length, channels=self.channels, normalize=self.normalize)


class PatchTST(Family):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        return {
            "stem": functools.partial(Stem, options),
            **{f"block_{i}": functools.partial(Block, options, self.axis_name) for i in range(options.layers)},
            "head": functools.partial(Head, self.outputs, options, self.head),
        }


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """PatchTST with a head that is `pooled`, or `forecast` for the next `outputs` points in time of each channel."""
    if head == FORECAST and options.normalize != "none":
        raise InputError(
            f"a forecast is in the data's unit: expected normalize='none', found {options.normalize!r}; scaling="
            "'std' normalises each series inside the model"
        )
    encoding = dataclasses.replace(options.encoding, again=head == FORECAST)
    return family_port(
        PatchTST,
        options,
        outputs=outputs,
        head=head,
        encodings=(encoding,),
        input_axes=((r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        tensor_axes=(*BLOCK_TENSOR_AXES, (".*", None)),
        no_decay=((r".*/(bias|scale|cls|pos)", 0.0), (".*", 1.0)),
    )


TINY = {"": dict(length=11, channels=2, patch=4, stride=3, width=6, layers=2, heads=2, mlp_width=8)}
