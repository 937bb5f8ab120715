"""Experience replay: examples of an earlier task beside those of the new one, so that it isn't forgotten.

Chaudhry et al., 2019, "On Tiny Episodic Memories in Continual Learning", arXiv:1902.10486: the loss is that of the new
batch plus that of a batch from memory. Both pass through the network together, so that batch statistics are of both.
"""

from __future__ import annotations

import dataclasses

from jaxfer.method import TASK, Method
from jaxfer.methods import full
from jaxfer.models.port import Port


def method(port: Port) -> Method:
    """Groups: `head`, `backbone`. Reads the stream `memory`, whose task has a head of its own.

    The weight of its loss is `config.stream.memory.weight`; `memory/accuracy` says what is left of the earlier task.
    """
    return dataclasses.replace(full.method(port), streams={"memory": TASK})
