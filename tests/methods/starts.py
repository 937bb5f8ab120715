"""How far methods that don't begin at the source model begin from it: prints the table of docs/methods.md.

JAX_PLATFORMS=cpu python -m tests.methods.starts
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxfer.conformance import tiny
from jaxfer.method import NOTHING
from jaxfer.registry import METHODS

MIDDLE = dict(width=64, layers=2, heads=4, mlp_width=256)
IMAGES, TEXTS = "vit_cls", "bert_pooler"
CHANGES = {IMAGES: {**MIDDLE, "image": (32, 32, 3), "patch": 8}, TEXTS: {**MIDDLE, "max_length": 16, "positions": 40}}
EXAMPLES, SEEDS = 16, range(5)
# {name in the table: (method, options, model)}
STARTS = {
    "adapter, houlsby": ("adapter", {}, IMAGES),
    "adapter, pfeiffer": ("adapter", {"kind": "pfeiffer"}, IMAGES),
    "ssf": ("ssf", {}, IMAGES),
    "vpt": ("vpt", {}, IMAGES),
    "prompt_tuning": ("prompt_tuning", {}, TEXTS),
    "prefix_tuning": ("prefix_tuning", {}, IMAGES),
    "side_tuning": ("side_tuning", {}, IMAGES),
}


@functools.cache
def _compiled(name: str):
    """(the port, a function of params, model_state, batch and key -> logits adapted and plain)"""
    chosen, options, model = STARTS[name]
    port = tiny.make(model, **CHANGES[model])
    method = METHODS.make(chosen, port, **options)

    @jax.jit
    def both(params, model_state, batch, key):
        full, extra = method.init(params, key, NOTHING)
        seen, intercept = method.view(full, extra), method.intercept(full, extra)
        plain = port.apply(params, model_state, batch)[0]
        return port.apply(seen, model_state, batch, intercept=intercept)[0], plain

    return port, both


def change(name: str, seed: int) -> float:
    """|logits at step 0 - those of the source model| / |the latter|, of a batch, under the defaults of the method."""
    port, both = _compiled(name)
    adapted, plain = both(*tiny.draw(port, seed), tiny.batch(port, EXAMPLES, seed), jax.random.key(seed))
    return float(jnp.linalg.norm(adapted - plain) / jnp.linalg.norm(plain))


if __name__ == "__main__":
    for name in STARTS:
        found = [change(name, seed) for seed in SEEDS]
        print(f"| `{name}` | {sum(found) / len(found):.2g} | {min(found):.2g} to {max(found):.2g} |")
