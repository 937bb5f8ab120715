"""FT-Transformer for rows of a table (Gorishniy et al., 2021, arXiv:2106.11959): a token for each column.

| network  | width | mlp_width | attention_dropout | mlp_dropout |
|----------|-------|-----------|-------------------|-------------|
| 1 block  | 96    | 128       | 0.1               | 0.0         |
| 2 blocks | 128   | 170       | 0.15              | 0.05        |
| 3 blocks | 192   | 256       | 0.2               | 0.1         |
| 4 blocks | 256   | 341       | 0.25              | 0.15        |

The authors' defaults by the number of blocks, all with 8 heads. A missing number is its column's mean; a missing or
unknown category has an embedding of its own. What passes between the units is [b, 1 + columns, width], the class token
first.
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

from jaxfer.errors import InputError
from jaxfer.models.family import Family, family_port
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Dense, like
from jaxfer.models.options import TableOptions, rate, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import Block, Spec, layer_norm

EPSILON = 1e-5  # of every norm


def token_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Uniform between plus and minus 1 / sqrt(width)."""
    most = shape[-1] ** -0.5
    return jax.random.uniform(key, shape, dtype, -most, most)


class Numbers(nn.Module):
    """`x * scale + bias`, a vector of each for every column: [b, columns] -> [b, columns, width]."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale, bias = (like(self.param(name, token_init, (x.shape[1], self.width)), x) for name in ("scale", "bias"))
        return x[..., None] * scale + bias


class Categories(nn.Module):
    """An embedding of each value and a bias of each column: int32 [b, columns] -> [b, columns, width]."""

    width: int
    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        tables = [
            nn.Embed(size + 1, self.width, embedding_init=token_init, name=f"value_{i}")
            for i, size in enumerate(self.sizes)
        ]
        words = jnp.stack([table(x[:, i]) for i, table in enumerate(tables)], 1)
        return words + self.param("bias", token_init, words.shape[1:])


class Stem(nn.Module):
    """The class token and a token for each column."""

    width: int
    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, missing: jax.Array, categories: jax.Array, train: bool) -> jax.Array:
        first = like(self.param("cls", token_init, (self.width,)), x)
        tokens = [jnp.broadcast_to(first, (len(x), 1, self.width))]
        if x.shape[1]:
            tokens.append(Numbers(self.width, name="numbers")(x))
        if self.sizes:
            tokens.append(Categories(self.width, self.sizes, name="categories")(categories).astype(x.dtype))
        return jnp.concatenate(tokens, 1)


class Head(nn.Module):
    """Norm, ReLU and the output layer, of the class token."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        return Dense((self.outputs,), name="out")(nn.relu(layer_norm(EPSILON, "norm")(x[:, 0])))


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions):
    """
    Attributes:
      blocks: transformer blocks.
      width: of a token.
      heads: attention heads, at least 2; must divide the width.
      mlp_width: hidden channels of the MLP.
      dropout: rate at the end of each branch.
      attention_dropout: rate on the attention weights.
      mlp_dropout: rate after the activation.
    """

    blocks: int = size(3)
    width: int = size(192)
    heads: int = size(8)
    mlp_width: int = size(256)
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.2)
    mlp_dropout: float = rate(0.1)

    def check(self) -> None:
        super().check()
        if self.width % self.heads or self.heads < 2:
            raise InputError(f"width must be a multiple of at least 2 heads, found {self.width} and {self.heads}")


class FTTransformer(Family):
    """The chain stem, block_0 ... block_{n-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}; the first norm of the first block is left out."""
        options = self.options
        spec = Spec(
            heads=options.heads,
            mlp_width=options.mlp_width,
            epsilon=EPSILON,
            activation="relu",
            gated=True,
            joined=True,
            dropout=options.dropout,
            attention_dropout=options.attention_dropout,
            mlp_dropout=options.mlp_dropout,
        )
        blocks = {
            f"block_{i}": functools.partial(Block, dataclasses.replace(spec, norm_first=i > 0))
            for i in range(options.blocks)
        }
        rows = tuple(len(words) for words in options.values)
        return {
            "stem": functools.partial(Stem, options.width, rows),
            **blocks,
            "head": functools.partial(Head, self.outputs),
        }

    @nn.nowrap
    def special(self) -> tuple[str, ...]:
        return ("cls",)


def port(options: Options, *, outputs: int) -> Port:
    """An FT-Transformer."""
    return family_port(
        FTTransformer,
        options,
        outputs=outputs,
        input_axes=((r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        tensor_axes=(
            *BLOCK_TENSOR_AXES[:3],
            (r".*/mlp/fc1/kernel", 2),  # [width, value or gate, hidden]
            (r".*/mlp/fc1/bias", 1),
            (r".*/mlp/fc2/kernel", 0),
            (".*", None),
        ),
        no_decay=((r".*/(bias|scale|cls)", 0.0), (".*", 1.0)),
        rows=_rows(options),
    )


def _rows(options: Options) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The leaves of columns and values."""
    numbers, categories = options.numbers, options.categories
    found = {f"numbers/{leaf}": tuple(f"{leaf} of {name}" for name in numbers) for leaf in ("scale", "bias")}
    found["categories/bias"] = tuple(f"bias of {name}" for name in categories)
    for i, words in enumerate(options.values):
        found[f"categories/value_{i}/embedding"] = tuple(f"{categories[i]}={word}" for word in ("", *words))
    return tuple((f"params/stem/{leaf}", names) for leaf, names in found.items() if names)


TINY = {
    "": dict(
        blocks=2,
        width=6,
        heads=2,
        mlp_width=8,
        numbers=("size", "weight"),
        means=(12.0, 1.0),
        stds=(4.0, 2.0),
        categories=("colour", "shape"),
        values=(("blue", "green", "red"), ("round",)),
    )
}
