"""One optax transform over all groups of trainable leaves, built inside the step from traced hyperparameters.

Every rate, decay, momentum and schedule length is an array in `State.hparams`, so one compiled step serves a whole
sweep. Trainable leaves travel as a flat dict {path: leaf}; frozen leaves never enter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import optax

from jaxfer.optim.clipping import CLIPS
from jaxfer.optim.leaves import Leaf, leafwise
from jaxfer.optim.optimizers import OPTIMIZERS, Parts
from jaxfer.optim.schedules import SCHEDULES, Hparams, schedule

__all__ = ("Leaf", "make_tx", "of_groups")

HALF = 0.5  # optax checks the factor of a plateau, so it has to be a constant: its power says how often it fell


def make_tx(
    leaves: Mapping[str, Leaf],
    hparams: Hparams,
    step: jax.Array,
    *,
    optimizer: str,
    schedule_name: str,
    clip: str = "norm",
    momentum_dtype: str = "float32",
) -> optax.GradientTransformationExtraArgs:
    """One clip over the trainable gradients, then each group's own optimizer; `update` takes the step's loss, `value`.

    The clip is outside the partition but sees only trainable leaves, since frozen ones are never differentiated.
    `momentum_dtype` is the type in which the first moment is kept between steps, not computed; the second stays
    float32: with b2 = 0.999 its update per step is below bfloat16's resolution.
    """
    groups = {path: leaf.group for path, leaf in leaves.items()}

    def made(factor: jax.Array) -> optax.GradientTransformationExtraArgs:
        def chain(group: str) -> optax.GradientTransformation:
            return OPTIMIZERS[optimizer](
                Parts(
                    momentum=hparams["momentum"],
                    b2=hparams["b2"],
                    dtype=momentum_dtype,
                    decay=leafwise(lambda path, u, p: u + hparams["weight_decay"] * leaves[path].decay_scale * p),
                    rate=leafwise(lambda path, u, p: -factor * leaves[path].rate(hparams) * u),
                    group_rate=factor * hparams[f"lr/{group}"],
                    relative=leafwise(lambda path, u, p: leaves[path].relative(hparams) * u),
                    hidden={path: leaf.inputs for path, leaf in leaves.items() if leaf.hidden},
                )
            )

        chains = {group: chain(group) for group in sorted(set(groups.values()))}
        tx = optax.chain(
            CLIPS[clip](leaves, hparams["clip"]), optax.partition(chains, lambda tree: {k: groups[k] for k in tree})
        )
        return optax.with_extra_args_support(tx)

    if SCHEDULES[schedule_name].watches:
        return _on_plateau(made, hparams, step, schedule_name)
    return made(schedule(schedule_name, hparams, step))


def of_groups(groups: Collection[str], state: Any, before: Any, *, watched: bool) -> Any:
    """The optimizer's state where these groups alone took the step.

    Args:
      groups: these.
      state: after the step of all.
      before: before it.
      watched: whether the step's loss counts for a plateau.
    """

    def chosen(now: Any, then: Any) -> Any:
        if not isinstance(now, optax.transforms.PartitionState):
            return now if watched else then
        return now._replace(
            inner_states={name: (now if name in groups else then).inner_states[name] for name in now.inner_states}
        )

    return jax.tree.map(chosen, state, before, is_leaf=lambda x: isinstance(x, optax.transforms.PartitionState))


def _on_plateau(
    made: Callable[[jax.Array], optax.GradientTransformationExtraArgs], hparams: Hparams, step: jax.Array, name: str
) -> optax.GradientTransformationExtraArgs:
    """The optimizer at rates that fall whenever the training loss has not for long; how often is in its state."""
    watch = optax.contrib.reduce_on_plateau(
        factor=HALF, patience=hparams["schedule/patience"], accumulation_size=hparams["schedule/window"]
    )

    def init(params):
        return watch.init(params), made(schedule(name, hparams, step)).init(params)

    def update(updates, state, params=None, *, value, **more):
        watched, own = state
        falls = -jax.numpy.log2(watched.scale)
        tx = made(schedule(name, hparams, step, falls))
        updates, own = tx.update(updates, own, params, **more)
        return updates, (watch.update({}, watched, value=value)[1], own)

    return optax.GradientTransformationExtraArgs(init, update)
