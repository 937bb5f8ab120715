"""A disk that is full, as far as one file's size goes."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

LINE = (
    "error: files can't be written (File too large); free some space, then run the same command again: files already "
)


@contextlib.contextmanager
def full(largest: int) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
