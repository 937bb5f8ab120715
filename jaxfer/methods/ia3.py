"""(IA)^3: learned scales, one a channel, on what layers give or read; the backbone stays frozen.

Liu et al., 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
arXiv:2205.05638, section 3.3: l_k * keys, l_v * values, and l_ff * act(W_1 x), which is what the MLP's second layer
reads (after the gate, where there is one). All begin at one. A model without attention is scaled at the outputs of
every layer of its blocks, which is ours. Kernels and biases take the scales up.
"""

from __future__ import annotations

import re

import jax.numpy as jnp

from jaxfer import rules
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _kernels
from jaxfer.models.convolutions import GroupedConv, StandardisedConv
from jaxfer.models.layers import Conv, like
from jaxfer.models.port import Port

KEYS_AND_VALUES, SECOND = r".*/(attn|cross)/(key|value)/kernel", r".*/mlp/fc2/kernel"


def method(port: Port, *, outputs: tuple[str, ...] = (), inputs: tuple[str, ...] = ()) -> Method:
    """Groups: `ia3`, `head`.

    Args:
      port: the model.
      outputs: patterns of kernel paths whose layer's outputs are scaled, each must match.
      inputs: of those whose inputs are scaled. Where both are empty: keys and values, and the MLP's second layer; in a
        model without attention the outputs of every kernel outside the head and stem.
    """

    def unfit_outputs(module, kernel):
        return "a standardised kernel, which takes up no scale" if isinstance(module, StandardisedConv) else None

    def unfit_inputs(module, kernel):
        grouped = isinstance(module, GroupedConv)
        return "a grouped convolution, whose inputs are not scaled" if grouped else unfit_outputs(module, kernel)

    def init(params, key, given):
        gives, reads, scales = outputs, inputs, {}
        if not (gives or reads):
            kernels = [path for path in rules.flatten(params) if path.endswith("/kernel")]
            if any(re.fullmatch(KEYS_AND_VALUES, path) for path in kernels):
                gives = (KEYS_AND_VALUES,)
                reads = tuple({SECOND for path in kernels if re.fullmatch(SECOND, path)})
        if gives or not reads:
            for site, (shape, n) in _kernels.chosen("ia3", port, params, gives, unfit_outputs, "outputs").items():
                scales[f"{site}/outputs"] = jnp.ones(shape[n:])
        if reads:
            for site, (shape, n) in _kernels.chosen("ia3", port, params, reads, unfit_inputs, "inputs").items():
                window = isinstance(_kernels.modules(port).get(site), Conv)
                scales[f"{site}/inputs"] = jnp.ones(shape[n - 1 : n] if window else shape[:n])
        return {**params, "ia3": rules.unflatten(scales)}, {}

    view = without("ia3")

    def rescale(module, part, x, layer):
        y = layer(x * like(part["inputs"], x) if "inputs" in part else x)
        return y * like(part["outputs"], y) if "outputs" in part else y

    def merge(params, extra):
        leaves = rules.flatten(view(params, extra))
        for site, part in _kernels.parts(params["ia3"]).items():
            kernel, bias = f"{site}/kernel", f"{site}/bias"
            if (scale := part.get("inputs")) is not None:
                leaves[kernel] *= scale.reshape(*scale.shape, *(1,) * (leaves[kernel].ndim - port.summed(kernel)))
            if (scale := part.get("outputs")) is not None:
                leaves[kernel] *= scale
                if bias in leaves:
                    leaves[bias] *= scale
        return rules.unflatten(leaves)

    return Method(
        rules=(("ia3/.*", "ia3"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=view,
        intercept=lambda params, extra: _kernels.adapted(params["ia3"], rescale),
        merge=merge,
        hparams={"lr": (3e-3, (1e-3, 3e-3, 1e-2))},
    )
