"""Leaf: how one trainable parameter is updated; and transforms that know each leaf's path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import optax

from jaxfer.optim.schedules import Hparams


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """How one trainable parameter is updated.

    Attributes:
      group: the method's group; its peak rate is `hparams['lr/GROUP']`.
      depth: its distance from the head (`Port.depth`); the rate is multiplied by `layer_decay ** depth`.
      lr_scale: multiplier of its rate.
      decay_scale: multiplier of weight decay (0 for biases and norms).
      inputs: leading axes that it sums over, if it is a kernel (`Port.summed`); else 0.
      hidden: whether it is a kernel between the first unit and the head.
    """

    group: str
    depth: int = 0
    lr_scale: float = 1.0
    decay_scale: float = 1.0
    inputs: int = 0
    hidden: bool = False

    def relative(self, hparams: Hparams) -> jax.Array:
        """Its rate as a multiple of its group's."""
        return hparams["layer_decay"] ** self.depth * self.lr_scale

    def rate(self, hparams: Hparams) -> jax.Array:
        """Its peak learning rate: `relative` times the group's, in the order that keeps the bits of old runs."""
        return hparams[f"lr/{self.group}"] * hparams["layer_decay"] ** self.depth * self.lr_scale


def leafwise(change: Callable[[str, jax.Array, jax.Array], jax.Array]) -> optax.GradientTransformation:
    """A stateless transform over {path: leaf}: (path, update, parameter) -> update. Other groups' leaves are masked."""

    def update(updates, state, params=None):
        masked = optax.MaskedNode
        return {k: u if isinstance(u, masked) else change(k, u, params[k]) for k, u in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
