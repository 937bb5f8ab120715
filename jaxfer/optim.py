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

SCHEDULES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "constant": jnp.ones_like,
    "linear": lambda t: 1 - t,
    "cosine": lambda t: 0.5 * (1 + jnp.cos(jnp.pi * t)),
}


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


def schedule(name: str, hparams: Hparams, step: jax.Array) -> jax.Array:
    """The factor in [0, 1] on every rate at `step`: linear warm-up over `warmup` steps, then `name` to `total_steps`.

    Our own three lines, since `optax.warmup_cosine_decay_schedule` refuses a traced peak or length. The first step
    already moves (1 / warmup), and the decay reaches 0 only after the last one.
    """
    step, warmup = step.astype(jnp.float32), hparams["warmup"]
    t = jnp.clip((step - warmup) / jnp.maximum(hparams["total_steps"] - warmup, 1.0), 0.0, 1.0)
    return jnp.where(step < warmup, (step + 1) / jnp.maximum(warmup, 1.0), SCHEDULES[name](t))


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
