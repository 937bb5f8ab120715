"""SIGTERM: noticed between steps, survived by nothing that hangs, and no trace of it left in the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from jaxfer.training.preemption import preemption_notice

STUCK = """
import hashlib, os, signal, threading
from jaxfer import preemption
preemption.GRACE_SECONDS = 0.5
with preemption.preemption_notice() as notice:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes without a bytecode, as in a long compile
    print("the handler never had to wait")
"""


def test_sigterm_sets_the_notice():
    with preemption_notice() as notice:
        assert not notice
        signal.raise_signal(signal.SIGTERM)
        assert notice


def test_the_process_is_left_as_it_was():
    handler = signal.getsignal(signal.SIGTERM)
    with preemption_notice():
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.set_wakeup_fd(-1) == -1
    assert "preemption" not in {thread.name for thread in threading.enumerate()}


def test_an_inner_notice_is_the_outer_one():
    """A sweep must learn of a SIGTERM that one of its runs took as its last step ended."""
    with preemption_notice() as sweep:
        with preemption_notice() as run:
            signal.raise_signal(signal.SIGTERM)
            assert run
        assert sweep
        with preemption_notice() as run:
            assert run
    with preemption_notice() as later:
        assert not later


def test_other_signals_are_not_a_notice():
    seen, old = [], signal.signal(signal.SIGUSR1, lambda *_: seen.append(True))
    try:
        with preemption_notice() as notice:
            signal.raise_signal(signal.SIGUSR1)
            assert seen and not notice
            signal.raise_signal(signal.SIGTERM)
            assert notice
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_in_another_thread_the_notice_never_comes():
    """A notebook's executor: only the main thread may handle signals."""
    seen = []

    def run():
        with preemption_notice() as notice:
            seen.append(bool(notice))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_stuck_main_thread_leaves_resumable():
    """Python runs no handler inside a long C call; the watching thread ends the process, with exit code 75."""
    stuck = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60)
    assert (stuck.returncode, stuck.stdout) == (75, "")
    assert stuck.stderr == "SIGTERM: stopped at the last checkpoint; run the same command again\n"
