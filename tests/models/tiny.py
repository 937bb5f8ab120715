"""Every model at its smallest, for the conformance suite: a model of the room without an entry here fails it."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.models.port import Port

# {case: (model, options)}; one model may have several cases.
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet_basic": (
        "resnet",
        dict(outputs=3, stage_sizes=(1, 2), width=6, stem="cifar", shortcut="padding", image=(9, 7, 3)),
    ),
    "resnet_bottleneck": (
        "resnet",
        dict(outputs=3, stage_sizes=(1, 1), width=4, block="bottleneck", image=(18, 14, 3)),
    ),
    "vit_cls": ("vit", dict(outputs=3, patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3))),
    "vit_mean": (
        "vit",
        dict(outputs=3, patch=3, width=12, layers=2, heads=2, mlp_width=20, pool="mean", image=(6, 9, 3)),
    ),
}

# {batch field: (generator, port, examples) -> [examples, ...]}
FIELDS = {
    "image": lambda rng, port, n: jnp.asarray(rng.normal(size=(n, *port.preprocessing.size)), jnp.float32),
}


def batch(port: Port, examples: int = 4, seed: int = 0) -> dict[str, jax.Array]:
    """A random batch with the port's input fields."""
    rng = np.random.default_rng(seed)
    return {name: FIELDS[name](rng, port, examples) for name in port.inputs}


def draw(port: Port, seed: int = 0) -> tuple[Any, Any]:
    """Random (params, model_state) of the port, none at its neutral initial value; drawn by numpy, because compiling
    an initialiser takes longer than most tests."""
    rng = np.random.default_rng(seed)

    def leaf(path: tuple[Any, ...], like: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, like.shape)
        else:
            value = rng.normal(size=like.shape) * (math.prod(like.shape[:-1]) ** -0.5 if name == "kernel" else 0.2)
        return jnp.asarray(value, like.dtype)

    shapes = jax.eval_shape(port.init, jax.random.key(0), batch(port))
    return jax.tree_util.tree_map_with_path(leaf, shapes)
