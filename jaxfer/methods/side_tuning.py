"""Side tuning: a small network beside the frozen one reads the same images; what both give is blended for the head.

Zhang et al., 2019, "Side-Tuning: A Baseline for Network Adaptation via Additive Side Networks", arXiv:1912.13503,
section 3: alpha B(x) + (1 - alpha) S(x), alpha being a learned number. B(x) is what the output layer reads. S is a row
of 3 x 3 convolutions of stride 2 with ReLUs, the mean over its map and a layer to the width of B, drawn at random; or a
copy of B (`start=copy`), which begins as the source model and costs a whole network. The paper also has a small S
begin as a distilled B, which is not offered. Nothing of the frozen network needs a gradient.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods._columns import column
from jaxfer.models import kernels
from jaxfer.models.chain import check_choice
from jaxfer.models.layers import like
from jaxfer.models.passes import FEATURES
from jaxfer.models.port import Port

STARTS = ("fresh", "copy")


def method(port: Port, *, width: int = 64, layers: int = 4, alpha: float = 0.5, start: str = "fresh") -> Method:
    """Groups: `side`, `head`.

    Args:
      port: of a model whose output layer reads one vector of each example, and which reads images unless S is a copy.
      width: channels of each convolution.
      layers: convolutions.
      alpha: the share of the frozen network at the start.
      start: of S: `fresh`, convolutions drawn at random, or `copy`: the network itself, whose norms keep the source's
        running statistics.
    """
    check_choice("options.start", start, STARTS)
    if width < 1 or layers < 1:
        raise InputError(f"side_tuning: expected width >= 1 and layers >= 1, found {width} and {layers}")
    if not 0 < alpha < 1:
        raise InputError(f"side_tuning: expected alpha between 0 and 1, found {alpha}")
    unit = port.head.split("/")[0]

    def init(params, key, given):
        blend = {"bias": jnp.full(1, math.log(alpha / (1 - alpha)))}  # no decay draws it to one half
        if not port.outputs or len(port.features) != 1:
            raise InputError("side_tuning: blends one vector of an example, and the output layer reads none; use lora")
        if start == "copy":
            copied = {
                path: leaf for path, leaf in rules.flatten(params).items() if not path.startswith(f"{port.head}/")
            }
            side = rules.unflatten({**copied, f"{unit}/blend": blend})
            return {**params, "side_tuning": side}, {"norms": given.model_state}
        if port.encoding.column != "image" or len(port.encodings) > 1:
            raise InputError(f"side_tuning: its network reads images, and this model {port.encoding.noun}; use adapter")
        channels, keys = [port.encoding.size[-1], *(width,) * layers], jax.random.split(key, layers + 1)
        side = {"blend": blend}
        for i in range(layers):
            shape = (3, 3, channels[i], width)
            kernel = math.sqrt(2 / (9 * channels[i])) * jax.random.normal(keys[i], shape)
            side[f"conv_{i}"] = {"kernel": kernel, "bias": jnp.zeros(width)}
        kernel = jax.random.normal(keys[-1], (width, *port.features)) / math.sqrt(width)
        side["out"] = {"kernel": kernel, "bias": jnp.zeros(port.features)}
        return {**params, "side_tuning": {unit: side}}, {}

    view = without("side_tuning")

    def intercept(params, extra):
        leaves, given, inside = rules.flatten(params["side_tuning"][unit]), [], []

        def layer(name, x, product):
            kernel, bias = (like(leaves[f"{name}/{leaf}"], x) for leaf in ("kernel", "bias"))
            return product(x, kernel) + bias

        def conv(x, kernel):
            return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=kernels.LAYOUT)

        def side(x):
            for i in range(layers):
                x = jax.nn.relu(layer(f"conv_{i}", x, conv))
            return layer("out", x.mean((1, 2)), jnp.matmul)

        def copy(module, args, kwargs):
            own = {path: x for path, x in rules.flatten(params["side_tuning"]).items() if path != f"{unit}/blend/bias"}
            whole = rules.unflatten({**rules.flatten(view(params, extra)), **own})
            variables = {"params": whole, **extra["norms"]}
            return column("side_tuning", module, variables, (args, kwargs), (FEATURES,), port.head)[FEATURES]

        def blend(next_fun, args, kwargs, context):
            site = "/".join(context.module.path)
            if inside or context.method_name != "__call__" or site and site != port.head:
                return next_fun(*args, **kwargs)
            if not site:  # the whole chain
                inside.append(True)
                try:
                    given[:] = [copy(context.module, args, kwargs) if start == "copy" else side(args[0])]
                finally:
                    inside.clear()
                return next_fun(*args, **kwargs)
            share = like(jax.nn.sigmoid(leaves["blend/bias"]), args[0])
            return next_fun(share * args[0] + (1 - share) * like(given[0], args[0]), *args[1:], **kwargs)

        return blend

    return Method(
        rules=(("side_tuning/.*", "side"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=view,
        intercept=intercept,
        merge=None,
        hparams={"lr": (1e-3, (3e-4, 1e-3, 3e-3))},
    )
