"""__NAME__: a learned scale on the outputs of each layer, and a new head; the backbone stays frozen.

A method is pure functions, and each has a default: delete what yours does not need. Training and evaluation share
`view` and `intercept`. The docstring of `jaxfer.method.Method` describes every field.
"""

import jax.numpy as jnp

from jaxfer import rules
from jaxfer.method import FROZEN, Method


def method(port, *, targets: tuple[str, ...] = (r".*block_.*/kernel",)):
    """Groups: `scale`, `head`. Keyword arguments are options: `--config.options.targets=block_0/.*/kernel`."""

    def init(params, key, given):  # adds leaves: ones for the output axes of each target
        kernels = rules.flatten(params)
        chosen = sorted(rules.select(targets, kernels, what="__NAME__ target"))
        inputs = rules.resolve((), chosen, defaults=port.input_axes)
        scales = {
            path.removesuffix("kernel") + "scale": jnp.ones(kernels[path].shape[inputs[path] :]) for path in chosen
        }
        return {**params, "__NAME__": rules.unflatten(scales)}, {}

    def view(params, extra):  # the parameters that the backbone itself sees
        return {name: unit for name, unit in params.items() if name != "__NAME__"}

    def intercept(params, extra):  # changes activations, in training and evaluation alike
        scales = rules.flatten(params["__NAME__"])

        def rescale(next_fun, args, kwargs, context):
            outputs, path = next_fun(*args, **kwargs), "/".join(context.module.path) + "/scale"
            return outputs * scales[path] if context.method_name == "__call__" and path in scales else outputs

        return rescale

    def merge(params, extra):  # plain backbone parameters with the same outputs, for the next stage and for export
        leaves = rules.flatten(view(params, extra))
        for path, scale in rules.flatten(params["__NAME__"]).items():
            for leaf in ("kernel", "bias"):
                if (name := path.removesuffix("scale") + leaf) in leaves:
                    leaves[name] *= scale
        return rules.unflatten(leaves)

    return Method(
        rules=(("__NAME__/.*", "scale"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=view,
        intercept=intercept,
        merge=merge,
        hparams={"lr": (1e-2, (3e-3, 1e-2, 3e-2))},  # (default, grid that `jaxfer compare` tunes over)
    )
