"""SIGTERM and Ctrl-C: noticed between steps, survived by nothing that hangs, and no trace left in the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxfer.errors import InputError, Interrupted, Preempted
from jaxfer.training.preemption import grace, preemption_notice

STUCK = """
import hashlib, os, signal, threading
from jaxfer.training import preemption
preemption.GRACE_SECONDS = 0.5
with preemption.preemption_notice() as notice:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes without a bytecode, as in a long compile
    print("the handler never had to wait")
"""


# The first Ctrl-C waits for the save, which never comes; nothing but the watching thread sees the second.
TWICE = """
import hashlib, os, signal, threading
from jaxfer import console
from jaxfer.training import preemption
console.prepare()
with preemption.preemption_notice() as notice:
    notice.unsaved = True
    for seconds in (0.2, 0.4):
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch):
    for name in ("JAXFER_GRACE", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)


def test_sigterm_sets_the_notice():
    with preemption_notice() as notice:
        assert not notice
        signal.raise_signal(signal.SIGTERM)
        assert notice
        stopped = notice.stopped("saved at step 3 of 7")
    assert isinstance(stopped, Preempted)
    assert stopped.message == "SIGTERM: saved at step 3 of 7; run the same command again"


def test_the_first_interrupt_waits_for_the_save_and_the_second_does_not(capfd):
    with preemption_notice() as notice:
        notice.unsaved = True
        signal.raise_signal(signal.SIGINT)
        assert notice
        stopped = notice.stopped("saved at step 3 of 7")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert isinstance(stopped, Interrupted)
    assert str(stopped) == "interrupted: saved at step 3 of 7; run the same command again"
    assert capfd.readouterr().err == "interrupted: saving first; Ctrl-C once more stops at once\n"


def test_with_nothing_to_save_an_interrupt_does_not_wait():
    with preemption_notice() as notice, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert not notice


def test_after_an_interrupt_a_scheduler_still_reads_75():
    with preemption_notice() as notice:
        notice.unsaved = True
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert isinstance(notice.stopped("saved"), Preempted)


@pytest.mark.parametrize(
    ("given", "environment", "seconds"),
    [
        (0.0, {}, 30),
        (0.0, {"JAXFER_GRACE": "140"}, 140),
        (45.0, {"JAXFER_GRACE": "140"}, 45),
        (0.0, {"SLURM_JOB_END_TIME": "1120"}, 110),
        (0.0, {"SLURM_JOB_END_TIME": "1020"}, 30),  # its KillWait comes after the end
        (0.0, {"SLURM_JOB_END_TIME": "NONE"}, 30),
        (0.0, {"JAXFER_GRACE": "5", "SLURM_JOB_END_TIME": "1120"}, 5),
    ],
)
def test_the_grace_is_as_long_as_the_scheduler_gives(monkeypatch, given, environment, seconds):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert grace(given) == seconds


@pytest.mark.parametrize("text", ["2m", "0", "-1", "nan", "inf"])
def test_a_grace_that_is_none(monkeypatch, text):
    monkeypatch.setenv("JAXFER_GRACE", text)
    with (
        pytest.raises(InputError, match=f"JAXFER_GRACE: expected the seconds .*, found '{text}'"),
        preemption_notice(),
    ):
        pass


def test_the_process_is_left_as_it_was():
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with preemption_notice():
        assert signal.getsignal(signal.SIGTERM) is not handlers[0]
        assert signal.getsignal(signal.SIGINT) is not handlers[1]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
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


def test_a_second_interrupt_ends_a_command_that_is_stuck():
    """No traceback, whatever the main thread is in."""
    stuck = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60)
    assert (stuck.returncode, stuck.stdout) == (130, "")
    assert stuck.stderr == (
        "interrupted: saving first; Ctrl-C once more stops at once\n"
        "interrupted; run the same command again, which goes on from what is saved\n"
    )
