"""LoRA: each targeted layer's output gains a low-rank product of its input; the backbone stays frozen.

Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, eq. 3:
h = W x + (alpha / rank) B A x, B starts at zero. A runs the layer's own operation in `rank` channels, so convolutions
(of any stride) and attention's per-head kernels need no case of their own. The change applies to activations:
a weight view W + AB would pay for the gradient of every frozen kernel.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method
from jaxfer.models.layers import like
from jaxfer.models.port import Port


def method(port: Port, *, rank: int = 8, alpha: float = 16.0, targets: tuple[str, ...] = ()) -> Method:
    """Groups: `lora`, `head`.

    Args:
      port: the model.
      rank: channels of the adapters.
      alpha: the product is scaled by alpha / rank.
      targets: patterns of kernel paths to adapt, each must match; empty adapts every kernel outside the head and stem.
    """
    if rank < 1:
        raise InputError(f"lora: expected rank >= 1, found {rank}")
    scale = alpha / rank

    def init(params, key, given):
        kernels = {path: leaf for path, leaf in rules.flatten(params).items() if path.endswith("/kernel")}
        inner = [path for path in kernels if not path.startswith((f"{port.head}/", f"{port.units[0]}/"))]
        chosen = rules.select(targets, kernels, what="lora target") if targets else frozenset(inner)
        if not chosen:
            raise InputError("lora: the model has no kernel between its stem and its head; name some with 'targets'")
        inputs = rules.resolve((), sorted(chosen), defaults=port.input_axes, what="input_axes rule")
        fans = {path: math.prod(kernels[path].shape[: inputs[path]]) for path in inputs}
        # One draw for all adapters: XLA takes seconds to compile a normal draw for each.
        noise, taken, adapters = jax.random.normal(key, (sum(fans.values()), rank)), 0, {}
        for path, fan in fans.items():
            shape, n = kernels[path].shape, inputs[path]
            a = noise[taken : taken + fan].reshape(*shape[:n], rank) / math.sqrt(fan)
            adapters[path.removesuffix("/kernel")] = {"a": a, "b": jnp.zeros((rank, *shape[n:]))}
            taken += fan
        return {**params, "lora": rules.unflatten(adapters)}, {}

    def view(params, extra):
        return {name: unit for name, unit in params.items() if name != "lora"}

    def intercept(params, extra):
        leaves = rules.flatten(params["lora"])

        def add_low_rank(next_fun, args, kwargs, context):
            outputs, site = next_fun(*args, **kwargs), "/".join(context.module.path)
            if context.method_name != "__call__" or f"{site}/a" not in leaves:
                return outputs
            if hasattr(context.module, "low_rank"):  # no plain product: groups of channels
                b = scale * leaves[f"{site}/b"]
                return outputs + context.module.low_rank(args[0], leaves[f"{site}/a"], b)
            narrow = context.module.product(args[0], leaves[f"{site}/a"])
            return outputs + scale * jnp.tensordot(narrow, like(leaves[f"{site}/b"], narrow), 1)

        return add_low_rank

    def merge(params, extra):
        leaves, low = rules.flatten(view(params, extra)), rules.flatten(params["lora"])
        for site in {path.rsplit("/", 1)[0] for path in low}:
            leaves[f"{site}/kernel"] += scale * jnp.tensordot(low[f"{site}/a"], low[f"{site}/b"], 1)
        return rules.unflatten(leaves)

    return Method(
        rules=(("lora/.*", "lora"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=view,
        intercept=intercept,
        merge=merge,
        hparams={"lr": (3e-3, (1e-3, 3e-3, 1e-2, 3e-2))},
    )
