"""StochNorm, an add-on: in training, some channels of a batch norm are normalised by the running statistics.

Kou et al., 2020, "Stochastic Normalization", NeurIPS: each channel of each BatchNorm draws s ~ Bernoulli(p), and with s
= 1 is normalised by the running statistics, as in evaluation, else by those of the batch: (1 - s) (x - mean) /
sqrt(variance + epsilon) + s (x - running mean) / sqrt(running variance + epsilon), then scale and bias. The running
statistics are those before the step; they follow the batch's as ever. TLlib's are already updated by it (`updated`).
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.models.layers import BatchNorm
from jaxfer.models.port import Port


def add(method: Method, port: Port, *, running: float = 0.5, updated: bool = False) -> Method:
    """The method with two branches of statistics.

    Args:
      method: any.
      port: a model with batch norms.
      running: the probability p of the running ones.
      updated: whether these have followed the step's own batch before they are used, as TLlib's have.
    """
    if not 0 <= running <= 1:
        raise InputError(f"options.running: expected 0 to 1, found {running}")

    def init(params, key, given):
        if not port.norms(given.model_state or {}):
            raise InputError("add-on stochnorm draws between statistics of batch norms, the model has none; remove it")
        return method.init(params, key, given)

    def intercept(params, extra):
        inner = method.intercept(params, extra)

        def mixed(next_fun, args, kwargs, context):
            module = context.module
            norm = context.method_name == "__call__" and isinstance(module, BatchNorm | nn.BatchNorm)
            trains = norm and module.has_rng("dropout")
            still = _still(module, args[0]) if trains and not updated else None
            outputs = next_fun(*args, **kwargs) if inner is None else inner(next_fun, args, kwargs, context)
            if not trains:
                return outputs
            if updated:
                still = _still(module, args[0])
            chosen = jax.random.bernoulli(module.make_rng("dropout"), running, outputs.shape[-1:])
            return jnp.where(chosen, still.astype(outputs.dtype), outputs)

        return mixed

    return dataclasses.replace(method, init=init, intercept=intercept)


def _still(module: nn.Module, x: jax.Array) -> jax.Array:
    """What the norm gives in evaluation."""
    mean, var = (jax.lax.stop_gradient(module.get_variable("batch_stats", name)) for name in ("mean", "var"))
    scale, bias = (module.get_variable("params", name, missing) for name, missing in (("scale", 1.0), ("bias", 0.0)))
    return (x - mean) * (jax.lax.rsqrt(var + module.epsilon) * scale) + bias
