"""VeRA: one random pair of low-rank matrices for all layers, frozen; each layer learns two vectors that scale it.

Kopiczko et al., 2023, "VeRA: Vector-based Random Matrix Adaptation", arXiv:2310.11454, eq. 2:
h = W x + b * (B (d * (A x))), b starting at zero and d at `initial`. A and B are drawn as He's uniform distribution has
it, for the largest layer; others read their first rows and columns, as peft does. They are kept in the checkpoints.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _kernels
from jaxfer.models.layers import like
from jaxfer.models.port import Port


def method(port: Port, *, rank: int = 256, initial: float = 0.1, targets: tuple[str, ...] = ()) -> Method:
    """Groups: `vera`, `head`.

    Args:
      port: the model.
      rank: channels between A and B.
      initial: of the scales between them.
      targets: patterns of kernel paths to adapt, each must match; empty adapts every kernel outside the head and stem.
    """
    if rank < 1:
        raise InputError(f"vera: expected rank >= 1, found {rank}")
    if initial == 0:
        raise InputError("vera: expected an initial scale other than 0, with which nothing would ever move")

    def init(params, key, given):
        kernels = _kernels.chosen("vera", port, params, targets)
        fan_in, fan_out = (max(getattr(kernel, fan) for kernel in kernels.values()) for fan in ("fan_in", "fan_out"))
        drawn = jax.random.uniform(key, (fan_in + fan_out, rank), minval=-1)
        shared = {"a": drawn[:fan_in] * (6 / fan_in) ** 0.5, "b": drawn[fan_in:].T * (6 / rank) ** 0.5}
        vectors = {
            site: {"b": jnp.zeros(shape[n:]), "d": jnp.full(rank, initial)} for site, (shape, n) in kernels.items()
        }
        return {**params, "vera": rules.unflatten(vectors)}, shared

    def factors(shape, n, extra):
        """(A [*in, rank], B [rank, *out]) of one kernel."""
        kernel = _kernels.Kernel(shape, n)
        a, b = extra["a"][: kernel.fan_in], extra["b"][:, : kernel.fan_out]
        return a.reshape(*shape[:n], rank), b.reshape(rank, *shape[n:])

    def intercept(params, extra):
        leaves = rules.flatten(params)

        def add_low_rank(module, part, x, layer):
            path = "/".join((*module.path, "kernel"))
            a, b = factors(leaves[path].shape, port.summed(path), extra)
            if hasattr(module, "low_rank"):
                return layer(x) + module.low_rank(x, a * part["d"], b * part["b"])
            # Vectors scale activations: the gradient of a whole A or B is never found.
            narrow = module.product(x, a)
            narrow *= like(part["d"], narrow)
            return layer(x) + like(part["b"], narrow) * jnp.tensordot(narrow, like(b, narrow), 1)

        return _kernels.adapted(params["vera"], add_low_rank)

    def merge(params, extra):
        def gained(kernel, part, site):
            a, b = factors(kernel.shape, port.summed(f"{site}/kernel"), extra)
            return kernel + jnp.tensordot(a * part["d"], b * part["b"], 1)

        return _kernels.merged(params, "vera", gained)

    return Method(
        rules=(("vera/.*", "vera"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=without("vera"),
        intercept=intercept,
        merge=merge,
        hparams={"lr": (1e-2, (3e-3, 1e-2, 3e-2))},
    )
