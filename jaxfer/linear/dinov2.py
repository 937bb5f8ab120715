"""DINOv2's linear evaluation: many linear layers trained by SGD on the same features, in one program.

Oquab et al., 2023, arXiv:2304.07193, app. B.3: rates x last blocks x with or without the mean of the patches, with the
rates of their code (facebookresearch/dinov2, eval/linear.py). Their layers see augmented images; here features are
computed once, of images as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.linear.problem import Problem, Solution

# Of batches of 256; of others in proportion.
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
EPOCHS = 10
MOMENTUM = 0.9
DEVIATION = 0.01  # of first weights
CHUNK = 100  # steps of a call
MEAN = "mean"  # the part of the features that is no block's class token

Layer = tuple[jax.Array, jax.Array]  # kernel [inputs, rates, outputs] and bias [rates, outputs]


def choices(parts: Sequence[str], width: int) -> list[tuple[dict[str, Any], slice]]:
    """(what is tried, columns of the features) of each choice of inputs that the features hold.

    Args:
      parts: names of equal parts, those of blocks in their order, then that of the mean; none: there is one choice.
      width: of the features.
    """
    if not parts:
        return [({}, slice(0, width))]
    size, held = width // len(parts), sum(part != MEAN for part in parts)
    return [
        ({"blocks": blocks, "pool": pool}, slice((held - blocks) * size, (held + pool) * size))
        for blocks in dict.fromkeys((1, held))
        for pool in (False, True)[: 1 + (MEAN in parts)]
    ]


def count(parts: Sequence[str], *, epochs: int = EPOCHS) -> int:
    """How many layers features of these parts get."""
    return len(RATES) * len(choices(parts, len(parts)))


def solve(problem: Problem, *, epochs: int = EPOCHS) -> Iterator[Solution | None]:
    """Every rate of every choice of inputs, the lowest rate first; None after each call of up to `CHUNK` steps.

    SGD with momentum and no weight decay; the rate falls to zero along a cosine. The same batches serve all layers.
    """
    tried, columns = zip(*choices(problem.parts, problem.x.shape[1]), strict=True)
    steps = -(-epochs * len(problem.x) // problem.batch_size)
    chunk, rates = min(CHUNK, steps), np.asarray(RATES) * problem.batch_size / 256
    layers = [
        (DEVIATION * jax.random.normal(key, (part.stop - part.start, *shape)), jnp.zeros(shape))
        for shape in [(len(RATES), problem.outputs)]
        for key, part in zip(jax.random.split(problem.key, len(columns)), columns, strict=True)
    ]
    velocity = jax.tree.map(jnp.zeros_like, layers)
    x, labels = jnp.asarray(problem.x, jnp.float32), jnp.asarray(problem.labels)
    how = {"loss": problem.loss, "columns": tuple((part.start, part.stop) for part in columns)}
    for first in range(0, steps, chunk):
        done = np.arange(first, first + chunk) / steps
        factors = np.where(done < 1, (1 + np.cos(np.pi * done)) / 2, 0)  # past the end nothing moves
        rows, scaled = problem.batches(first, chunk).astype(np.int32), np.outer(factors, rates).astype(np.float32)
        layers, velocity = _trained(layers, velocity, x, labels, dict(problem.hparams), rows, scaled, **how)
        jax.block_until_ready(layers)
        yield None
    for words, part, (kernel, bias) in zip(tried, columns, jax.device_get(layers), strict=True):
        for i, rate in enumerate(RATES):
            yield Solution({"rate": rate, **words}, kernel[:, i], bias[i], part)


@functools.partial(jax.jit, static_argnames=("loss", "columns"), donate_argnames=("layers", "velocity"))
def _trained(
    layers: list[Layer],
    velocity: list[Layer],
    x: jax.Array,
    labels: jax.Array,
    hparams: Mapping[str, float],
    rows: jax.Array,
    rates: jax.Array,
    *,
    loss: Callable[..., jax.Array],
    columns: tuple[tuple[int, int], ...],
) -> tuple[list[Layer], list[Layer]]:
    """(layers, velocity) after steps on these rows [steps, batch] at these rates [steps, rates].

    The layers of one choice of inputs are one product. No layer's loss depends on another, so that the gradient of
    their sum is each one's own.
    """

    def objective(layers: list[Layer], x: jax.Array, labels: jax.Array) -> jax.Array:
        total = jnp.zeros(())
        for (start, stop), (kernel, bias) in zip(columns, layers, strict=True):
            outputs = jnp.einsum("bi,iro->bro", x[:, start:stop], kernel) + bias
            total += jax.vmap(loss, (1, None, None))(outputs, labels, hparams).sum()
        return total

    def step(carry: Any, now: Any) -> Any:
        (layers, velocity), (rows, rates) = carry, now
        gradient = jax.grad(objective)(layers, x[rows], labels[rows])
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
        return (jax.tree.map(lambda w, v: w - rates[:, None] * v, layers, velocity), velocity), None

    return jax.lax.scan(step, (layers, velocity), (rows, rates))[0]
