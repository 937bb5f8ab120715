"""A learned scale and shift behind layers of a model, which these can take up: what `ssf` and `film` share."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxfer import rules
from jaxfer.models.convolutions import StandardisedConv
from jaxfer.models.execution import NORMS, PLAIN
from jaxfer.models.layers import Conv, Dense, Depthwise, like
from jaxfer.models.passes import Interceptor
from jaxfer.models.port import Port
from jaxfer.models.transformer import OffsetRMSNorm


class Layer(NamedTuple):
    """A layer whose outputs scale with one of its parameters, channel by channel.

    Attributes:
      leaf: that parameter's name, `kernel`, `window` or a norm's `scale`; its last axes are the channels.
      shape: of the channels.
      biased: whether it has a bias, which a shift can join.
      offset: what is added to the parameter before it is used.
    """

    leaf: str
    shape: tuple[int, ...]
    biased: bool
    offset: float


@functools.lru_cache(maxsize=64)
def layers(port: Port) -> Mapping[str, Layer]:
    """{path: layer} of all layers below the output layer, in the order of their calls.

    Left out are a kernel that is standardised, which takes up no scale, and a layer that lends its parameters: those
    units read them without it.
    """
    port, found = dataclasses.replace(port, execution=PLAIN), {}
    shared = getattr(port.module, "shared", dict)
    lent = {"/".join(path[:-1]) for reads in shared().values() for path in reads.values()}

    def watch(next_fun, args, kwargs, context):
        outputs, module, path = next_fun(*args, **kwargs), context.module, "/".join(context.module.path)
        outside = path not in lent and not f"{path}/".startswith(f"{port.head}/")
        if context.method_name == "__call__" and outside and (layer := _layer(module)) is not None:
            found[path] = layer
        return outputs

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda key, batch: port.init(key, batch), jax.random.key(0), port.example(2))
    return found


def _layer(module: nn.Module) -> Layer | None:
    parameters = module.variables.get("params", {})
    if isinstance(module, NORMS):
        leaf, axes = "scale", 0
    elif isinstance(module, Dense):
        leaf, axes = "kernel", module.inputs
    elif isinstance(module, Conv | nn.Conv | nn.Dense) and not isinstance(module, StandardisedConv):
        leaf, axes = "kernel", -1
    elif isinstance(module, Depthwise):
        leaf, axes = "window", -1
    else:
        return None
    if leaf not in parameters:  # a norm without a scale
        return None
    offset = 1.0 if isinstance(module, OffsetRMSNorm) else 0.0
    return Layer(leaf, parameters[leaf].shape[axes:], "bias" in parameters, offset)


def drawn(sites: Mapping[str, Layer], key: jax.Array, std: float) -> dict[str, Any]:
    """Scales around 1 and shifts around 0, of this standard deviation; a layer without a bias has no shift."""
    sizes = {path: math.prod(layer.shape) for path, layer in sites.items()}
    noise, taken, leaves = std * jax.random.normal(key, (2, sum(sizes.values()))), 0, {}
    for path, layer in sites.items():
        scale, bias = noise[:, taken : taken + sizes[path]].reshape(2, *layer.shape)
        taken += sizes[path]
        leaves[f"{path}/scale"] = 1 + scale
        if layer.biased:
            leaves[f"{path}/bias"] = bias
    return rules.unflatten(leaves)


def modulated(tree: Mapping[str, Any]) -> Interceptor:
    """Interceptor that scales and shifts what these layers give."""
    leaves = rules.flatten(tree)

    def modulate(next_fun, args, kwargs, context):
        outputs, site = next_fun(*args, **kwargs), "/".join(context.module.path)
        if context.method_name != "__call__" or f"{site}/scale" not in leaves:
            return outputs
        outputs = outputs * like(leaves[f"{site}/scale"], outputs)
        return outputs + like(leaves[f"{site}/bias"], outputs) if f"{site}/bias" in leaves else outputs

    return modulate


def merged(params: Mapping[str, Any], tree: Mapping[str, Any], sites: Mapping[str, Layer]) -> dict[str, Any]:
    """The parameters of a plain model with the same outputs."""
    leaves, learned = rules.flatten(params), rules.flatten(tree)
    for site, layer in sites.items():
        scale, path = learned[f"{site}/scale"], f"{site}/{layer.leaf}"
        leaves[path] = (leaves[path] + layer.offset) * scale - layer.offset
        if layer.biased:
            leaves[f"{site}/bias"] = leaves[f"{site}/bias"] * scale + learned[f"{site}/bias"]
    return rules.unflatten(leaves)
