"""ViT: the vision transformer (Dosovitskiy et al., 2020, arXiv:2010.11929), and DeiT (arXiv:2012.12877).

| network  | width | layers | heads | mlp_width |
|----------|-------|--------|-------|-----------|
| ViT-Ti   | 192   | 12     | 3     | 768       |
| ViT-S    | 384   | 12     | 6     | 1536      |
| ViT-B    | 768   | 12     | 12    | 3072      |
| ViT-L    | 1024  | 24     | 16    | 4096      |
| ViT-H/14 | 1280  | 32     | 16    | 5120      |

DeiT has the sizes of ViT-Ti, S and B; the distilled ones take `distillation="head"`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import Conv, kernel_init
from jaxfer.models.options import choice, option
from jaxfer.models.port import Port
from jaxfer.models.vision import PatchFamily, PatchOptions, patch_port

HEADS = (POOLED, DENSE, EMBEDDING)


class Stem(nn.Module):
    """Patches to tokens: [batch, h, w, c] -> [batch, tokens, width]; `special` tokens first, then patches by row."""

    patch: int
    width: int
    special: tuple[str, ...]
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        size = (self.patch, self.patch)
        x = Conv(self.width, size, self.patch, use_bias=True, kernel_init=kernel_init, name="patch")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        tokens = [self.param(name, nn.initializers.zeros, (1, 1, self.width)) for name in self.special]
        x = jnp.concatenate([*(jnp.broadcast_to(token, (x.shape[0], 1, self.width)) for token in tokens), x], 1)
        x = x + self.param("pos", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


@dataclass(frozen=True, kw_only=True)
class Options(PatchOptions):
    """The module's table has the published sizes.

    Attributes:
      pool: `cls` (a class token is prepended), `mean` (no class token; the mean of the normed patch tokens), `cls+mean`
        (both, one after the other, as DINOv2's classifiers have it) or `pooler` (the class token through a dense layer
        and tanh, as transformers' `ViTModel` has it).
      norm: `pre`: each branch is normed before it, and the last block after it; `post`: each sum is normed.
      distillation: DeiT's. `none`; `token`: a second learned token follows the class token; `head`: and the outputs are
        the mean of two output layers, one for each of these tokens.
      epsilon: of every LayerNorm; checkpoints of Hugging Face transformers say 1e-12.
    """

    pool: str = choice("cls", ("cls", "mean", "cls+mean", "pooler"))
    norm: str = choice("pre", ("pre", "post"))
    distillation: str = choice("none", ("none", "token", "head"))
    mean: tuple[float, ...] = option((0.5,), inputs=True)
    std: tuple[float, ...] = option((0.5,), inputs=True)

    @property
    def order(self) -> str:
        return self.norm

    def check(self) -> None:
        super().check()
        if self.distillation != "none" and "mean" in self.pool or self.distillation == "head" and self.pool != "cls":
            raise InputError(f"distillation={self.distillation!r} needs pool='cls', found {self.pool!r}")
        if (told := self.read) is None:
            return
        if self.pool not in ("cls", "cls+mean"):
            raise InputError(f"{told} needs pool='cls' or 'cls+mean', found {self.pool!r}")
        if self.norm != "pre" or self.distillation != "none":
            raise InputError(
                f"{told} needs norm='pre' and distillation='none', found norm={self.norm!r} and "
                f"distillation={self.distillation!r}"
            )

    @property
    def special(self) -> tuple[str, ...]:
        """The learned tokens before the patches."""
        return () if self.pool == "mean" else ("cls",) if self.distillation == "none" else ("cls", "dist")


class ViT(PatchFamily):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def stem(self) -> Callable[..., nn.Module]:
        options = self.options
        return functools.partial(Stem, options.patch, options.width, options.special, options.dropout)


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A vision transformer with learned position embeddings; see `patch_port`."""
    return patch_port(ViT, options, outputs=outputs, head=head)


_SMALL = dict(patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3))
TINY = {
    "cls": _SMALL,
    "mean": {**_SMALL, "heads": 2, "pool": "mean"},
    "last": {**_SMALL, "layers": 3, "pool": "cls+mean", "last": 3},
    "distilled": {**_SMALL, "distillation": "token"},
    "post": {**_SMALL, "pool": "pooler", "norm": "post", "qkv_bias": False},
}
