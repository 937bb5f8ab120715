"""Adapters: small bottlenecks inside each transformer block are trained; the backbone's kernels stay frozen.

h + up(act(down(h))), `down` to `bottleneck` channels, both drawn near zero, so that the start is near the source model.
`houlsby` (Houlsby et al., 2019, arXiv:1902.00751): after the output layers of attention and MLP, before the residual is
added; the norms are trained too. `pfeiffer` (Pfeiffer et al., 2020, arXiv:2005.00247, section 3.2): one a block, on the
MLP. Where the norm follows the residual (BERT) it reads the normed sum z = norm(h + x), and the block gives
norm(h + x + up(act(down(z)))); in pre-norm blocks it is Houlsby's, after the MLP alone.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError, nearest
from jaxfer.method import FROZEN, Method
from jaxfer.models.layers import like
from jaxfer.models.port import Port

KINDS = {"houlsby": jax.nn.swish, "pfeiffer": jax.nn.relu}
STD = 0.02  # of both kernels, as BERT's own are drawn


def method(port: Port, *, kind: str = "houlsby", bottleneck: int = 48) -> Method:
    """Groups: `adapter`, `head`; `houlsby` also `norm`, the scales and biases of the blocks' norms.

    Args:
      port: the model; its blocks have units `attn` and `mlp`.
      kind: `houlsby` or `pfeiffer`.
      bottleneck: channels between down and up.
    """
    if kind not in KINDS:
        raise InputError(f"adapter: unknown kind {kind!r}{nearest(str(kind), KINDS)}")
    if bottleneck < 1:
        raise InputError(f"adapter: expected bottleneck >= 1, found {bottleneck}")
    act = KINDS[kind]
    after = getattr(getattr(port.module, "options", None), "order", "post") == "post"
    places = {"houlsby": ("attn/out", "mlp/fc2"), "pfeiffer": ("norm_2",) if after else ("mlp/fc2",)}[kind]

    def init(params, key, given):
        leaves = rules.flatten(params)
        blocks = dict.fromkeys(path.split("/")[0] for path in leaves if re.match(r"block_\d+/attn/", path))
        sites = [f"{block}/{place}" for block in blocks for place in places]
        if not sites:
            raise InputError("adapter: the model has no transformer blocks to put adapters into; use lora")
        widths = [
            next(leaf.shape[-1] for path, leaf in leaves.items() if path.startswith(f"{site}/")) for site in sites
        ]
        noise = STD * jax.random.normal(key, (len(sites), 2, max(widths), bottleneck))
        adapters = {
            site: {
                "down": {"kernel": noise[i, 0, :width], "bias": jnp.zeros(bottleneck)},
                "up": {"kernel": noise[i, 1, :width].T, "bias": jnp.zeros(width)},
            }
            for i, (site, width) in enumerate(zip(sites, widths, strict=True))
        }
        return {**params, "adapter": rules.unflatten(rules.flatten(adapters))}, {}

    def view(params, extra):
        return {name: unit for name, unit in params.items() if name != "adapter"}

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
            if site.endswith("norm_2"):
                norm = context.module.clone(parent=None)  # unbound: a module's parameters are read once in a pass
                return norm.apply({"params": context.module.variables["params"]}, args[0] + change(site, outputs))
            return outputs + change(site, outputs)

        return adapt

    norms = ((r"block_\d+/norm_\d/.*", "norm"),) if kind == "houlsby" else ()
    return Method(
        rules=(("adapter/.*", "adapter"), (f"{port.head}/.*", "head"), *norms, (".*", FROZEN)),
        init=init,
        view=view,
        intercept=intercept,
        merge=None,
        hparams={"lr": (1e-3, (3e-4, 1e-3, 3e-3))},
    )
