"""LoKr: each targeted kernel gains a Kronecker product of two small matrices; the backbone stays frozen.

Yeh et al., 2023, "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
arXiv:2309.14859, section 3.3: W + (alpha / rank) C (x) D, D being B A of this rank where that is smaller. Both
sides are split into the factors nearest to their root, as in peft. C starts at zero, as in peft; in LyCORIS, the
authors' code, D does, or B of it (`zero=second`). The layer's own operation runs D on each part of the channels, and C
mixes the parts: the product is never made.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError, nearest
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _kernels
from jaxfer.models.convolutions import GroupedConv, StandardisedConv
from jaxfer.models.layers import Conv, like
from jaxfer.models.port import Port

ZERO = ("first", "second")


def method(
    port: Port, *, rank: int = 8, alpha: float = 8.0, targets: tuple[str, ...] = (), zero: str = "first"
) -> Method:
    """Groups: `lokr`, `head`.

    Args:
      port: the model.
      rank: of the second matrix, which is whole where half its larger side is no more.
      alpha: the product is scaled by alpha / rank.
      targets: patterns of kernel paths to adapt, each must match; empty adapts every kernel outside the head and stem.
      zero: which of the two matrices starts at zero, `first` or `second`; the other one is drawn.
    """
    if rank < 1:
        raise InputError(f"lokr: expected rank >= 1, found {rank}")
    if zero not in ZERO:
        raise InputError(f"lokr: unknown zero {zero!r}{nearest(str(zero), ZERO)}")
    scale = alpha / rank

    def unfit(module, kernel):
        grouped = isinstance(module, GroupedConv)
        named = "a standardised kernel, which is no sum" if isinstance(module, StandardisedConv) else None
        return "a grouped convolution, whose channels are parted already" if grouped else named

    def split(shape, n, module):
        """(taps of a window, two factors of the input, two of the output)."""
        taps = shape[: n - 1] if isinstance(module, Conv) else ()
        return taps, _factors(math.prod(shape[len(taps) : n])), _factors(math.prod(shape[n:]))

    def init(params, key, given):
        kernels, rows = _kernels.chosen("lokr", port, params, targets, unfit), {}
        splits = {site: split(*kernel, _kernels.modules(port).get(site)) for site, kernel in kernels.items()}
        for site, (taps, (in_1, fan_in), (out_1, fan_out)) in splits.items():
            if zero == "second":
                rows[f"{site}/c"] = in_1 * out_1
            fan = math.prod(taps) * fan_in
            if rank < max(fan_in, fan_out) / 2:
                rows |= {f"{site}/a": fan * rank, f"{site}/b": rank * fan_out}
            else:
                rows[f"{site}/d"] = fan * fan_out
        drawn, adapters = _kernels.normal(key, rows, 1), {}
        for site, (taps, (in_1, in_2), (out_1, out_2)) in splits.items():
            whole = f"{site}/d" in drawn
            if zero == "first":
                adapters[f"{site}/c"] = jnp.zeros((in_1, out_1))
            else:
                adapters[f"{site}/c"] = drawn[f"{site}/c"].reshape(in_1, out_1) / math.sqrt(in_1)
                last = f"{site}/d" if whole else f"{site}/b"
                drawn[last] = jnp.zeros_like(drawn[last])
            root = math.sqrt(math.prod(taps) * in_2)
            if whole:
                adapters[f"{site}/d"] = drawn[f"{site}/d"].reshape(*taps, in_2, out_2) / root
            else:
                adapters[f"{site}/a"] = drawn[f"{site}/a"].reshape(*taps, in_2, rank) / root
                adapters[f"{site}/b"] = drawn[f"{site}/b"].reshape(rank, out_2) / math.sqrt(rank)
        return {**params, "lokr": rules.unflatten(adapters)}, {}

    def second(part):
        return part["d"] if "d" in part else jnp.tensordot(part["a"], part["b"], 1)

    def add_product(module, part, x, layer):
        y, c, d = layer(x), part["c"], second(part)
        parts, width = c.shape[0], d.shape[-2]
        if isinstance(module, Conv):
            apart = jnp.moveaxis(x.reshape(*x.shape[:-1], parts, width), -2, 1).reshape(-1, *x.shape[1:-1], width)
            apart = module.product(apart, d)
            apart = jnp.moveaxis(apart.reshape(len(x), parts, *apart.shape[1:]), 1, -2)
        else:
            lead = x.shape[: x.ndim - module.inputs]
            apart = jnp.tensordot(x.reshape(*lead, parts, width), like(d, x), 1)
        return y + scale * jnp.einsum("...iq,ip->...pq", apart, like(c, apart)).reshape(y.shape)

    def gained(kernel, part, site):
        d = second(part)  # [*taps, in_2, out_2] beside [in_1, out_1]
        product = jnp.einsum("ip,...jq->...ijpq", part["c"], d)
        return kernel + scale * product.reshape(kernel.shape)

    return Method(
        rules=(("lokr/.*", "lokr"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=without("lokr"),
        intercept=lambda params, extra: _kernels.adapted(params["lokr"], add_product),
        merge=lambda params, extra: _kernels.merged(params, "lokr", gained),
        factors={"lokr": scale},
        hparams={"lr": (3e-3, (1e-3, 3e-3, 1e-2))},
    )


def _factors(size: int) -> tuple[int, int]:
    """The two factors nearest to each other, the smaller one first."""
    small = next(factor for factor in range(math.isqrt(size), 0, -1) if size % factor == 0)
    return small, size // small
