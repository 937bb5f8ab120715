"""The base of the families that come with jaxfer: a chain of units that is built from one dataclass of options."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from jaxfer.models.chain import Chain, check_positive
from jaxfer.models.heads import DENSE, EMBEDDING, PAIR, POOLED
from jaxfer.models.port import Port


class Family(Chain, kw_only=True):
    """A chain stem, block_0 ... block_{n-1}, head; `units` builds it from the options.

    Attributes:
      outputs: width of the head.
      options: the family's, a frozen dataclass (`jaxfer.models.options`).
      head: kind of the head.
    """

    outputs: int
    options: Any
    head: str = POOLED

    @nn.nowrap
    def dense(self) -> tuple[int, ...]:
        """(height, width) of the outputs of a dense head; () for another one."""
        return tuple(self.options.image[:2]) if self.head == DENSE else ()


def family_port(
    kind: type[Family], options: Any, *, outputs: int, head: str = POOLED, output_layer: str = "head/out", **facts: Any
) -> Port:
    """The port of a family.

    Args:
      kind: the module's class.
      options: of the family; `options.encoding` says how examples are read, unless `facts` have `encodings`.
      outputs: outputs of the head.
      head: its kind.
      output_layer: path of the module that a new task replaces.
      facts: other fields of `Port`.

    Raises:
      InputError: the head needs a width, and `outputs` is none.
    """
    if head not in (EMBEDDING, PAIR):
        check_positive(outputs=outputs)
    module = kind(outputs=outputs, options=options, head=head)
    encodings = facts.pop("encodings", None) or (options.encoding,)
    return Port(module=module, units=tuple(module.units()), head=output_layer, encodings=encodings, **facts)
