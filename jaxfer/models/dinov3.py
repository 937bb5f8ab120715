"""DINOv3's vision transformers (Siméoni et al., 2025, arXiv:2508.10104).

| network   | width | layers | heads | mlp_width | gated | qkv_bias |
|-----------|-------|--------|-------|-----------|-------|----------|
| ViT-S/16  | 384   | 12     | 6     | 1536      | no    | yes      |
| ViT-S+/16 | 384   | 12     | 6     | 1536      | yes   | yes      |
| ViT-B/16  | 768   | 12     | 12    | 3072      | no    | yes      |
| ViT-L/16  | 1024  | 24     | 16    | 4096      | no    | yes      |
| ViT-H+/16 | 1280  | 32     | 20    | 5120      | yes   | yes      |
| ViT-7B/16 | 4096  | 40     | 32    | 8192      | yes   | no       |
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

from jaxfer.errors import InputError
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import Conv, kernel_init
from jaxfer.models.options import choice, option, positive, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import Block, Spec
from jaxfer.models.vision import PatchFamily, PatchOptions, patch_port

HEADS = (POOLED, DENSE, EMBEDDING)


class Stem(nn.Module):
    """Patches to tokens without positions: [batch, h, w, c] -> [batch, 1 + registers + patches, width]."""

    patch: int
    width: int
    registers: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        sides = (self.patch, self.patch)
        x = Conv(self.width, sides, self.patch, use_bias=True, kernel_init=kernel_init, name="patch")(x)
        counts, start = {"cls": 1, "registers": self.registers}, nn.initializers.normal(0.02)
        tokens = [self.param(name, start, (1, count, self.width)) for name, count in counts.items() if count]
        tokens = [jnp.broadcast_to(token, (x.shape[0], *token.shape[1:])) for token in tokens]
        x = jnp.concatenate([*tokens, x.reshape(x.shape[0], -1, self.width)], 1)
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


class TurnedBlock(Block):
    """A block whose queries and keys are turned by the places of their patches.

    Attributes:
      grid: (rows, columns) of patches.
      special: tokens before them, which aren't turned.
      theta: base of the wavelengths.
    """

    grid: tuple[int, int] = (1, 1)
    special: int = 1
    theta: float = 100.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        angles = jnp.asarray(turns(self.grid, self.special, x.shape[-1] // self.spec.heads, self.theta))
        return super().__call__(x, rotations=(jnp.cos(angles), jnp.sin(angles)), train=train, **side)


def turns(grid: tuple[int, int], special: int, width: int, theta: float) -> np.ndarray:
    """Angles of each token and channel of a head, float32 [special + patches, width].

    A patch's centre is (row, column) in [-1, 1], whatever the image's size. A quarter of the channels turns by the row,
    the next one by the column, and the second half as the first (arXiv:2508.10104, sec. 3.2).
    """
    rows, columns = (2 * (np.arange(0.5, side) / side) - 1 for side in grid)
    centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2, 1)
    waves = theta ** -(np.arange(width // 4) * 4 / width)
    angles = np.tile((2 * math.pi * centres * waves).reshape(len(centres), -1), 2)
    return np.pad(angles, ((special, 0), (0, 0))).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Options(PatchOptions):
    """The module's table has the published sizes.

    Attributes:
      gated: whether the MLP is gated, with `mlp_width` channels on each side.
      activation: of the MLP.
      registers: learned tokens that take part in attention and that no head reads.
      theta: base of the wavelengths of rotary positions.
      pool: `cls` or `cls+mean` (class token, then the mean of the patches).
      layer_scale_init: of the learned scale of every branch.
      qkv_bias: whether query and value have biases; the key has none.
    """

    width: int = size(384)
    heads: int = size(6)
    mlp_width: int = size(1536)
    gated: bool = option(False)
    activation: str = choice("gelu", ("gelu", "silu"))
    registers: int = option(4)
    theta: float = positive(100.0)
    pool: str = choice("cls", ("cls", "cls+mean"))
    layer_scale_init: float = option(1.0, training=True)
    epsilon: float = positive(1e-5)

    def check(self) -> None:
        super().check()
        if not isinstance(self.registers, int) or self.registers < 0:
            raise InputError(f"registers must be a number of tokens from 0 on, found {self.registers!r}")
        if self.width // self.heads % 4:
            raise InputError(
                f"rotary positions of rows and columns need heads of a multiple of 4 channels, found "
                f"width={self.width} and heads={self.heads}"
            )

    @property
    def special(self) -> tuple[str, ...]:
        return ("cls", *("register",) * self.registers)


class Dinov3(PatchFamily):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def stem(self) -> Callable[..., nn.Module]:
        options = self.options
        return functools.partial(Stem, options.patch, options.width, options.registers, options.dropout)

    @nn.nowrap
    def spec(self) -> Spec:
        options = self.options
        return dataclasses.replace(
            super().spec(),
            qkv_bias=(options.qkv_bias, False, options.qkv_bias),
            gated=options.gated,
            activation=options.activation,
            mlp_dropout=None,
            layer_scale=True,
            layer_scale_init=options.layer_scale_init,
        )

    @nn.nowrap
    def block(self, spec: Spec, carried: int | None) -> Callable[..., nn.Module]:
        options = self.options
        places = dict(grid=options.grid, special=len(options.special), theta=options.theta)
        return functools.partial(TurnedBlock, spec, carried, **places)


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A vision transformer with layer scale, registers and rotary positions of patches; see `patch_port`."""
    return patch_port(Dinov3, options, outputs=outputs, head=head)


_SMALL = dict(patch=3, width=12, layers=2, heads=3, mlp_width=20, registers=2, image=(6, 9, 3))
TINY = {"plain": _SMALL, "gated": {**_SMALL, "gated": True, "activation": "silu", "registers": 0, "pool": "cls+mean"}}
