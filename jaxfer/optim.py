"""One optax transform over all groups of trainable leaves, built inside the step from traced hyperparameters.

Every rate, decay, momentum and schedule length is an array in `State.hparams`, so one compiled step serves a whole
sweep. Trainable leaves travel as a flat dict {path: leaf}; frozen leaves never enter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

Hparams = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """How one trainable parameter is updated.

    Attributes:
      group: the method's group; its peak rate is `hparams['lr/GROUP']`.
      depth: its distance from the head (`Port.depth`); the rate is multiplied by `layer_decay ** depth`.
      lr_scale: multiplier of its rate.
      decay_scale: multiplier of weight decay (0 for biases and norms).
    """

    group: str
    depth: int = 0
    lr_scale: float = 1.0
    decay_scale: float = 1.0

    def rate(self, hparams: Hparams) -> jax.Array:
        """A group's peak learning rate."""
        return hparams[f"lr/{self.group}"] * hparams["layer_decay"] ** self.depth * self.lr_scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """What becomes of every rate after the warm-up.

    Attributes:
      factor: (share of the steps after the warm-up that are done, hparams, step) -> factor in [0, 1]; an option is
        `hparams['schedule/NAME']`.
      options: {name: (default, least, most)}.
      rises: whether it begins with a rise of its own, so that no warm-up goes before it.
      endless: whether it is the same however many steps there are.
    """

    factor: Callable[[jax.Array, Hparams, jax.Array], jax.Array]
    options: Mapping[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)
    rises: bool = False
    endless: bool = False


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


def schedule(name: str, hparams: Hparams, step: jax.Array) -> jax.Array:
    """The factor in [0, 1] on every rate at `step`: linear warm-up over `warmup` steps, then `name` to `total_steps`.

    Our own few lines, since `optax.warmup_cosine_decay_schedule` refuses a traced peak or length. The first step
    already moves (1 / warmup), and a decay ends only after the last step. What a schedule calls 0 is `min_lr`.
    """
    step, warmup, least = step.astype(jnp.float32), hparams["warmup"], hparams["min_lr"]
    t = jnp.clip((step - warmup) / jnp.maximum(hparams["total_steps"] - warmup, 1.0), 0.0, 1.0)
    factor = least + (1 - least) * SCHEDULES[name].factor(t, hparams, step)
    return jnp.where(step < warmup, (step + 1) / jnp.maximum(warmup, 1.0), factor)


