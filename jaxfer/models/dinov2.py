"""DINOv2 (Oquab et al., 2023, arXiv:2304.07193), also with registers (Darcet et al., 2023, arXiv:2309.16588).

| network  | width | layers | heads | mlp_width | gated |
|----------|-------|--------|-------|-----------|-------|
| ViT-S/14 | 384   | 12     | 6     | 1536      | no    |
| ViT-B/14 | 768   | 12     | 12    | 3072      | no    |
| ViT-L/14 | 1024  | 24     | 16    | 4096      | no    |
| ViT-g/14 | 1536  | 40     | 24    | 4096      | yes   |

Those with registers have four. All were trained at 518 x 518 pixels last: `positions` is (37, 37), and an image of
another size reads them interpolated.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import Conv, kernel_init, like
from jaxfer.models.options import choice, option, size, sizes
from jaxfer.models.port import Port
from jaxfer.models.positions import interpolated
from jaxfer.models.transformer import Spec
from jaxfer.models.vision import PatchFamily, PatchOptions, patch_port

HEADS = (POOLED, DENSE, EMBEDDING)


class Stem(nn.Module):
    """Patches to tokens: [batch, h, w, c] -> [batch, 1 + registers + patches, width].

    Class token and patches get the learned positions, those of patches interpolated to their grid; the registers, which
    come between, have none.
    """

    patch: int
    width: int
    registers: int
    positions: tuple[int, int]
    antialias: bool
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        size = (self.patch, self.patch)
        x = Conv(self.width, size, self.patch, use_bias=True, kernel_init=kernel_init, name="patch")(x)
        rows, columns = self.positions
        pos = like(self.param("pos", nn.initializers.normal(0.02), (1, 1 + rows * columns, self.width)), x)
        grid = interpolated(pos[0, 1:].reshape(rows, columns, -1), x.shape[1:3], antialias=self.antialias)
        tokens = [
            self.param("cls", nn.initializers.zeros, (1, 1, self.width)) + pos[:, :1],
            x.reshape(x.shape[0], -1, self.width) + grid.reshape(1, -1, self.width),
        ]
        if self.registers:
            start = nn.initializers.normal(1e-6)  # as DINOv2's own code draws them
            tokens.insert(1, self.param("registers", start, (1, self.registers, self.width)))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], *token.shape[1:])) for token in tokens], 1)
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


@dataclass(frozen=True, kw_only=True)
class Options(PatchOptions):
    """The module's table has the published sizes.

    Attributes:
      gated: whether the MLP is a SwiGLU (arXiv:2002.05202) of `mlp_width` channels.
      registers: learned tokens that take part in attention and that no head reads.
      positions: (rows, columns) of the learned positions of patches, whatever the image.
      antialias: whether they are interpolated with anti-aliasing: transformers does so with registers only.
      pool: `cls+mean` (class token, then the mean of the patches, as transformers' classifiers have it) or `cls`.
      layer_scale_init: of the learned scale of every branch.
    """

    patch: int = size(14)
    gated: bool = option(False)
    registers: int = option(0)
    positions: tuple[int, int] = sizes((37, 37), of="rows and columns")
    antialias: bool = option(False)
    pool: str = choice("cls+mean", ("cls", "cls+mean"))
    layer_scale_init: float = option(1.0, training=True)

    def check(self) -> None:
        super().check()
        if len(self.positions) != 2:
            raise InputError(
                f"positions must be (rows, columns) of patches, found {self.positions!r}; give e.g. (37, 37)"
            )
        if not isinstance(self.registers, int) or self.registers < 0:
            raise InputError(f"registers must be a number of tokens from 0 on, found {self.registers!r}")

    @property
    def special(self) -> tuple[str, ...]:
        return ("cls", *("register",) * self.registers)


class Dinov2(PatchFamily):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def stem(self) -> Callable[..., nn.Module]:
        options = self.options
        positions = (options.registers, options.positions, options.antialias)
        return functools.partial(Stem, options.patch, options.width, *positions, options.dropout)

    @nn.nowrap
    def spec(self) -> Spec:
        options = self.options
        gated = dict(gated=True, joined=True, activation="silu", mlp_dropout=None) if options.gated else {}
        scale = dict(layer_scale=True, layer_scale_init=options.layer_scale_init)
        return dataclasses.replace(super().spec(), **scale, **gated)


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A vision transformer with layer scale and positions for any image size; see `patch_port`."""
    return patch_port(Dinov2, options, outputs=outputs, head=head)


_SMALL = dict(patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3), positions=(3, 3))
TINY = {
    "cls+mean": _SMALL,
    "registers": {**_SMALL, "registers": 2, "antialias": True, "pool": "cls"},
    "last": {**_SMALL, "layers": 3, "registers": 1, "last": 3},
    "gated": {**_SMALL, "gated": True},
}
