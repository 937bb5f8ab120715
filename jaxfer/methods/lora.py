"""LoRA: each targeted layer's output gains a low-rank product of its input; the backbone stays frozen.

Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, eq. 3:
h = W x + (alpha / rank) B A x, B starts at zero. A runs the layer's own operation in `rank` channels, so convolutions
(of any stride) and attention's per-head kernels need no case of their own. The change applies to activations:
a weight view W + AB would pay for the gradient of every frozen kernel.

`rank_stabilised` (Kalajdzievski, 2023, arXiv:2312.03732): the scale s is alpha / sqrt(rank). Other starts put part of W
into B A, and keep W - s B A frozen, so the start is the same function but for that difference's rounding: `pissa` (Meng
et al., 2024, arXiv:2404.02948) its largest singular vectors, s B A = U S V^T; `olora` (Büyükakyüz, 2024,
arXiv:2406.01775) the first columns of W = Q R, B = Q and A = R as in its code. `b_rate` (Hayou et al., 2024, "LoRA+",
arXiv:2402.12354): B learns faster.

A is drawn from N(0, 1 / fan-in), a Gaussian as in the paper; `a_start=uniform` is what Microsoft's code and peft draw,
U(-1, 1) / sqrt(fan-in). Microsoft's alpha defaults to 1, peft's to 8; here it is twice the rank.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError, nearest
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _kernels
from jaxfer.models.port import Port

A_STARTS = {"normal": jax.random.normal, "uniform": functools.partial(jax.random.uniform, minval=-1.0)}
SCALINGS = {"standard": lambda rank: rank, "rank_stabilised": math.sqrt}


def method(
    port: Port,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    targets: tuple[str, ...] = (),
    scaling: str = "standard",
    start: str = "zero",
    a_start: str = "normal",
    b_rate: float = 1.0,
) -> Method:
    """Groups: `lora`, `head`; with a `b_rate` other than 1 also `lora_b`.

    Args:
      port: the model.
      rank: channels of the adapters.
      alpha: the product is scaled by alpha / rank.
      targets: patterns of kernel paths to adapt, each must match; empty adapts every kernel outside the head and stem.
      scaling: `standard`, or `rank_stabilised`: by alpha / sqrt(rank).
      start: `zero`; `pissa` or `olora` take the adapters from each kernel, which is frozen without them.
      a_start: how A is drawn with start=zero: `normal`, or `uniform` as in peft.
      b_rate: rate of B as a multiple of A's; 16 in LoRA+.
    """
    if rank < 1:
        raise InputError(f"lora: expected rank >= 1, found {rank}")
    if scaling not in SCALINGS:
        raise InputError(f"lora: unknown scaling {scaling!r}{nearest(str(scaling), SCALINGS)}")
    if start != "zero" and start not in STARTS:
        raise InputError(f"lora: unknown start {start!r}{nearest(str(start), ('zero', *STARTS))}")
    if a_start not in A_STARTS:
        raise InputError(f"lora: unknown a_start {a_start!r}{nearest(str(a_start), A_STARTS)}")
    if a_start != "normal" and start != "zero":
        raise InputError(f"lora: start={start!r} takes A from each kernel, and a_start={a_start!r} draws it; omit one")
    if not 0 < b_rate < math.inf:
        raise InputError(f"lora: expected b_rate > 0, found {b_rate}")
    scale = alpha / SCALINGS[scaling](rank)
    if start == "pissa" and not scale > 0:
        raise InputError(f"lora: expected alpha > 0 with start='pissa', found {alpha}")

    def init(params, key, given):
        kernels, adapters = _kernels.chosen("lora", port, params, targets), {}
        if start != "zero":
            return _from_kernels(params, kernels)
        rows = {site: kernel.fan_in for site, kernel in kernels.items()}
        noise = _kernels.drawn(key, rows, rank, A_STARTS[a_start])
        for site, (shape, n) in kernels.items():
            a = noise[site].reshape(*shape[:n], rank) / math.sqrt(kernels[site].fan_in)
            adapters[site] = {"a": a, "b": jnp.zeros((rank, *shape[n:]))}
        return {**params, "lora": rules.unflatten(adapters)}, {}

    def _from_kernels(params, kernels):
        leaves, adapters = rules.flatten(params), {}
        for site, kernel in kernels.items():
            (shape, n), widest = kernel, min(kernel.fan_in, kernel.fan_out)
            if rank > widest:
                raise InputError(
                    f"lora: start={start!r} has no rank {rank} in {site}/kernel, which has {widest} at most"
                )
            a, b = STARTS[start](leaves[f"{site}/kernel"].reshape(kernel.fan_in, kernel.fan_out), rank, scale)
            adapters[site] = {"a": a.reshape(*shape[:n], rank), "b": b.reshape(rank, *shape[n:])}
            leaves[f"{site}/kernel"] -= scale * jnp.tensordot(adapters[site]["a"], adapters[site]["b"], 1)
        return {**rules.unflatten(leaves), "lora": rules.unflatten(adapters)}, {}

    def add_low_rank(module, part, x, layer):
        return layer(x) + _kernels.low_rank(module, x, part["a"], part["b"], scale)

    def gained(kernel, part, site):
        return kernel + scale * jnp.tensordot(part["a"], part["b"], 1)

    apart = (("lora/.*/b", "lora_b"),) if b_rate != 1 else ()
    return Method(
        rules=(*apart, ("lora/.*", "lora"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=without("lora"),
        intercept=lambda params, extra: _kernels.adapted(params["lora"], add_low_rank),
        merge=lambda params, extra: _kernels.merged(params, "lora", gained),
        scales={"lora_b": b_rate} if b_rate != 1 else {},
        factors=dict.fromkeys(("lora", "lora_b") if b_rate != 1 else ("lora",), scale),
        hparams={"lr": (3e-3, (1e-3, 3e-3, 1e-2, 3e-2))},
    )


def _singular(kernel: jax.Array, rank: int, scale: float) -> tuple[jax.Array, jax.Array]:
    """(a [in, rank], b [rank, out]) of a kernel [in, out]: its largest singular vectors, lengths shared evenly."""
    u, s, v = jnp.linalg.svd(kernel, full_matrices=False)
    root = jnp.sqrt(s[:rank] / scale)
    return u[:, :rank] * root, root[:, None] * v[:rank]


def _triangular(kernel: jax.Array, rank: int, scale: float) -> tuple[jax.Array, jax.Array]:
    """The same of W = Q R, W [out, in] being the kernel's transpose."""
    q, r = jnp.linalg.qr(kernel.T)
    return r[:rank].T, q[:, :rank].T


STARTS = {"pissa": _singular, "olora": _triangular}
