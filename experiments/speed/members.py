"""Full fine-tuning and LoRA of small networks: several seeds in one program beside one after the other.

    python experiments/speed/members.py --repeats 15

Five members, each with parameters of its own: ten steps of each by the single training step, ten calls of the vmapped
one, and ten steps of all in one call, which is how `jaxfer.training.blocks` trains them; in turn, in one process. A
ratio above 1 says that it is faster than single steps. Leave the machine idle.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from accelerator import drawn

import jaxfer.config
from jaxfer.step import make_train_step
from jaxfer.training.preflight import preflight

MEMBERS, CALLS = 5, 10
ROWS = Path(__file__).parents[2] / "tests/data/rows"
NUMBERS, CATEGORIES = ("size", "weight"), ("colour", "shape")
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
    "MLP of a table, 64 wide, 32 rows": (
        dict(name="row_mlp", numbers=NUMBERS, categories=CATEGORIES),
        dict(source="csv_rows", path=str(ROWS), numbers=NUMBERS, categories=CATEGORIES),
        32,
    ),
    "MLP of a table, 256 wide, 32 rows": (
        dict(name="row_mlp", numbers=NUMBERS, categories=CATEGORIES, width=256, mlp_width=512),
        dict(source="csv_rows", path=str(ROWS), numbers=NUMBERS, categories=CATEGORIES),
        32,
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
    vmapped: float
    block: float
    vmapped_ratios: list[float]
    block_ratios: list[float]


def measured(step: Any, state: Any, batch: Any, repeats: int) -> Row:
    """All ways in turn."""
    grid = jax.vmap(step, in_axes=(0, None))
    batches = jax.tree.map(lambda values: jnp.stack([values] * CALLS), batch)

    def block(states: Any, batches: Any) -> Any:
        def one(i: Any, carry: Any) -> Any:
            return grid(carry[0], jax.tree.map(lambda values: values[i], batches))

        return jax.lax.fori_loop(1, CALLS, one, grid(states, jax.tree.map(lambda values: values[0], batches)))

    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * MEMBERS), state)
    single, many, blocks = jax.jit(step), jax.jit(grid), jax.jit(block)
    times = [
        (
            seconds(single, state, batch, CALLS * MEMBERS),
            seconds(many, states, batch, CALLS),
            seconds(blocks, states, batches, 1),
        )
        for _ in range(repeats + 1)
    ][1:]  # the first compiles
    middles = [statistics.median(column) * 1e3 / CALLS for column in zip(*times, strict=True)]
    return Row(*middles, sorted(a / b for a, b, _ in times), sorted(a / c for a, _, c in times))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    print(
        f"| model | method | {MEMBERS} singles, ms | vmapped, ms | in one call, ms | singles / vmapped | lowest | "
        "highest | singles / one call | lowest | highest |"
    )
    print("| --- | --- |" + " ---: |" * 9)
    for name, given in MODELS.items():
        for method in ("full", "lora"):
            row = measured(*ready(*given, method), repeats)
            ratios = " | ".join(
                f"{statistics.median(r):.2f} | {r[0]:.2f} | {r[-1]:.2f}" for r in (row.vmapped_ratios, row.block_ratios)
            )
            print(
                f"| {name} | {method} | {row.single:.1f} | {row.vmapped:.1f} | {row.block:.1f} | {ratios} |", flush=True
            )


if __name__ == "__main__":
    main()
