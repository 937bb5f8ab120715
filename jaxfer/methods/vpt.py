"""VPT: learned tokens beside the patches of an image are all that a frozen vision transformer is given to adapt.

Jia et al., 2022, "Visual Prompt Tuning", arXiv:2203.12119, section 3.2. They stand between the class token, or whatever
special tokens there are, and the patches, and have no positions. Deep: every block reads tokens of its own, and what it
makes of them is dropped. Shallow: those of the first block pass through all. They are uniform on +-v at the start, v =
sqrt(6 / (values of a patch + width)): not the source model. Behind the last block they are taken out, so that a head
that takes a mean or reads a map has the patches alone; the paper's reads the class token. The reference code has 5 of
them unless told. As there, nothing is dropped at random in the blocks while they are trained.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax

from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _prompts
from jaxfer.models.port import Port
from jaxfer.rules import flatten


def method(port: Port, *, deep: bool = True, tokens: int = 10) -> Method:
    """Groups: `vpt`, `head`.

    Args:
      port: a transformer that reads images.
      deep: whether every block has tokens of its own, or the first alone.
      tokens: of a block; 1 to 200 in the paper.
    """
    if tokens < 1:
        raise InputError(f"vpt: expected tokens >= 1, found {tokens}")

    def init(params, key, given):
        if port.encoding.column != "image":
            raise InputError(f"vpt: its tokens are of images, and this model reads {port.encoding.noun}; use lora")
        units, width = _prompts.hosts(port, "vpt")
        patch = next(leaf for path, leaf in flatten(params).items() if path.endswith("stem/patch/kernel"))
        most = math.sqrt(6 / (math.prod(patch.shape[:-1]) + width))
        units = units if deep else units[:1]
        drawn = jax.random.uniform(key, (len(units), tokens, width), minval=-most, maxval=most)
        return {**params, "vpt": {unit: {"prompts": drawn[i]} for i, unit in enumerate(units)}}, {}

    view = without("vpt")

    def intercept(params, extra):
        (units, _), leading = _prompts.hosts(port, "vpt"), port.module.leading
        before = dict(zip(port.units[1:], port.units, strict=False))
        places = {unit: (leading(before[unit]), leading(unit)) for unit in units}
        prompts = {unit: leaves["prompts"] for unit, leaves in params["vpt"].items()}
        prompted = _prompts.among(prompts, places, units if deep else units[-1:])

        def adapt(next_fun, args, kwargs, context):
            if isinstance(context.module, nn.Dropout) and context.module.path[0] in units:
                kwargs = {**kwargs, "deterministic": True}
            return prompted(next_fun, args, kwargs, context)

        return adapt

    return Method(
        rules=(("vpt/.*", "vpt"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=view,
        intercept=intercept,
        merge=None,
        hparams={"lr": (1e-2, (3e-3, 1e-2, 3e-2))},
    )
