"""OFT: what each targeted layer reads is turned by a learned rotation; the backbone stays frozen.

Qiu et al., 2023, "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", arXiv:2306.07280, section 3 and 4:
y = W (x R) + b, R made of blocks on its diagonal, each R = (I - Q) (I + Q)^-1 of a skew Q that starts at zero (Cayley,
exactly). Angles between a layer's neurons stay what they are. Convolutions turn their channels alike at every
place, which is ours: the reference turns whole windows. At the start R is the identity to the last bit; the products
of what it turned may be summed in another order by an optimising compiler (ViT on a CPU: logits of 2 differ by 5e-7).

With `neumann` terms, R = I + 2 Q + 2 Q^2 + ... + Q^(terms - 1): no linear system is solved. This is the default of
peft, in 5 terms (`use_cayley_neumann`). Its R is near (I + Q) (I - Q)^-1, which turns the other way, and is orthogonal
only for small Q: with entries of 0.3 it is off by 0.4.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _kernels
from jaxfer.models.convolutions import StandardisedConv
from jaxfer.models.layers import Conv, like
from jaxfer.models.port import Port


def method(port: Port, *, block: int = 32, neumann: int = 0, targets: tuple[str, ...] = ()) -> Method:
    """Groups: `oft`, `head`.

    Args:
      port: the model.
      block: channels that turn together; the largest divisor of a layer's own channels that is no more.
      neumann: terms of the series, 4 at least; 0: the exact solution.
      targets: patterns of kernel paths to adapt, each must match; empty adapts every kernel outside the head and stem.
    """
    if block < 2:
        raise InputError(f"oft: expected block >= 2, found {block}")
    if neumann != 0 and neumann < 4:
        raise InputError(f"oft: expected neumann >= 4, or 0 for the exact solution, found {neumann}")

    def parted(module, kernel):
        """(blocks, channels in each)."""
        width = kernel.shape[kernel.inputs - 1] if isinstance(module, Conv) else kernel.fan_in
        size = next(size for size in range(min(block, width), 0, -1) if width % size == 0)
        return width // size, size

    def unfit(module, kernel):
        if isinstance(module, StandardisedConv):
            return "a standardised kernel, whose channels are not turned"
        _, size = parted(module, kernel)
        return f"whose channels have no divisor from 2 to {block}" if size == 1 else None

    def init(params, key, given):
        kernels, adapters = _kernels.chosen("oft", port, params, targets, unfit), {}
        for site, kernel in kernels.items():
            blocks, size = parted(_kernels.modules(port).get(site), kernel)
            adapters[f"{site}/q"] = jnp.zeros((blocks, size * (size - 1) // 2))
        return {**params, "oft": rules.unflatten(adapters)}, {}

    def turn(module, part, x, layer):
        r, axes = _rotations(part["q"], neumann), 1 if isinstance(module, Conv) else module.inputs
        apart = x.reshape(*x.shape[: x.ndim - axes], -1, *r.shape[:2])  # each group of channels likewise
        return layer(jnp.einsum("...ki,kij->...kj", apart, like(r, x)).reshape(x.shape))

    def turned(kernel, part, site):
        r, n = _rotations(part["q"], neumann), port.summed(f"{site}/kernel")
        taps = kernel.shape[: n - 1] if isinstance(_kernels.modules(port).get(site), Conv) else ()
        rows = kernel.reshape(*taps, *r.shape[:2], -1)
        return jnp.einsum("kij,...kjo->...kio", r, rows).reshape(kernel.shape)

    return Method(
        rules=(("oft/.*", "oft"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=without("oft"),
        intercept=lambda params, extra: _kernels.adapted(params["oft"], turn),
        merge=lambda params, extra: _kernels.merged(params, "oft", turned),
        hparams={"lr": (1e-3, (3e-4, 1e-3, 3e-3))},
    )


def _rotations(q: jax.Array, terms: int) -> jax.Array:
    """[blocks, size, size] of what is above the diagonals of Q, row by row: [blocks, size (size - 1) / 2]."""
    size = (1 + math.isqrt(1 + 8 * q.shape[-1])) // 2
    upper = jnp.zeros((len(q), size, size)).at[:, *np.triu_indices(size, 1)].set(q.astype(jnp.float32))
    skew, one = upper - upper.swapaxes(1, 2), jnp.eye(size)
    if not terms:
        return 2 * _inverse(one + skew) - one  # (I - Q) (I + Q)^-1, since I - Q = 2 I - (I + Q)
    power, turn = skew, one + 2 * skew
    for _ in range(terms - 3):
        power = power @ skew
        turn = turn + 2 * power
    return turn + power @ skew


@jax.custom_jvp
def _inverse(a: jax.Array) -> jax.Array:
    """The inverses of matrices [n, size, size] whose symmetric part is I, by Gauss and Jordan.

    No pivots are sought: every one is at least 1. `jnp.linalg.solve` would be LAPACK's on a CPU, where some of jaxlib's
    releases (0.10.2) wait for ever once several batches of it run at a time.
    """

    def eliminated(k, a):
        row = a[:, k].at[:, k].set(1.0) / a[:, k, k, None]
        column = a[:, :, k].at[:, k].set(0.0)
        rest = a.at[:, :, k].set(0.0) - column[:, :, None] * row[:, None]
        return rest.at[:, k].set(row)

    return jax.lax.fori_loop(0, a.shape[-1], eliminated, a)


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    x = _inverse(*primals)
    return x, -x @ tangents[0] @ x
