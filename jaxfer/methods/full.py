"""Full fine-tuning: every parameter moves."""

from __future__ import annotations

from jaxfer.method import Method
from jaxfer.models.port import Port


def method(port: Port) -> Method:
    """Groups: `head` (the task's layer), `backbone` (the rest)."""
    return Method(rules=((f"{port.head}/.*", "head"), (".*", "backbone")))
