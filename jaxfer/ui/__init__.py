"""`jaxfer ui`: a folder of runs as pages on loopback, read and never written.

`server.py` speaks HTTP, `site.py` says what an address shows; the pages are made as reports are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.ui import overview
from jaxfer.ui.listed import below
from jaxfer.ui.server import HOST, Server
from jaxfer.ui.site import Site

__all__ = ["serve"]


def serve(folder: str | os.PathLike[str], *, port: int = 0, say: Callable[[str], None] = print) -> None:
    """Serves the runs below a folder until Ctrl-C or SIGTERM.

    Args:
      folder: of runs, sweeps, comparisons, rankings or diagnoses, on a disk.
      port: of 127.0.0.1; 0: any that is free.
      say: is told the address.

    Raises:
      InputError: no such folder, nothing to show in it, or a port that is in use.
    """
    if files.remote(files.opened(folder)):
        raise InputError(f"expected a folder on a disk, found {folder}; copy its runs here")
    if not 0 <= port <= 65535:
        raise InputError(f"--port: expected 0 to 65535, found {port}")
    root = Path(os.path.abspath(folder))
    what = overview.counted(root, below(root))
    with (
        _ended_by_sigterm(),
        contextlib.suppress(KeyboardInterrupt),
        contextlib.closing(Site(root)) as site,
        Server(site, port) as server,
    ):
        say(f"http://{HOST}:{server.server_port}/ shows {what} in {folder}; Ctrl-C ends it")
        server.serve_forever()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
