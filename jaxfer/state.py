"""State: everything a training step reads and replaces. Arrays only."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class State:
    """The complete state of a stage: a pure step maps it to the next.

    It holds no optimizer and no apply function: those would be compile-time constants, one compile for each member
    of a sweep. What a sweep may vary is an array in `hparams`.

    Attributes:
      step: [] int32, steps done in this stage.
      params: nested dict of trainable and frozen leaves, including those a method adds.
      model_state: running statistics, `{}` where the model has none.
      opt_state: optimizer state, of the trainable leaves only.
      extra: a method's state beside the parameters (anchors, averages).
      hparams: {name: [] float32}: rates, decays, strengths, schedule lengths.
      key: typed PRNG key of the stage; folded with `step`, never split in place.
      others: {name: (params, model_state, extra)} of the other networks that the method reads. They never change, and
        as hparams and key they follow from the config: no checkpoint holds them.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    extra: Any
    hparams: dict[str, jax.Array]
    key: jax.Array
    others: Any = flax.struct.field(default_factory=dict)


def copied(tree: Any) -> Any:
    """A copy of the tree: every leaf gets a new buffer, so that donating it frees nothing in use elsewhere."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)
