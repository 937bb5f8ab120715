"""Linear probe: the head alone is trained, on the features of a frozen backbone."""

from __future__ import annotations

from jaxfer.method import FROZEN, Method
from jaxfer.models.port import Port


def method(port: Port) -> Method:
    """Group: `head`."""
    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", FROZEN)),
        hparams={"lr": (1e-2, (1e-3, 3e-3, 1e-2, 3e-2))},
    )
