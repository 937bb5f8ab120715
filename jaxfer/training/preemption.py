"""SIGTERM: the loop learns of it between two steps; a process stuck inside a compile still leaves within 10 s.

Several processes agree on a step to stop after: a SIGTERM to any of them, or a notice that JAX has of its platform.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

from jax.experimental import multihost_utils

from jaxfer.errors import Preempted
from jaxfer.parallel import cluster

GRACE_SECONDS = 8.0


class Notice:
    """Whether the process has been asked to stop."""

    received = False

    def __bool__(self) -> bool:
        return self.received

    def at(self, step: int) -> bool:
        """Whether to stop after this step; several processes ask at every step, and all get the same answer."""
        return bool(self) if cluster.alone() else multihost_utils.reached_preemption_sync_point(step)


_active: Notice | None = None


@contextlib.contextmanager
def preemption_notice() -> Iterator[Notice]:
    """A notice that SIGTERM sets; inside another one's `with` it is that one, so that a sweep learns what a run did.

    Outside the main thread (a notebook's executor) signals can't be had, and it is never set.
    """
    global _active
    # Of several processes, SIGTERM to any is jax.distributed's: it tells the others and finds a step to stop after.
    if threading.current_thread() is not threading.main_thread() or not cluster.alone():
        yield Notice()
        return
    if _active is not None:
        yield _active
        return
    notice = Notice()
    # Python runs its handlers only between bytecodes, which a long XLA compile withholds. The C-level handler writes
    # a byte here at once, and a thread ends the process if the loop has not done so in time: the last checkpoint is
    # whole, so the run is resumable all the same.
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def handle(signum, frame):
        notice.received = True

    def watch():
        while byte := reader.recv(1):
            if byte[0] == signal.SIGTERM and not left.wait(GRACE_SECONDS):
                os.write(2, b"SIGTERM: stopped at the last checkpoint; run the same command again\n")
                os._exit(Preempted.exit_code)

    left = threading.Event()
    old_handler, old_fd = signal.signal(signal.SIGTERM, handle), signal.set_wakeup_fd(writer.fileno())
    watcher = threading.Thread(target=watch, name="preemption", daemon=True)
    watcher.start()
    _active = notice
    try:
        yield notice
    finally:
        _active = None
        left.set()
        signal.set_wakeup_fd(old_fd)
        signal.signal(signal.SIGTERM, old_handler)
        writer.close()
        watcher.join()
        reader.close()
