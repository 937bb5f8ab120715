"""Full fine-tuning and LoRA of small networks: several seeds in one program beside one after the other.

    python experiments/speed/members.py --repeats 15

Five members, each with parameters of its own, on the same batch: a call of the vmapped training step, and five calls of
the single one, in turn, in one process. A ratio above 1 says that one program is faster. Leave the machine idle.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from accelerator import drawn

import jaxfer.config
from jaxfer.step import make_train_step
from jaxfer.training.preflight import preflight

MEMBERS, CALLS = 5, 10
MODELS = {
    "ResNet of the quickstart, 25 x 8 px": (
        dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(8, 8, 1)),
        dict(source="digits"),
        25,
    ),
    "MobileNetV1 0.25, 16 x 32 px": (
        dict(name="mobilenet_v1", image=(32, 32, 3), depth_multiplier=0.25),
        dict(source="synthetic", image=(32, 32, 3)),
        16,
    ),
    "ViT, 64 wide, 4 blocks, 32 x 16 px": (
        dict(name="vit", width=64, layers=4, heads=4, mlp_width=256, patch=4, image=(16, 16, 3)),
        dict(source="synthetic", image=(16, 16, 3)),
        32,
    ),
}


def ready(model: dict[str, Any], data: dict[str, Any], batch_size: int, method: str) -> tuple[Any, Any, Any]:
    """(training step, State of one member, batch)."""
    config = jaxfer.config.base()
    config.model, config.data = model, data
    config.update(batch_size=batch_size, steps=100, method=method)
    config.parallel.devices = 1
    (stage,) = preflight(config).stages
    batch = {name: jnp.asarray(values) for name, values in drawn(stage.example(), classes=5).items()}
    return make_train_step(stage.spec), jax.tree.map(_some, stage.blank(0)), batch


def _some(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Small values, and ones for what may be a scale or a variance: how fast a step is does not hang on them."""
    if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        return jnp.zeros(shape.shape, shape.dtype)
    return jnp.ones(shape.shape, shape.dtype) if len(shape.shape) < 2 else jnp.full(shape.shape, 0.01, shape.dtype)


def seconds(step: Callable[..., Any], state: Any, batch: Any, calls: int) -> float:
    """Of so many calls."""
    begun = time.perf_counter()
    for _ in range(calls):
        state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    return time.perf_counter() - begun


@dataclasses.dataclass(frozen=True)
class Row:
    """One model under one method: milliseconds for all members, medians, and the paired ratios."""

    single: float
    together: float
    ratios: list[float]


def measured(step: Any, state: Any, batch: Any, repeats: int) -> Row:
    """Both ways in turn."""
    one, many = jax.jit(step), jax.jit(jax.vmap(step, in_axes=(0, None)))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * MEMBERS), state)
    pairs = [
        (seconds(one, state, batch, CALLS * MEMBERS), seconds(many, states, batch, CALLS)) for _ in range(repeats + 1)
    ][1:]  # the first compiles
    single, together = (statistics.median(times) * 1e3 / CALLS for times in zip(*pairs, strict=True))
    return Row(single, together, sorted(a / b for a, b in pairs))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    print(f"| model | method | {MEMBERS} singles, ms | together, ms | singles / together | lowest | highest |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, given in MODELS.items():
        for method in ("full", "lora"):
            row = measured(*ready(*given, method), repeats)
            middle = statistics.median(row.ratios)
            print(
                f"| {name} | {method} | {row.single:.1f} | {row.together:.1f} | {middle:.2f} | "
                f"{row.ratios[0]:.2f} | {row.ratios[-1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
