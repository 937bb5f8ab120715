"""SIGTERM and Ctrl-C: the loop notices them between two steps, saves and leaves.

A process stuck inside a compile leaves when the scheduler's grace is over. Several processes agree on a step to stop
after: a SIGTERM to any of them, or a notice that JAX has of its platform.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

from jax.experimental import multihost_utils

from jaxfer import console
from jaxfer.errors import InputError, Interrupted, Preempted
from jaxfer.parallel import cluster

VARIABLE = "JAXFER_GRACE"
# SLURM's KillWait and Kubernetes' terminationGracePeriodSeconds are 30 unless somebody changed them. A process that
# is killed earlier has lost nothing by waiting: only its exit code is the kill's instead of 75.
GRACE_SECONDS = 30.0
# To leave before SLURM ends the job, while the batch script can still ask for another start.
SLURM_MARGIN = 10.0


def grace(configured: float = 0.0) -> float:
    """Seconds from SIGTERM until the process is killed.

    `configured` (`config.grace`), else the environment's JAXFER_GRACE, else until SLURM ends the job, else 30.

    Raises:
      InputError: JAXFER_GRACE is no positive number.
    """
    if configured:
        return configured
    if text := os.environ.get(VARIABLE):
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise InputError(f"{VARIABLE}: expected the seconds between SIGTERM and the kill, found {text!r}")
        return seconds
    end = os.environ.get("SLURM_JOB_END_TIME", "")  # seconds since 1970; `sbatch --signal` sends SIGTERM before it
    left = int(end) - time.time() - SLURM_MARGIN if end.isdecimal() else 0.0
    return max(left, GRACE_SECONDS)


class Notice:
    """Whether the process has been asked to stop.

    Attributes:
      received: the signal that asked, SIGTERM or SIGINT; 0: none so far.
      unsaved: whether there are steps that an immediate end would lose. While there are none, Ctrl-C raises
        KeyboardInterrupt at once.
      grace: `config.grace` of the run under way; 0: as the environment says.
    """

    received = 0
    unsaved = False
    grace = 0.0

    def __bool__(self) -> bool:
        return self.received != 0

    def at(self, step: int) -> bool:
        """Whether to stop after this step; several processes ask at every step, and all get the same answer."""
        return bool(self) if cluster.alone() else multihost_utils.reached_preemption_sync_point(step)

    def stopped(self, how: str) -> Preempted | Interrupted:
        """The exception that ends a command which was asked to stop; `how`: what was saved."""
        if self.received == signal.SIGINT:
            return Interrupted(f"interrupted: {how}; run the same command again")
        return Preempted(f"SIGTERM: {how}; run the same command again")


_active: Notice | None = None


@contextlib.contextmanager
def preemption_notice() -> Iterator[Notice]:
    """A notice that SIGTERM and Ctrl-C set. Nested uses share the outer one, so a sweep sees a signal its run received.

    A second Ctrl-C does not wait: it goes to the handler from before, KeyboardInterrupt in a notebook. Outside the main
    thread (a notebook's executor) signals can't be had, and the notice is never set.
    """
    global _active
    # With several processes, jax.distributed handles SIGTERM: it tells the others and picks a step to stop after.
    if threading.current_thread() is not threading.main_thread() or not cluster.alone():
        yield Notice()
        return
    if _active is not None:
        yield _active
        return
    grace()  # a wrong JAXFER_GRACE stops the run before it starts
    notice = Notice()
    # Python runs its handlers only between bytecodes, which a long XLA compile withholds. The C-level handler writes
    # a byte here at once, and a thread ends the process if the loop has not done so in time: the last checkpoint is
    # whole, so the run is resumable all the same.
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def terminate(signum, frame):
        notice.received = signal.SIGTERM  # also after Ctrl-C: a scheduler must see 75

    def interrupt(signum, frame):
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1 and notice.unsaved:
            notice.received = notice.received or signal.SIGINT
            console.impatient()
        else:
            stop = former[signal.SIGINT]
            (stop if callable(stop) else signal.default_int_handler)(signum, frame)

    def watch():
        deadline, pressed = math.inf, 0
        while True:
            reader.settimeout(None if deadline == math.inf else max(deadline - time.monotonic(), 1e-3))
            try:
                byte = reader.recv(1)
            except TimeoutError:
                console.say("SIGTERM: stopped at the last checkpoint; run the same command again")
                os._exit(Preempted.exit_code)
            if not byte:
                return
            if byte[0] == signal.SIGTERM and deadline == math.inf:
                deadline = time.monotonic() + grace(notice.grace)
            if byte[0] != signal.SIGINT:
                continue
            pressed += 1  # counted once more: the main thread may be inside a compile
            if pressed == 1 and notice.unsaved:
                console.say("interrupted: saving first; Ctrl-C once more stops at once")
            elif pressed > 1 and console.owns(former[signal.SIGINT]):
                console.stop_at_once()

    interrupts = 0
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, terminate)
    if former[signal.SIGINT] is not signal.SIG_IGN:  # `nohup`'s and a sweep's own processes leave it to others
        signal.signal(signal.SIGINT, interrupt)
    old_fd = signal.set_wakeup_fd(writer.fileno())
    watcher = threading.Thread(target=watch, name="preemption", daemon=True)
    watcher.start()
    _active = notice
    try:
        yield notice
    finally:
        _active = None
        signal.set_wakeup_fd(old_fd)
        for number, handler in former.items():
            signal.signal(number, handler)
        writer.close()
        watcher.join()
        reader.close()
