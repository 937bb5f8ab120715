"""LoHa: each targeted kernel gains the Hadamard product of two low-rank matrices; the backbone stays frozen.

Hyeon-Woo et al., 2021, "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning",
arXiv:2108.06098, proposition 1, as an adapter (LyCORIS, arXiv:2309.14859): W + (alpha / rank) (B_1 A_1) o (B_2 A_2).
A Hadamard product of matrices of rank r has rank r^2 at most, and factors known from theirs, so the change runs in r^2
channels of activations, like LoRA's.

As in LyCORIS B_2 starts at zero; the others are normal, of variance 1 / fan-in for A and 1 / rank for B, there 1 and
0.01: `start=lycoris`. peft has A_2 at zero and draws the others uniformly, A from +-1 / sqrt(fan-in) and B from
+-1 / sqrt(rank): `start=peft`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError, nearest
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _kernels
from jaxfer.models.port import Port

PEFT, LYCORIS = STARTS = "peft", "lycoris"


def method(
    port: Port, *, rank: int = 8, alpha: float = 8.0, targets: tuple[str, ...] = (), start: str | None = None
) -> Method:
    """Groups: `loha`, `head`.

    Args:
      port: the model.
      rank: of each of the two matrices.
      alpha: the product is scaled by alpha / rank.
      targets: patterns of kernel paths to adapt, each must match; empty adapts every kernel outside the head and stem.
      start: `peft` or `lycoris` for theirs.
    """
    if rank < 1:
        raise InputError(f"loha: expected rank >= 1, found {rank}")
    if start not in (None, *STARTS):
        raise InputError(
            f"loha: unknown start {start!r}{nearest(start, STARTS)}; omit it, or name {' or '.join(STARTS)}"
        )
    scale = alpha / rank

    def init(params, key, given):
        kernels, adapters = _kernels.chosen("loha", port, params, targets), {}
        if start == PEFT:
            return {**params, "loha": rules.unflatten(_as_peft(key, kernels, rank))}, {}
        rows = {site: 2 * kernel.fan_in + kernel.fan_out for site, kernel in kernels.items()}
        drawn = _kernels.normal(key, rows, rank)
        for site, (shape, n) in kernels.items():
            fan = kernels[site].fan_in
            over_a, over_b = (1, 10) if start == LYCORIS else (math.sqrt(fan), math.sqrt(rank))
            a = drawn[site][: 2 * fan].reshape(2, *shape[:n], rank) / over_a
            b = drawn[site][2 * fan :].T.reshape(rank, *shape[n:]) / over_b
            adapters[site] = {"a_1": a[0], "b_1": b, "a_2": a[1], "b_2": jnp.zeros_like(b)}
        return {**params, "loha": rules.unflatten(adapters)}, {}

    def add_low_rank(module, part, x, layer):
        return layer(x) + _kernels.low_rank(module, x, *_factors(part), scale)

    def gained(kernel, part, site):
        return kernel + scale * jnp.tensordot(*_factors(part), 1)

    return Method(
        rules=(("loha/.*", "loha"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=without("loha"),
        intercept=lambda params, extra: _kernels.adapted(params["loha"], add_low_rank),
        merge=lambda params, extra: _kernels.merged(params, "loha", gained),
        factors={"loha": scale},
        hparams={"lr": (3e-3, (1e-3, 3e-3, 1e-2))},
    )


def _as_peft(key: jax.Array, kernels: Mapping[str, _kernels.Kernel], rank: int) -> dict[str, _kernels.Parts]:
    rows, adapters = {site: kernel.fan_in + 2 * kernel.fan_out for site, kernel in kernels.items()}, {}
    uniform = functools.partial(jax.random.uniform, minval=-1.0)
    drawn = _kernels.drawn(key, rows, rank, uniform)
    for site, (shape, n) in kernels.items():
        fan = kernels[site].fan_in
        a = drawn[site][:fan].reshape(*shape[:n], rank) / math.sqrt(fan)
        b = drawn[site][fan:].T.reshape(rank, 2, *shape[n:]) / math.sqrt(rank)
        adapters[site] = {"a_1": a, "b_1": b[:, 0], "a_2": jnp.zeros_like(a), "b_2": b[:, 1]}
    return adapters


def _factors(part: _kernels.Parts) -> tuple[jax.Array, jax.Array]:
    """(a [*in, r^2], b [r^2, *out]) of the Hadamard product: one channel for each pair of the matrices' own."""
    a = part["a_1"][..., :, None] * part["a_2"][..., None, :]
    b = part["b_1"][:, None] * part["b_2"][None, :]
    return a.reshape(*a.shape[:-2], -1), b.reshape(-1, *b.shape[2:])
