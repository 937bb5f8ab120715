"""Every model at its smallest; the cases are part of the package, for `jaxfer.conformance`."""

from jaxfer.conformance.tiny import FIELDS, TINY, batch, draw, make

__all__ = ["FIELDS", "TINY", "batch", "draw", "make"]
