"""ResNet-like MLP for rows of a table (Gorishniy et al., 2021, arXiv:2106.11959).

Numbers, flags of missing ones and an embedding of each category, through residual blocks of two layers. Layers whose
outputs only norms read have no bias: a norm takes it out again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.data.encodings.row import RowEncoding
from jaxfer.errors import InputError
from jaxfer.models.chain import Chain, check_positive, check_rate
from jaxfer.models.layers import BatchNorm, Dense
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


class RowMLP(Chain, kw_only=True):
    """The chain stem, block_0 ... block_{n-1}, head; `sizes` are the numbers of known values of each category."""

    outputs: int
    blocks: int
    width: int
    mlp_width: int
    embedding: int
    sizes: tuple[int, ...]
    dropout: float

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        block = functools.partial(Block, self.mlp_width, self.dropout, self.axis_name)
        return {
            "stem": functools.partial(Stem, self.width, self.embedding, self.sizes),
            **{f"block_{i}": block for i in range(self.blocks)},
            "head": functools.partial(Head, self.outputs, self.axis_name),
        }


def port(
    *,
    outputs: int,
    blocks: int = 2,
    width: int = 64,
    mlp_width: int = 128,
    embedding: int = 8,
    dropout: float = 0.0,
    numbers: tuple[str, ...] = (),
    means: tuple[float, ...] = (),
    stds: tuple[float, ...] = (),
    categories: tuple[str, ...] = (),
    values: tuple[tuple[str, ...], ...] = (),
) -> Port:
    """A ResNet-like MLP. A run fills in the options about columns that are empty: from its source, else from its data.

    Args:
      outputs: outputs of the head.
      blocks: residual blocks.
      width: of what passes between them.
      mlp_width: of a block's hidden layer.
      embedding: width of a category's embedding.
      dropout: drop rate in the blocks.
      numbers: columns of numbers.
      means: of each number over the training rows.
      stds: standard deviations likewise.
      categories: columns of categories.
      values: known values of each; an embedding has a row for each and one for all others.

    Raises:
      InputError: an option has no such value, or two don't go together.
    """
    check_positive(outputs=outputs, blocks=blocks, width=width, mlp_width=mlp_width, embedding=embedding)
    check_rate(dropout=dropout)
    both = (*numbers, *categories)
    if len(set(both)) < len(both):
        raise InputError(f"numbers and categories must name each column once, found {both!r}")
    for option, given, of in (("means", means, numbers), ("stds", stds, numbers), ("values", values, categories)):
        if given and len(given) != len(of):
            raise InputError(f"{option} must be () or one for each of {len(of)} columns, found {len(given)}")
    if len(means) != len(stds):
        raise InputError(f"means and stds go together, found {len(means)} and {len(stds)}; set both or neither")
    if not all(std > 0 for std in stds):
        raise InputError(f"stds must be positive, found {stds!r}")
    encoding = RowEncoding(numbers=numbers, means=means, stds=stds, categories=categories, values=values)
    module = RowMLP(
        outputs=outputs,
        blocks=blocks,
        width=width,
        mlp_width=mlp_width,
        embedding=embedding,
        sizes=tuple(len(words) for words in values),
        dropout=dropout,
    )
    return Port(
        module=module,
        units=tuple(module.units()),
        head="head/out",
        input_axes=((r".*/kernel", 1),),
        encodings=(encoding,),
        tensor_axes=((r".*/fc1/kernel", 1), (r".*/(fc1/bias|fc2/kernel)", 0), (".*", None)),
    )
