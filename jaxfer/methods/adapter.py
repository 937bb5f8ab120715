"""Adapters: small bottlenecks inside each transformer block are trained; the backbone's kernels stay frozen.

up(act(down(h))) is added at places that depend on the kind; its width, `act` and start are the kind's own or as the
options say. Two follow a layer, and both their kernels are drawn near zero, so that the start is near the source model.

`houlsby` (Houlsby et al., 2019, arXiv:1902.00751): h + up(gelu(down(h))) of the outputs of attention and of the MLP,
before the residual is added; of a decoder's attention to its memory too. The norms are trained with it. d / 16
channels of a model of width d; kernels N(0, 0.01), cut at two standard deviations (section 3.6). The library
`adapters` has swish and N(0, 0.02) there: `activation=swish`, `start=bert`.

`pfeiffer` (Pfeiffer et al., 2020, arXiv:2005.00247, section 3.2): one a block, on the MLP. Where the norm follows the
residual (BERT) it reads the normed sum z = norm(h + x), and the block gives norm(h + x + up(relu(down(z)))); in other
blocks it is Houlsby's, after the MLP alone. d / 16 channels; kernels N(0, 0.02), as in the authors' library.

Two lie beside the MLP, MLP(x) + scale * up(relu(down(x))), and `up` starts at zero: the start is the source model.

`parallel` (He et al., 2021, arXiv:2110.04366, table 1, "scaled PA"), of scale 4 and d / 2 channels.

`adaptformer` (Chen et al., 2022, arXiv:2205.13535, section 3.2, AdaptMLP): s * relu(LN(x) W_down) W_up + MLP(LN(x)) +
x, of scale s = 0.1 and 64 channels. So the branch reads the normed tokens, as the MLP does. The reference code's reads
x itself (`before_norm`), and drops 0.1 of the channels behind its ReLU (`dropout=0.1`).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError, nearest
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods._blocks import blocks
from jaxfer.models.chain import check_rate
from jaxfer.models.layers import like
from jaxfer.models.port import Port

ACTIVATIONS = {"gelu": functools.partial(jax.nn.gelu, approximate=False), "relu": jax.nn.relu, "swish": jax.nn.swish}


def _truncated(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return 0.01 * jax.random.truncated_normal(key, -2.0, 2.0, shape)


def _bert(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return 0.02 * jax.random.normal(key, shape)


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0)


# Of both kernels; after `lora` that of `down` is scaled as torch's Linear is, and `up` is zero.
STARTS = {"truncated": _truncated, "bert": _bert, "lora": _uniform}


@dataclasses.dataclass(frozen=True)
class Kind:
    """One of the papers' adapters.

    Attributes:
      activation: a key of `ACTIVATIONS`.
      start: a key of `STARTS`.
      reduction: width of the model over that of the bottleneck; 0: `channels` whatever the model.
      channels: likewise.
      scale: of an adapter beside the MLP; 0: behind a layer.
    """

    activation: str
    start: str
    reduction: int = 0
    channels: int = 0
    scale: float = 0.0


KINDS = {
    "houlsby": Kind("gelu", "truncated", reduction=16),
    "pfeiffer": Kind("relu", "bert", reduction=16),
    "parallel": Kind("relu", "lora", reduction=2, scale=4.0),
    "adaptformer": Kind("relu", "lora", channels=64, scale=0.1),
}


def method(
    port: Port,
    *,
    kind: str = "houlsby",
    bottleneck: int = 0,
    scale: float | None = None,
    activation: str = "",
    start: str = "",
    before_norm: bool | None = None,
    dropout: float = 0.0,
) -> Method:
    """Groups: `adapter`, `head`; `houlsby` also `norm`, the scales and biases of the blocks' norms.

    Args:
      port: the model; its blocks have parts `attn` and `mlp`.
      kind: `houlsby`, `pfeiffer`, `parallel` or `adaptformer`.
      bottleneck: channels between down and up; 0: the kind's own.
      scale: of what an adapter beside the MLP adds; None: the paper's.
      activation: `gelu`, `relu` or `swish`; empty: the kind's own.
      start: of the kernels: `truncated`, N(0, 0.01) cut at two standard deviations; `bert`, N(0, 0.02); `lora`, `down`
        as torch draws a Linear and `up` at zero, which is the source model; empty: the kind's own.
      before_norm: whether an adapter beside the MLP reads the tokens before its block's norm, as AdaptFormer's code
        does; of blocks whose norms come first.
      dropout: share of the bottleneck's activations that a training pass drops.
    """
    if kind not in KINDS:
        raise InputError(f"adapter: unknown kind {kind!r}{nearest(str(kind), KINDS)}")
    if bottleneck < 0:
        raise InputError(f"adapter: expected bottleneck >= 0, found {bottleneck}; 0 is the kind's own")
    check_rate(dropout=dropout)
    own, beside = KINDS[kind], KINDS[kind].scale
    for name, value, known in (("activation", activation, ACTIVATIONS), ("start", start, STARTS)):
        if value and value not in known:
            raise InputError(f"adapter: unknown {name} {value!r}{nearest(str(value), known)}")
    act, begin = ACTIVATIONS[activation or own.activation], start or own.start
    if scale is not None and not beside:
        raise InputError(f"adapter: kind={kind!r} has no scale, found {scale}; omit it")
    factor = beside if scale is None else scale
    if before_norm and (not beside or port.order != "pre"):
        found = f"kind={kind!r}" if not beside else f"blocks with norms of order {port.order!r}"
        raise InputError(f"adapter: before_norm is of adapters beside an MLP behind its norm, found {found}; omit it")

    def channels(width):
        return bottleneck or own.channels or max(1, width // own.reduction)

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
        widest = max(sites.values())
        noise, adapters = STARTS[begin](key, (len(sites), 2, widest, channels(widest))), {}
        for i, (site, width) in enumerate(sites.items()):
            narrow = channels(width)
            down, up = noise[i, 0, :width, :narrow], noise[i, 1, :width, :narrow].T
            if begin == "lora":
                down, up = down / math.sqrt(width), jnp.zeros_like(up)
            down, up = {"kernel": down, "bias": jnp.zeros(narrow)}, {"kernel": up, "bias": jnp.zeros(width)}
            adapters[site] = {"down": down, "up": up}
        return {**params, "adapter": rules.unflatten(rules.flatten(adapters))}, {}

    view = without("adapter")

    def intercept(params, extra):
        leaves, tokens = rules.flatten(params["adapter"]), {}

        def dense(site, h):
            kernel, bias = (like(leaves[f"{site}/{name}"], h) for name in ("kernel", "bias"))
            return h @ kernel + bias

        def change(site, h, module):
            h = act(dense(f"{site}/down", h))
            if dropout and module.has_rng("dropout"):  # a training pass
                kept = jax.random.bernoulli(module.make_rng("dropout"), 1 - dropout, h.shape)
                h = jnp.where(kept, h / (1 - dropout), 0)
            return dense(f"{site}/up", h)

        def adapt(next_fun, args, kwargs, context):
            site = "/".join(context.module.path)
            outputs = next_fun(*args, **kwargs)
            if before_norm and site.endswith("/norm_2"):  # of the same block, and called before its MLP
                tokens[site.removesuffix("norm_2") + "mlp"] = args[0]
            if context.method_name != "__call__" or f"{site}/up/bias" not in leaves:
                return outputs
            module = context.module
            if beside:
                return outputs + factor * change(site, tokens.pop(site) if before_norm else args[0], module)
            if site.endswith("norm_2"):
                norm = module.clone(parent=None)  # unbound: a module's parameters are read once in a pass
                total = args[0] + change(site, outputs, module)
                return norm.apply(module.variables, total, **kwargs, mutable=["batch_stats"])[0]
            return outputs + change(site, outputs, module)

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
