"""Network: a model with its weights, callable on a batch. Predictions, features and teachers need nothing else."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxfer.method import Method
from jaxfer.models.execution import Execution
from jaxfer.models.port import Passed, Port
from jaxfer.ports import port_shapes
from jaxfer.stages import Stage, method_shapes
from jaxfer.state import State
from jaxfer.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A port, what a method makes of it, and their arrays.

    Attributes:
      port: the model.
      params: nested; the backbone's, and what the method added.
      model_state: running statistics.
      method: None for a plain backbone.
      extra: the method's state beside the parameters.
      reads: name of the part of a batch that its input fields lie in; empty: the batch itself.
    """

    port: Port
    params: Any
    model_state: Any
    method: Method | None = None
    extra: Any = None
    reads: str = ""

    def __call__(self, batch: Mapping[str, Any], *, taps: tuple[str, ...] = ()) -> Passed:
        """The evaluation pass: outputs [batch, ...] and taps (`Port.forward`). Pure, so it may be called under jit with
        its arrays as arguments (`with_arrays`)."""
        batch = batch[self.reads] if self.reads else batch
        if self.method is None:
            return self.port.forward(self.params, self.model_state, batch, taps=taps)
        params, intercept = self.seen()
        return self.port.forward(params, self.model_state, batch, intercept=intercept, taps=taps)

    def seen(self) -> tuple[Any, Any]:
        """(the parameters that the port itself sees, the method's interceptor or None)."""
        if self.method is None:
            return self.params, None
        return self.method.seen(self.params, self.extra)

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        """(params, model_state, extra)."""
        return self.params, self.model_state, self.extra

    def with_arrays(self, params: Any, model_state: Any, extra: Any) -> Network:
        """The same network of other arrays: traced ones."""
        return dataclasses.replace(self, params=params, model_state=model_state, extra=extra)

    def along(self, other: Execution) -> Network:
        """The same network on the devices of the model it stands beside, sharded by example as that is."""
        execution = dataclasses.replace(self.port.execution, boundary=other.boundary, batched=other.batched)
        return dataclasses.replace(self, port=self.port.computed(execution))


def of_state(stage: Stage, state: State) -> Network:
    """The network that a stage trained: merged where its method can, which costs least to run."""
    if stage.spec.method.merge is None:
        return Network(
            port=stage.spec.port,
            params=state.params,
            model_state=state.model_state,
            method=stage.spec.method,
            extra=state.extra,
        )
    params, model_state = stage.leave(state)
    return Network(port=stage.spec.port.with_parts(()), params=params, model_state=model_state)


@functools.lru_cache(maxsize=16)
def blank(port: Port, method: Method | None, task: Task | None, reads: str = "") -> Network:
    """A network of shapes (ShapeDtypeStructs), one object for equal arguments, so that a compiled step may hold it.

    Args:
      port: the model.
      method: the method that trained it where that has no merged model; None for a plain backbone.
      task: what that method trained; None for a plain backbone.
      reads: as in `Network`.
    """
    params, model_state = port_shapes(port)
    if method is None:
        return Network(port=port, params=params, model_state=model_state, reads=reads)
    params, extra = method_shapes(method, port, task)
    return Network(port=port, params=params, model_state=model_state, method=method, extra=extra, reads=reads)
