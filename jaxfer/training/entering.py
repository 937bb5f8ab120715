"""A stage's first State, from the parameters it starts from: with what its method asks for, placed on the devices."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxfer import rules
from jaxfer.config.experiment import Experiment
from jaxfer.data.split import Dataset
from jaxfer.method import Given
from jaxfer.parallel.placement import Placement, spread
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.stored import placed, widened
from jaxfer.training import teachers
from jaxfer.training.measured import examples, measured


def entered(
    stage: Stage,
    params: Any,
    model_state: Any,
    head: Any = None,
    former: Any = None,
    *,
    experiment: Experiment,
    data: Dataset,
    where: Placement,
    folder: epath.Path,
) -> State:
    """The stage's first State; parameters are split before the optimizer's state is made from them.

    Args:
      stage: as planned.
      params: of the source or of the stage before, merged.
      model_state: likewise.
      head: the source's own, of the run's first stage.
      former: what the source, or the stage before, hands on; None: zeros, where the method asks for it.
      experiment: of the run.
      data: what it reads.
      where: its devices.
      folder: the run's; `sibling:NAME` is next to it.
    """
    given = Given(head=head)
    if stage.spec.method.measure is not None:
        split, size = examples(experiment, stage, data), experiment.run.eval_batch_size
        given = Given(head=head, measured=measured(stage, params, model_state, given, split, where, size))
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), stage.given.former)
    given = dataclasses.replace(given, former=zeros if former is None else former)
    taken = [path for path, leaf in rules.flatten(params).items() if not isinstance(leaf, jax.Array)]
    model_state = widened(model_state)
    if where.shards:
        whole = params, model_state, given
        params, model_state, given = (spread(x, where.shardings(stage.spec, params, x)) for x in whole)
    else:
        params = placed(params)
    state = stage.enter(params, model_state, experiment.run.seed, given, taken)
    return where.place(stage.spec, state.replace(others=teachers.loaded(stage, experiment, folder)))
