"""DoRA: the direction of each kernel is moved by LoRA, and its length, one a channel, is learned apart.

Liu et al., 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv:2402.09353, eq. 5: W' = m V / |V|,
V = W + (alpha / rank) B A, lengths over what an output channel sums, m = |W| at the start. As in section 4.3 no
gradient passes through |V|. It is found without V, by |W|^2 + 2 s <W, B A> + s^2 |B A|^2, whose terms need no more than
the kernel's product with A: layers give b + (m / |V|) (W x + s B A x) from their own outputs.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _kernels
from jaxfer.models.convolutions import StandardisedConv
from jaxfer.models.layers import like
from jaxfer.models.port import Port


def method(port: Port, *, rank: int = 8, alpha: float = 16.0, targets: tuple[str, ...] = ()) -> Method:
    """Groups: `dora`, `head`.

    Args:
      port: the model.
      rank: channels of the adapters.
      alpha: the product is scaled by alpha / rank.
      targets: patterns of kernel paths to adapt, each must match; empty adapts every kernel outside the head and stem.
    """
    if rank < 1:
        raise InputError(f"dora: expected rank >= 1, found {rank}")
    scale = alpha / rank

    def unfit(module, kernel):
        return "a standardised kernel, which has no length" if isinstance(module, StandardisedConv) else None

    def init(params, key, given):
        kernels = _kernels.chosen("dora", port, params, targets, unfit)
        leaves, adapters, squares = rules.flatten(params), {}, {}
        drawn = _kernels.normal(key, {site: kernel.fan_in for site, kernel in kernels.items()}, rank)
        for site, (shape, n) in kernels.items():
            a = drawn[site].reshape(*shape[:n], rank) / math.sqrt(kernels[site].fan_in)
            squares[site] = _once((leaves[f"{site}/kernel"] ** 2).sum(tuple(range(n))))
            adapters[site] = {"a": a, "b": jnp.zeros((rank, *shape[n:])), "magnitude": jnp.sqrt(squares[site])}
        return {**params, "dora": rules.unflatten(adapters)}, {"squares": squares}  # of frozen kernels, found once

    def ratio(kernel, part, squares):
        """magnitude / |V|, [*out]."""
        a, b, n = part["a"], part["b"], part["a"].ndim - 1
        over = (tuple(range(n)), tuple(range(n)))
        crossed = (jnp.tensordot(a, kernel, over) * b).sum(0)
        own = (jnp.tensordot(jnp.tensordot(a, a, over), b, 1) * b).sum(0)
        return part["magnitude"] / jax.lax.stop_gradient(_length(squares + 2 * scale * crossed + scale**2 * own))

    def intercept(params, extra):
        leaves = rules.flatten(params)

        def turn(module, part, x, layer):
            site = "/".join(module.path)
            y = layer(x) + _kernels.low_rank(module, x, part["a"], part["b"], scale)
            of = like(ratio(leaves[f"{site}/kernel"], part, extra["squares"][site]), y)
            bias = leaves.get(f"{site}/bias")
            return of * y if bias is None else of * y + (1 - of) * like(bias, y)

        return _kernels.adapted(params["dora"], turn)

    def turned(kernel, part, site):
        moved = kernel + scale * jnp.tensordot(part["a"], part["b"], 1)
        return moved * (part["magnitude"] / _length((moved**2).sum(tuple(range(part["a"].ndim - 1)))))

    return Method(
        rules=(("dora/.*", "dora"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=without("dora"),
        intercept=intercept,
        merge=lambda params, extra: _kernels.merged(params, "dora", turned),
        factors={"dora": scale},
        hparams={"lr": (3e-3, (1e-3, 3e-3, 1e-2, 3e-2))},
    )


def _length(squares: jax.Array) -> jax.Array:
    """The root; above zero, so that an empty channel stays one. XLA would make m / sqrt(x) m * rsqrt(x), which rounds
    otherwise: the magnitude over the length it was taken from would not be 1."""
    return _once(jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny)))


_once = jax.lax.optimization_barrier  # the value as it is here, rewritten into nothing around it
