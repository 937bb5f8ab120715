"""Mixout, an add-on: in training, random weights are put back to their start.

Lee et al., 2020, "Mixout: Effective Regularization to Finetune Large-scale Pretrained Language Models",
arXiv:1909.11299: each weight is that of the start with probability p, else w0 + (w - w0) / (1 - p), so that its mean is
w (their eq. for mixout(w0, p), rearranged). It acts on the backbone's trained kernels, as in the authors' code, which
leaves out biases, norms, embeddings and the new output layer; dropout stays as it is (there it is 0 beside mixout).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method
from jaxfer.methods._based import based
from jaxfer.models.port import Port
from jaxfer.rules import flatten, resolve, unflatten


def add(method: Method, port: Port, *, probability: float = 0.7) -> Method:
    """The method with mixed weights. `probability`: that a weight is the start's, 0.7 to 0.9 in the paper."""
    if not 0 <= probability < 1:
        raise InputError(f"options.probability: expected at least 0 and less than 1, found {probability}")
    inner = based(method)

    def init(params, key, given):
        own = flatten(params)
        params, base = method.init(params, key, given)
        groups = resolve((), flatten(params), defaults=method.rules)
        kernels = [path for path in own if port.summed(path) and not path.startswith(f"{port.head}/")]
        start = {path: own[path] for path in kernels if groups.get(path, FROZEN) != FROZEN}
        if not start:
            raise InputError(
                "add-on mixout mixes trained kernels with those of the start, the method trains none; remove it from "
                "adds"
            )
        return params, {"base": base, "start": start}

    def noisy_view(params, extra, key):
        leaves, start = flatten(params), extra["start"]
        for i, path in enumerate(sorted(start)):
            kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - probability, start[path].shape)
            moved = (leaves[path] - start[path]) / (1 - probability)
            leaves[path] = start[path] + jnp.where(kept, moved, jnp.zeros_like(moved))
        mixed = unflatten(leaves)
        if inner.noisy_view is None:
            return inner.view(mixed, extra)
        return inner.noisy_view(mixed, extra, jax.random.fold_in(key, len(start)))

    return dataclasses.replace(inner, init=init, noisy_view=noisy_view)
