"""ResNet-like MLP for rows of a table (Gorishniy et al., 2021, arXiv:2106.11959).

Numbers, flags of missing ones and an embedding of each category, through residual blocks of two layers. Layers whose
outputs only norms read have no bias: a norm takes it out again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.models.family import Family, family_port
from jaxfer.models.layers import BatchNorm, Dense
from jaxfer.models.options import TableOptions, rate, size
from jaxfer.models.port import Port


class Stem(nn.Module):
    """A row's parts side by side, through one layer: [b, numbers] and the rest of the row -> [b, width]."""

    width: int
    embedding: int
    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, missing: jax.Array, categories: jax.Array, train: bool) -> jax.Array:
        init = nn.initializers.normal(0.02)  # so that a value never seen in training is close to none
        words = [
            nn.Embed(size + 1, self.embedding, embedding_init=init, name=f"category_{i}")(categories[:, i])
            for i, size in enumerate(self.sizes)
        ]
        parts = [part.astype(x.dtype) for part in (x, missing, *words)]
        return Dense((self.width,), use_bias=False, name="mix")(jnp.concatenate(parts, -1))


class Block(nn.Module):
    """`x + fc2(relu(fc1(norm(x))))`, with dropout after the ReLU and on the branch: [b, width] -> the same."""

    mlp_width: int
    dropout: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        y = BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train)
        y = nn.relu(Dense((self.mlp_width,), name="fc1")(y))
        y = nn.Dropout(self.dropout, name="drop_1")(y, deterministic=not train)
        y = Dense((x.shape[-1],), use_bias=False, name="fc2")(y)
        return x + nn.Dropout(self.dropout, name="drop_2")(y, deterministic=not train)


class Head(nn.Module):
    """Norm, ReLU and the output layer: [b, width] -> [b, outputs]."""

    outputs: int
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        x = nn.relu(BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train))
        return Dense((self.outputs,), name="out")(x)


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions):
    """
    Attributes:
      blocks: residual blocks.
      width: of what passes between them.
      mlp_width: of a block's hidden layer.
      embedding: width of a category's embedding.
      dropout: drop rate in the blocks.
    """

    blocks: int = size(2)
    width: int = size(64)
    mlp_width: int = size(128)
    embedding: int = size(8)
    dropout: float = rate(0.0)


class RowMLP(Family):
    """The chain stem, block_0 ... block_{n-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        block = functools.partial(Block, options.mlp_width, options.dropout, self.axis_name)
        rows = tuple(len(words) for words in options.values)
        return {
            "stem": functools.partial(Stem, options.width, options.embedding, rows),
            **{f"block_{i}": block for i in range(options.blocks)},
            "head": functools.partial(Head, self.outputs, self.axis_name),
        }


def port(options: Options, *, outputs: int) -> Port:
    """A ResNet-like MLP."""
    return family_port(
        RowMLP,
        options,
        outputs=outputs,
        input_axes=((r".*/kernel", 1),),
        tensor_axes=((r".*/fc1/kernel", 1), (r".*/(fc1/bias|fc2/kernel)", 0), (".*", None)),
    )


TINY = {
    "": dict(
        width=6,
        mlp_width=8,
        embedding=3,
        numbers=("size", "weight"),
        means=(12.0, 1.0),
        stds=(4.0, 2.0),
        categories=("colour", "shape"),
        values=(("blue", "green", "red"), ("round",)),
    )
}
