"""Two towers, one after the other in a chain: rows of numbers and texts of tokens, and a head on their product.

What passes between the units is {"left": [batch, width]}, from `b_0` on with {"right": [batch, length, width], later
[batch, width]; "kept": bool [batch, length]}.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.models.chain import Chain, check_positive
from jaxfer.models.layers import Dense
from jaxfer.models.port import Port

TINY = dict(width=8)
TOKENS = 3


@dataclasses.dataclass(frozen=True)
class Fields:
    """An encoding of which a model needs the shapes alone."""

    name: str
    size: int
    dtype: str

    buckets: ClassVar[tuple[int, ...]] = ()
    augments: ClassVar[bool] = False

    def example(self, n):
        return {self.name: jax.ShapeDtypeStruct((n, self.size), self.dtype)}


class Left(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Any, *, train, **side):
        x = x["left"] if isinstance(x, dict) else x
        return {"left": nn.tanh(Dense((self.width,), name="mix")(x))}


class Tokens(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Any, *, right, train):
        return {**x, "right": nn.Embed(TOKENS, self.width, name="token")(right), "kept": right > 0}


class Mean(nn.Module):
    width: int
    dropout: float

    @nn.compact
    def __call__(self, x: Any, *, train, **side):
        y, kept = nn.LayerNorm(name="norm")(x["right"]), x["kept"][..., None]
        mean = jnp.where(kept, y, 0).sum(1) / jnp.maximum(kept.sum(1), 1).astype(y.dtype)
        right = nn.Dropout(self.dropout, name="drop")(
            nn.tanh(Dense((self.width,), name="mix")(mean)), deterministic=not train
        )
        return {**x, "right": right}


class Head(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x: Any, *, train, **side):
        return Dense((self.outputs,), name="out")(x["left"] * x["right"])


class Towers(Chain, kw_only=True):
    outputs: int
    width: int
    dropout: float

    @nn.nowrap
    def units(self):
        left = functools.partial(Left, self.width)
        return {
            "a_0": left,
            "a_1": left,
            "b_0": functools.partial(Tokens, self.width),
            "b_1": functools.partial(Mean, self.width, self.dropout),
            "head": functools.partial(Head, self.outputs),
        }


def port(*, outputs: int, width: int = 8, dropout: float = 0.0):
    check_positive(outputs=outputs, width=width)
    module = Towers(outputs=outputs, width=width, dropout=dropout)
    return Port(
        module=module,
        units=tuple(module.units()),
        head="head/out",
        input_axes=((".*/kernel", 1),),
        encodings=(Fields("left", 5, "float32"), Fields("right", 6, "int32")),
        depths=(2, 1, 2, 1, 0),
    )
