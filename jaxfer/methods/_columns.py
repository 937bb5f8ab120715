"""A second network of the same kind beside the one that is trained, which reads the same examples."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.models.passes import TAPS, Interceptor, tapped


def column(
    name: str,
    module: nn.Module,
    variables: Mapping[str, Any],
    call: tuple[Any, Any],
    taps: Sequence[str],
    head: str,
    intercept: Interceptor | None = None,
) -> dict[str, jax.Array]:
    """{tap: what it gives}, in evaluation mode.

    Args:
      name: the method's, for errors.
      module: the whole network, as an interceptor meets it; interceptors around this call see its modules too.
      variables: of the second network.
      call: positional and keyword arguments of the first one's.
      taps: as in `Port.forward`.
      head: path of the output layer.
      intercept: what changes the second network's activations; taps are of what its modules were given without it.
    """
    args, kwargs = call
    if kwargs.get("begin") is not None:
        raise InputError(f"{name}: both networks read the examples, and this pass begins behind them")
    with contextlib.ExitStack() as entered:  # the last to be entered is the innermost
        for interceptor in (tapped(tuple(taps), head), *((intercept,) if intercept else ())):
            entered.enter_context(nn.intercept_methods(interceptor))
        call = {**kwargs, "train": False}
        _, updated = module.clone(parent=None).apply(variables, *args, **call, mutable=[TAPS])
    kept = rules.flatten(updated.get(TAPS, {}))
    return {path.rsplit("/", 1)[1]: kept[path][0] for path in kept}
