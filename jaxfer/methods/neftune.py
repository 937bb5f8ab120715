"""NEFTune, an add-on: in training, uniform noise is added to the embeddings of the tokens.

Jain et al., 2023, "NEFTune: Noisy Embeddings Improve Instruction Finetuning", arXiv:2310.05914, Algorithm 1: uniform on
[-1, 1], times noise / sqrt(L d), for L tokens of width d. L counts the padding of the batch, as in `transformers`. It
acts on the word embeddings before positions are added, whether they are trained or frozen, and never in evaluation.
"""

from __future__ import annotations

import dataclasses
import math

import jax

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.methods import _embeddings
from jaxfer.models.port import Port


def add(method: Method, port: Port, *, noise: float = 5.0) -> Method:
    """The method with noisy embeddings.

    Args:
      method: any.
      port: of a model that embeds tokens, in the table `word` of its first unit.
      noise: the paper's alpha, 5, 10 or 15 there.
    """
    if noise < 0:
        raise InputError(f"options.noise: expected at least 0, found {noise}")

    def init(params, key, given):
        _embeddings.check("neftune", port, params)
        return method.init(params, key, given)

    def drawn(key, embedded):
        most = noise / math.sqrt(embedded.shape[-2] * embedded.shape[-1])
        return jax.random.uniform(key, embedded.shape, embedded.dtype, -most, most)

    def intercept(params, extra):
        return _embeddings.noised(method.intercept(params, extra), port, drawn)

    return dataclasses.replace(method, init=init, intercept=intercept)
