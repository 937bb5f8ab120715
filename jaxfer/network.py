"""Network: a model with its weights, callable on a batch. Predictions, features and teachers need nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxfer.method import Method
from jaxfer.models.port import Passed, Port
from jaxfer.stages import Stage
from jaxfer.state import State


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A port, what a method makes of it, and their arrays.

    Attributes:
      port: the model.
      params: nested; the backbone's, and what the method added.
      model_state: running statistics.
      method: None for a plain backbone.
      extra: the method's state beside the parameters.
    """

    port: Port
    params: Any
    model_state: Any
    method: Method | None = None
    extra: Any = None

    def __call__(self, batch: Mapping[str, Any], *, taps: tuple[str, ...] = ()) -> Passed:
        """The evaluation pass: outputs [batch, ...] and taps (`Port.forward`). Pure, so it may be called under jit with
        its arrays as arguments (`with_arrays`)."""
        if self.method is None:
            return self.port.forward(self.params, self.model_state, batch, taps=taps)
        view = self.method.evaluated or self.method.view
        params, intercept = view(self.params, self.extra), self.method.intercept(self.params, self.extra)
        return self.port.forward(params, self.model_state, batch, intercept=intercept, taps=taps)

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        """(params, model_state, extra)."""
        return self.params, self.model_state, self.extra

    def with_arrays(self, params: Any, model_state: Any, extra: Any) -> Network:
        """The same network of other arrays: traced ones."""
        return Network(port=self.port, params=params, model_state=model_state, method=self.method, extra=extra)


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
    return Network(port=stage.spec.port, params=params, model_state=model_state)
