"""Experience replay: examples of earlier tasks beside those of the new one, so that these aren't forgotten.

Chaudhry et al., 2019, "On Tiny Episodic Memories in Continual Learning", arXiv:1902.10486, Algorithm 1: the loss is
that of the new batch plus that of a batch from memory (there the mean over both: half as much where they are of one
size). All pass through the network together, so that batch statistics are of all.

The paper has one memory of all tasks, which a sampler fills as examples come. Here a run is a task, and a memory a
stream: a fixed number of examples a class of one earlier task, under its own head (the paper's ring buffer). That is
the default because it needs nothing of the earlier runs but their data, and each task may have classes of its own. The
paper's reservoir is an option of `der`, which is replay alone at alpha=0.
"""

from __future__ import annotations

import dataclasses

from jaxfer.errors import InputError
from jaxfer.method import EVERY, TASK, Method
from jaxfer.methods import full
from jaxfer.models.port import Port


def method(port: Port, *, memories: tuple[str, ...] = ("memory",)) -> Method:
    """Groups: `head`, `backbone`. Reads the streams `memories`, whose tasks have heads of their own.

    The weight of a memory's loss is `config.stream.NAME.weight`; `NAME/accuracy` says what is left of its task.

    Args:
      port: the model.
      memories: names of the streams, one for each earlier task that is not to be forgotten.
    """
    if not memories or EVERY in memories or len(set(memories)) != len(memories):
        raise InputError(f"options.memories: expected one stream or several different ones, found {memories}")
    return dataclasses.replace(full.method(port), streams=dict.fromkeys(memories, TASK))
