"""One optax transform over all groups of trainable leaves, built inside the step from traced hyperparameters.

Every rate, decay, momentum and schedule length is an array in `State.hparams`, so one compiled step serves a whole
sweep. Trainable leaves travel as a flat dict {path: leaf}; frozen leaves never enter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import optax

from jaxfer.optim.optimizers import OPTIMIZERS, Parts
from jaxfer.optim.schedules import Hparams, schedule


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


def _leafwise(change: Callable[[str, jax.Array, jax.Array], jax.Array]) -> optax.GradientTransformation:
    """A stateless transform over {path: leaf} that knows each leaf's path; other groups' leaves are masked out."""

    def update(updates, state, params=None):
        masked = optax.MaskedNode
        return {k: u if isinstance(u, masked) else change(k, u, params[k]) for k, u in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
