"""What add-ons that put noise on embedded tokens share: where it goes, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.rules import flatten


def table(port: Port) -> str:
    """Path of the word embeddings, which are read before positions are added."""
    return f"{port.units[0]}/word"


def check(name: str, port: Port, params: Any) -> None:
    """`InputError` if the model embeds no tokens."""
    if f"{table(port)}/embedding" not in flatten(params):
        reads = f"the model reads {port.encoding.noun} and has no table {table(port)}"
        raise InputError(f"add-on {name} adds noise to embedded tokens, {reads}; remove it from adds")


def noised(inner: Any, port: Port, noise: Callable[[jax.Array, jax.Array], jax.Array]) -> Any:
    """An interceptor that adds noise to the embedded tokens in training passes.

    Args:
      inner: the method's own interceptor, or None.
      port: the model.
      noise: (key, embedded [batch, tokens, width]) -> what is added.
    """

    def noisy(next_fun, args, kwargs, context):
        outputs = next_fun(*args, **kwargs) if inner is None else inner(next_fun, args, kwargs, context)
        module, path = context.module, "/".join(context.module.path)
        trains = context.method_name == "__call__" and module.has_rng("dropout")  # an evaluation draws nothing
        if not (isinstance(module, nn.Embed) and path == table(port) and trains):
            return outputs
        return outputs + noise(module.make_rng("dropout"), outputs)

    return noisy