def make_tx(
    leaves: Mapping[str, Leaf],
    hparams: Hparams,
    step: jax.Array,
    *,
    optimizer: str,
    schedule_name: str,
    momentum_dtype: str = "float32",
) -> optax.GradientTransformation:
    """One global clip over the trainable gradients, then each group's own optimizer.

    The clip is outside the partition but sees only trainable leaves, since frozen ones are never differentiated.
    `momentum_dtype` is the type in which the first moment is kept between steps, not computed; the second stays
    float32: with b2 = 0.999 its update per step is below bfloat16's resolution.
    """
    factor = schedule(schedule_name, hparams, step)
    chain = OPTIMIZERS[optimizer](
        Parts(
            momentum=hparams["momentum"],
            b2=hparams["b2"],
            dtype=momentum_dtype,
            decay=_leafwise(lambda path, u, p: u + hparams["weight_decay"] * leaves[path].decay_scale * p),
            rate=_leafwise(lambda path, u, p: -factor * leaves[path].rate(hparams) * u),
        )
    )
    groups = {path: leaf.group for path, leaf in leaves.items()}
    return optax.chain(
        optax.clip_by_global_norm(hparams["clip"]),
        optax.partition(dict.fromkeys(sorted(set(groups.values())), chain), lambda tree: {k: groups[k] for k in tree}),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What an optimizer is made of.

    Attributes:
      momentum: [] decay of the first moment, b1 of Adam.
      b2: [] decay of the second.
      dtype: in which the first moment is kept.
      decay: adds each leaf's weight decay to its update: before the moments it is the gradient of an L2 penalty, after
        them it is decoupled.
      rate: multiplies each leaf's update by its rate now, and by -1.
    """

    momentum: jax.Array
    b2: jax.Array
    dtype: str
    decay: optax.GradientTransformation
    rate: optax.GradientTransformation

    def adam(self) -> optax.GradientTransformation:
        """Adam's moments (Kingma & Ba, 2014, arXiv:1412.6980)."""
        return optax.scale_by_adam(b1=self.momentum, b2=self.b2, mu_dtype=self.dtype)

    def trace(self, *, nesterov: bool = False) -> optax.GradientTransformation:
        """Momentum: the sum of updates, each earlier one less by `momentum`."""
        return optax.trace(decay=self.momentum, nesterov=nesterov, accumulator_dtype=self.dtype)


def _adamw(parts: Parts) -> optax.GradientTransformation:
    """Decoupled decay (Loshchilov & Hutter, 2017, arXiv:1711.05101)."""
    return optax.chain(parts.adam(), parts.decay, parts.rate)


def _adam(parts: Parts) -> optax.GradientTransformation:
    """Decay as an L2 penalty, which the second moment divides too."""
    return optax.chain(parts.decay, parts.adam(), parts.rate)


def _sgd(parts: Parts) -> optax.GradientTransformation:
    """Momentum of gradients and L2 penalty."""
    return optax.chain(parts.decay, parts.trace(), parts.rate)


def _nesterov(parts: Parts) -> optax.GradientTransformation:
    """SGD whose step looks one momentum ahead (Sutskever et al., 2013)."""
    return optax.chain(parts.decay, parts.trace(nesterov=True), parts.rate)


def _lion(parts: Parts) -> optax.GradientTransformation:
    """Signs of an interpolated moment; rates 3 to 10 times below AdamW's (Chen et al., 2023, arXiv:2302.06675)."""
    moments = optax.scale_by_lion(b1=parts.momentum, b2=parts.b2, mu_dtype=parts.dtype)
    return optax.chain(moments, parts.decay, parts.rate)


def _lamb(parts: Parts) -> optax.GradientTransformation:
    """AdamW, each leaf's update as long as the leaf (You et al., 2019, arXiv:1904.00962)."""
    return optax.chain(parts.adam(), parts.decay, optax.scale_by_trust_ratio(), parts.rate)


def _lars(parts: Parts) -> optax.GradientTransformation:
    """SGD, each leaf's gradient 0.001 times as long as the leaf; the momentum is of steps (arXiv:1708.03888)."""
    ratio = optax.scale_by_trust_ratio(trust_coefficient=0.001)
    return optax.chain(parts.decay, ratio, parts.rate, parts.trace())


def _adafactor(parts: Parts) -> optax.GradientTransformation:
    """Second moments as a row and a column, no first; RMS of a leaf's update at most 1 (arXiv:1804.04235).

    The rate is the config's, not relative to the leaf. `momentum` and `b2` are not read.
    """
    return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), parts.decay, parts.rate)


def _rmsprop(parts: Parts) -> optax.GradientTransformation:
    """PyTorch's form: no correction of the second moment, epsilon beside its root, then momentum."""
    moments = optax.scale_by_rms(decay=parts.b2, eps_in_sqrt=False)
    return optax.chain(parts.decay, moments, parts.trace(), parts.rate)


OPTIMIZERS: dict[str, Callable[[Parts], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "nesterov": _nesterov,
    "lion": _lion,
    "lamb": _lamb,
    "lars": _lars,
    "adafactor": _adafactor,
    "rmsprop": _rmsprop,
}


def _leafwise(change: Callable[[str, jax.Array, jax.Array], jax.Array]) -> optax.GradientTransformation:
    """A stateless transform over {path: leaf} that knows each leaf's path; other groups' leaves are masked out."""

    def update(updates, state, params=None):
        masked = optax.MaskedNode
        return {k: u if isinstance(u, masked) else change(k, u, params[k]) for k, u in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
