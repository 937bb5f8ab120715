"""Adapters: small bottlenecks inside each transformer block are trained; the backbone's kernels stay frozen.

up(act(down(h))), `down` to `bottleneck` channels, is added at places that depend on the kind. Two follow a layer, and
both their kernels are drawn near zero, so that the start is near the source model.

`houlsby` (Houlsby et al., 2019, arXiv:1902.00751): h + up(swish(down(h))) of the outputs of attention and of the MLP,
before the residual is added; of a decoder's attention to its memory too. The norms are trained with it.

`pfeiffer` (Pfeiffer et al., 2020, arXiv:2005.00247, section 3.2): one a block, on the MLP. Where the norm follows the
residual (BERT) it reads the normed sum z = norm(h + x), and the block gives norm(h + x + up(relu(down(z)))); in other
blocks it is Houlsby's, after the MLP alone.

Two lie beside the MLP, MLP(x) + scale * up(relu(down(x))), and `up` starts at zero: the start is the source model.

`parallel` (He et al., 2021, arXiv:2110.04366), of scale 4.

`adaptformer` (Chen et al., 2022, arXiv:2205.13535), of scale 0.1. The paper's branch reads the normed tokens, as the
MLP does; the reference code reads them before the norm, and has dropout behind its ReLU.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError, nearest
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods._blocks import blocks
from jaxfer.models.layers import like
from jaxfer.models.port import Port

STD = 0.02  # of both kernels of an adapter behind a layer, as BERT's own are drawn


@dataclasses.dataclass(frozen=True)
class Kind:
    """`scale` of an adapter beside the MLP; 0: behind a layer."""

    act: Callable[[jax.Array], jax.Array]
    scale: float = 0.0


KINDS = {
    "houlsby": Kind(jax.nn.swish),
    "pfeiffer": Kind(jax.nn.relu),
    "parallel": Kind(jax.nn.relu, scale=4.0),
    "adaptformer": Kind(jax.nn.relu, scale=0.1),
}


def method(port: Port, *, kind: str = "houlsby", bottleneck: int = 48, scale: float | None = None) -> Method:
    """Groups: `adapter`, `head`; `houlsby` also `norm`, the scales and biases of the blocks' norms.

    Args:
      port: the model; its blocks have parts `attn` and `mlp`.
      kind: `houlsby`, `pfeiffer`, `parallel` or `adaptformer`.
      bottleneck: channels between down and up.
      scale: of what an adapter beside the MLP adds; None: the paper's.
    """
    if kind not in KINDS:
        raise InputError(f"adapter: unknown kind {kind!r}{nearest(str(kind), KINDS)}")
    if bottleneck < 1:
        raise InputError(f"adapter: expected bottleneck >= 1, found {bottleneck}")
    act, beside = KINDS[kind].act, KINDS[kind].scale
    if scale is not None and not beside:
        raise InputError(f"adapter: kind={kind!r} has no scale, found {scale}; omit it")
    factor = beside if scale is None else scale

    def places(paths):
        if beside:
            return ("mlp",)
        if kind == "houlsby":
            crossed = any(path.endswith("/cross/out/kernel") for path in paths)
            return ("attn/out", *(("cross/out",) if crossed else ()), "mlp/fc2")
        if port.order is None:
            raise InputError("adapter: the model doesn't say where its norms are; give its options an `order`")
        return ("norm_2",) if port.order == "post" else ("mlp/fc2",)

    def init(params, key, given):
        leaves = rules.flatten(params)
        found = blocks(leaves)
        if not found:
            raise InputError("adapter: the model has no transformer blocks to put adapters into; use lora")
        sites = {
            f"{block}/{place}": leaves[f"{block}/mlp/fc2/kernel"].shape[-1]
            for block in found
            for place in places([path for path in leaves if path.startswith(f"{block}/")])
        }
        shape = (len(sites), 2, max(sites.values()), bottleneck)
        noise = jax.random.uniform(key, shape, minval=-1.0) if beside else STD * jax.random.normal(key, shape)
        adapters = {}
        for i, (site, width) in enumerate(sites.items()):
            down, up = noise[i, 0, :width], noise[i, 1, :width].T
            if beside:  # both references draw `down` as torch's Linear is, and start `up` at zero
                down, up = down / math.sqrt(width), jnp.zeros_like(up)
            down, up = {"kernel": down, "bias": jnp.zeros(bottleneck)}, {"kernel": up, "bias": jnp.zeros(width)}
            adapters[site] = {"down": down, "up": up}
        return {**params, "adapter": rules.unflatten(rules.flatten(adapters))}, {}

    view = without("adapter")

    def intercept(params, extra):
        leaves = rules.flatten(params["adapter"])

        def dense(site, h):
            kernel, bias = (like(leaves[f"{site}/{name}"], h) for name in ("kernel", "bias"))
            return h @ kernel + bias

        def change(site, h):
            return dense(f"{site}/up", act(dense(f"{site}/down", h)))

        def adapt(next_fun, args, kwargs, context):
            site = "/".join(context.module.path)
            outputs = next_fun(*args, **kwargs)
            if context.method_name != "__call__" or f"{site}/up/bias" not in leaves:
                return outputs
            if beside:
                return outputs + factor * change(site, args[0])
            if site.endswith("norm_2"):
                norm = context.module.clone(parent=None)  # unbound: a module's parameters are read once in a pass
                total = args[0] + change(site, outputs)
                return norm.apply(context.module.variables, total, **kwargs, mutable=["batch_stats"])[0]
            return outputs + change(site, outputs)

        return adapt

    norms = ((r"(.*/)?(\w+_)?block(_\d+)?/(norm|post)_\w+/.*", "norm"),) if kind == "houlsby" else ()
    return Method(
        rules=(("adapter/.*", "adapter"), (f"{port.head}/.*", "head"), *norms, (".*", FROZEN)),
        init=init,
        view=view,
        intercept=intercept,
        merge=None,
        hparams={"lr": (1e-3, (3e-4, 1e-3, 3e-3))},
    )
