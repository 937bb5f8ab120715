"""What the methods share that adapt kernels: which ones, one draw for all, the interceptor, and merging."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.method import without
from jaxfer.models.execution import PLAIN
from jaxfer.models.layers import like
from jaxfer.models.passes import Interceptor
from jaxfer.models.port import Port

Parts = Mapping[str, jax.Array]


class Kernel(NamedTuple):
    """The shape of a kernel [*in, *out], and how many leading axes are `in`."""

    shape: tuple[int, ...]
    inputs: int

    @property
    def fan_in(self) -> int:
        return math.prod(self.shape[: self.inputs])

    @property
    def fan_out(self) -> int:
        return math.prod(self.shape[self.inputs :])


def chosen(
    name: str,
    port: Port,
    params: Mapping[str, Any],
    targets: tuple[str, ...],
    unfit: Callable[[nn.Module | None, Kernel], str | None] | None = None,
    option: str = "targets",
) -> dict[str, Kernel]:
    """{site: its kernel} of the layers that a method adapts.

    Args:
      name: of the method.
      port: the model.
      params: of the backbone.
      targets: patterns of kernel paths, each must match; empty: every kernel outside the head and stem.
      unfit: says why the method can't adapt a layer, None if it can; such a layer is left out where nobody named it.
      option: that names the targets.

    Raises:
      InputError: there is nothing to adapt, or a named kernel can't be.
    """
    leaves = {path: leaf for path, leaf in rules.flatten(params).items() if path.endswith("/kernel")}
    inner = [path for path in leaves if not path.startswith((f"{port.head}/", f"{port.units[0]}/"))]
    paths = rules.select(targets, leaves, what=f"{name} target") if targets else frozenset(inner)
    inputs = rules.resolve((), sorted(paths), defaults=port.input_axes, what="input_axes rule")
    kernels = {path.removesuffix("/kernel"): Kernel(leaves[path].shape, inputs[path]) for path in inputs}
    if unfit is not None:
        reasons = {site: unfit(modules(port).get(site), kernel) for site, kernel in kernels.items()}
        reasons = {site: reason for site, reason in reasons.items() if reason is not None}
        if targets and reasons:
            site, reason = next(iter(reasons.items()))
            raise InputError(f"{name}: can't adapt {site}/kernel, {reason}; leave it out of {option!r}")
        kernels = {site: kernel for site, kernel in kernels.items() if site not in reasons}
    if not kernels:
        if unfit is not None and reasons:
            raise InputError(
                f"{name}: the model has no kernel that it can adapt between its stem and its head; use lora"
            )
        raise InputError(f"{name}: the model has no kernel between its stem and its head; name some with {option!r}")
    return kernels


@functools.lru_cache(maxsize=64)
def modules(port: Port) -> Mapping[str, nn.Module]:
    """{path: layer} of all modules that a pass calls, unbound. Not those of other streams' heads, which are dense."""
    port, found = dataclasses.replace(port.whole or port, execution=PLAIN), {}

    def watch(next_fun, args, kwargs, context):
        outputs = next_fun(*args, **kwargs)
        if context.method_name == "__call__":
            found["/".join(context.module.path)] = context.module.clone(parent=None)
        return outputs

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda key, batch: port.init(key, batch), jax.random.key(0), port.example(2))
    return found


def normal(key: jax.Array, rows: Mapping[str, int], columns: int) -> dict[str, jax.Array]:
    """{name: [rows, columns]} of a normal distribution."""
    return drawn(key, rows, columns, jax.random.normal)


def drawn(
    key: jax.Array, rows: Mapping[str, int], columns: int, draw: Callable[..., jax.Array]
) -> dict[str, jax.Array]:
    """{name: [rows, columns]} of `draw(key, shape)`. One draw: XLA takes seconds to compile each."""
    noise, taken, parts = draw(key, (sum(rows.values()), columns)), 0, {}
    for name, count in rows.items():
        parts[name] = noise[taken : taken + count]
        taken += count
    return parts


def parts(tree: Mapping[str, Any]) -> dict[str, dict[str, jax.Array]]:
    """{site: {name: leaf}} of a method's own parameters."""
    sites: dict[str, dict[str, jax.Array]] = {}
    for path, leaf in rules.flatten(tree).items():
        site, name = path.rsplit("/", 1)
        sites.setdefault(site, {})[name] = leaf
    return sites


def adapted(
    tree: Mapping[str, Any],
    change: Callable[[nn.Module, Parts, jax.Array, Callable[[jax.Array], jax.Array]], jax.Array],
) -> Interceptor:
    """An interceptor: the output of each layer with parts is `change(module, parts, x, layer)`, `layer(x)` its own."""
    sites = parts(tree)

    def adapt(next_fun, args, kwargs, context):
        site = "/".join(context.module.path)
        if context.method_name != "__call__" or site not in sites:
            return next_fun(*args, **kwargs)
        return change(context.module, sites[site], args[0], lambda x: next_fun(x, *args[1:], **kwargs))

    return adapt


def low_rank(module: nn.Module, x: jax.Array, a: jax.Array, b: jax.Array, scale: float = 1.0) -> jax.Array:
    """What a layer's output gains where its kernel gains scale * a @ b, a [*in, rank] and b [rank, *out].

    The layer's own operation runs in `rank` channels: a weight view would pay for the gradient of a frozen kernel.
    """
    if hasattr(module, "low_rank"):  # no plain product: groups of channels
        return module.low_rank(x, a, scale * b)
    narrow = module.product(x, a)
    return scale * jnp.tensordot(narrow, like(b, narrow), 1)


def merged(
    params: Mapping[str, Any], name: str, change: Callable[[jax.Array, Parts, str], jax.Array]
) -> dict[str, Any]:
    """The backbone's parameters, where each adapted kernel is `change(kernel, parts, site)`."""
    leaves = rules.flatten(without(name)(params, None))
    for site, part in parts(params[name]).items():
        leaves[f"{site}/kernel"] = change(leaves[f"{site}/kernel"], part, site)
    return rules.unflatten(leaves)
