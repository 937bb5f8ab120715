"""Schedules: what becomes of every rate, as a function of traced hyperparameters and the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Hparams = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """What becomes of every rate after the warm-up.

    Attributes:
      factor: (share of the steps after the warm-up that are done, hparams, step) -> factor in [0, 1]; an option is
        `hparams['schedule/NAME']`.
      options: {name: (default, least, most)}.
      rises: whether it begins with a rise of its own, so that no warm-up goes before it.
      endless: whether it is the same however many steps there are.
      watches: whether it follows the loss: `hparams['falls']` says how often the rates fell so far.
    """

    factor: Callable[[jax.Array, Hparams, jax.Array], jax.Array]
    options: Mapping[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)
    rises: bool = False
    endless: bool = False
    watches: bool = False


def _cosine(t: jax.Array) -> jax.Array:
    """From 1 to 0."""
    return 0.5 * (1 + jnp.cos(jnp.pi * t))


def _inverse_sqrt(t: jax.Array, hparams: Hparams, step: jax.Array) -> jax.Array:
    warm = jnp.maximum(hparams["warmup"], 1.0)
    return jnp.sqrt(warm / jnp.maximum(step + 1, warm))


def _one_cycle(t: jax.Array, hparams: Hparams, step: jax.Array) -> jax.Array:
    rise, first = hparams["schedule/rise"], 1 / hparams["schedule/start"]
    last = first / hparams["schedule/end"]
    up = first + (1 - first) * (1 - _cosine(t / rise))
    return jnp.where(t < rise, up, last + (1 - last) * _cosine((t - rise) / (1 - rise)))


def _slanted(t: jax.Array, hparams: Hparams, step: jax.Array) -> jax.Array:
    rise, ratio = hparams["schedule/rise"], hparams["schedule/ratio"]
    part = jnp.where(t < rise, t / rise, 1 - (t - rise) / (1 - rise))
    return (1 + part * (ratio - 1)) / ratio


_LARGE = 1e6
_PART = (1e-3, 0.999)  # bounds of a share of the steps
SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(factor=lambda t, hparams, step: jnp.ones_like(t), endless=True),
    "linear": Schedule(factor=lambda t, hparams, step: 1 - t),
    "cosine": Schedule(factor=lambda t, hparams, step: _cosine(t)),
    # As transformers has it, whose `lr_end` is `min_lr`.
    "polynomial": Schedule(
        factor=lambda t, hparams, step: (1 - t) ** hparams["schedule/power"], options={"power": (2.0, 0.1, 100.0)}
    ),
    # (1 + alpha * t) ** -beta: Ganin et al., 2016, arXiv:1505.07818, section 5.2. TLlib's falls by steps: alpha is a
    # thousandth of these there.
    "annealed": Schedule(
        factor=lambda t, hparams, step: (1 + hparams["schedule/alpha"] * t) ** -hparams["schedule/beta"],
        options={"alpha": (10.0, 0.0, _LARGE), "beta": (0.75, 0.0, 100.0)},
    ),
    # Vaswani et al., 2017, arXiv:1706.03762, eq. 3, at most 1.
    "inverse_sqrt": Schedule(factor=_inverse_sqrt, endless=True),
    # Warm-up, stable, decay (arXiv:2404.06395): the last `tail` of the steps falls linearly.
    "wsd": Schedule(
        factor=lambda t, hparams, step: jnp.minimum((1 - t) / hparams["schedule/tail"], 1.0),
        options={"tail": (0.2, *_PART)},
    ),
    # Equal parts, each at `drop` times the rate of the one before.
    "step": Schedule(
        factor=lambda t, hparams, step: hparams["schedule/drop"] ** jnp.floor(t * hparams["schedule/parts"] + 1e-4),
        options={"parts": (3.0, 1.0, _LARGE), "drop": (0.1, 0.0, 1.0)},
    ),
    # The rates fall to `drop` of what they are after `patience` windows of so many steps in a row whose mean training
    # loss is not below the lowest of an earlier one by a ten-thousandth (`optax.contrib.reduce_on_plateau`).
    "plateau": Schedule(
        factor=lambda t, hparams, step: hparams["schedule/drop"] ** hparams["falls"],
        options={"drop": (0.1, 1e-3, 0.999), "patience": (5.0, 1.0, _LARGE), "window": (20.0, 1.0, _LARGE)},
        endless=True,
        watches=True,
    ),
    # Warm restarts (Loshchilov & Hutter, 2016, arXiv:1608.03983), cycles of one length.
    "restarts": Schedule(
        factor=lambda t, hparams, step: _cosine((t * hparams["schedule/cycles"] + 1e-6) % 1.0),
        options={"cycles": (4.0, 1.0, _LARGE)},
    ),
    # Smith & Topin, 2017, arXiv:1708.07120, in PyTorch's cosine form: from 1/start up to 1, down to 1/(start * end).
    "one_cycle": Schedule(
        factor=_one_cycle,
        options={"rise": (0.3, *_PART), "start": (25.0, 1.0, _LARGE), "end": (1e4, 1.0, _LARGE)},
        rises=True,
    ),
    # ULMFiT (Howard & Ruder, 2018, arXiv:1801.06146), eq. 3.
    "slanted_triangular": Schedule(
        factor=_slanted, options={"rise": (0.1, *_PART), "ratio": (32.0, 1.0, _LARGE)}, rises=True
    ),
}


def schedule(name: str, hparams: Hparams, step: jax.Array, falls: jax.Array | float = 0.0) -> jax.Array:
    """The factor in [0, 1] on every rate at `step`: linear warm-up over `warmup` steps, then `name` to `total_steps`.

    Our own few lines, since `optax.warmup_cosine_decay_schedule` refuses a traced peak or length. The first step
    already moves (1 / warmup), and a decay ends only after the last step. What a schedule calls 0 is `min_lr`. `falls`
    is for a schedule that follows the loss.
    """
    hparams = {**hparams, "falls": jnp.float32(falls)}
    step, warmup, least = step.astype(jnp.float32), hparams["warmup"], hparams["min_lr"]
    t = jnp.clip((step - warmup) / jnp.maximum(hparams["total_steps"] - warmup, 1.0), 0.0, 1.0)
    factor = least + (1 - least) * SCHEDULES[name].factor(t, hparams, step)
    return jnp.where(step < warmup, (step + 1) / jnp.maximum(warmup, 1.0), factor)
