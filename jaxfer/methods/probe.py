"""Linear probe: the head alone is trained, on the features of a frozen backbone, by steps or fitted at once."""

from __future__ import annotations

from jaxfer import linear
from jaxfer.method import FROZEN, Method
from jaxfer.models.port import Port


def method(port: Port, *, fit: str | None = None, penalties: tuple[float, ...] | None = None) -> Method:
    """Group: `head`.

    Args:
      port: the model.
      fit: `ridge` or `lbfgs` (logistic regression): the head is fitted at once to the features of all training
        examples, under the penalty that is best on val. None: trained by steps.
      penalties: strengths that are tried, as `jaxfer.linear` defines them; None: 45 from 1e-6 to 1e5.
    """
    at_once = linear.fit(fit, penalties, "probe")
    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", FROZEN)),
        fit=at_once,
        hparams={"lr": (1e-2, (1e-3, 3e-3, 1e-2, 3e-2))} if at_once is None else {},
    )
