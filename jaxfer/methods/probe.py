"""Linear probe: the head alone is trained, on the features of a frozen backbone, by steps or fitted at once."""

from __future__ import annotations

from jaxfer import linear
from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method
from jaxfer.models.port import Port


def method(
    port: Port,
    *,
    fit: str | None = None,
    penalties: tuple[float, ...] | None = None,
    grid: str | None = None,
    epochs: int | None = None,
) -> Method:
    """Group: `head`.

    Args:
      port: the model.
      fit: `ridge` or `lbfgs` (logistic regression): the head is fitted at once to the features of all training
        examples, under the penalty that is best on val. `prototypes`: the mean of each class. None: trained by steps.
      penalties: strengths that are tried, as `jaxfer.linear` defines them; None: 45 from 1e-6 to 1e5.
      grid: `dinov2`: linear layers for 13 rates, the last or all blocks that the model's features hold, with and
        without the mean of the patches, trained at once (`jaxfer.linear.dinov2`); the best on val is kept.
      epochs: of the grid; None: 10.
    """
    if fit is not None and grid is not None:
        raise InputError(f"probe: fit={fit!r} and grid={grid!r} are two ways to fit one head; omit one of them")
    path, layers = linear.fit(fit, penalties, "probe"), linear.grid(grid, epochs, "probe")
    at_once = path or layers
    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", FROZEN)),
        fit=at_once,
        hparams={"lr": (1e-2, (1e-3, 3e-3, 1e-2, 3e-2))} if at_once is None else {},
    )
