"""NEFTune, an add-on: in training, uniform noise is added to the embeddings of the tokens.

Jain et al., 2023, "NEFTune: Noisy Embeddings Improve Instruction Finetuning", arXiv:2310.05914, Algorithm 1: uniform on
[-1, 1], times noise / sqrt(L d), for L tokens of width d. L counts the padding of the batch, as in `transformers`. It
acts on the word embeddings before positions are added, whether they are trained or frozen, and never in evaluation.
"""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.models.port import Port
from jaxfer.rules import flatten


def add(method: Method, port: Port, *, noise: float = 5.0) -> Method:
    """The method with noisy embeddings.

    Args:
      method: any.
      port: of a model that embeds tokens, in the table `word` of its first unit.
      noise: the paper's alpha, 5, 10 or 15 there.
    """
    table = f"{port.units[0]}/word"
    if noise < 0:
        raise InputError(f"options.noise: expected at least 0, found {noise}")

    def init(params, key, given):
        if f"{table}/embedding" not in flatten(params):
            reads = f"the model reads {port.encoding.noun} and has no table {table}"
            raise InputError(f"add-on neftune adds noise to embedded tokens, {reads}; remove it from adds")
        return method.init(params, key, given)

    def intercept(params, extra):
        inner = method.intercept(params, extra)

        def noisy(next_fun, args, kwargs, context):
            outputs = next_fun(*args, **kwargs) if inner is None else inner(next_fun, args, kwargs, context)
            module, path = context.module, "/".join(context.module.path)
            trains = context.method_name == "__call__" and module.has_rng("dropout")  # an evaluation draws nothing
            if not (isinstance(module, nn.Embed) and path == table and trains):
                return outputs
            most = noise / math.sqrt(outputs.shape[-2] * outputs.shape[-1])
            drawn = jax.random.uniform(module.make_rng("dropout"), outputs.shape, outputs.dtype, -most, most)
            return outputs + drawn

        return noisy

    return dataclasses.replace(method, init=init, intercept=intercept)
