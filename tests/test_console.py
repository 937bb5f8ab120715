"""The process around a command: closed and full streams, another encoding, Ctrl-C before the run listens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

HEAD = "import os, sys\nfrom jaxfer import console\nconsole.prepare()\n"


def command(code, shell="", **environment):
    """(exit code, stdout, stderr) of a process that prepares itself as a command does; `shell`: its redirections."""
    argv = ["bash", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, HEAD + code]
    done = subprocess.run(argv, capture_output=True, env={**os.environ, **environment}, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_an_encoding_without_the_letters_prints_others():
    code = "print('a · b')\nprint('± 1', file=sys.stderr)"
    assert command(code, PYTHONIOENCODING="ascii") == (0, "a ? b\n", "? 1\n")


def test_what_is_opened_never_takes_the_place_of_a_closed_stream():
    code = "print('lost'); print('lost', file=sys.stderr)\nos._exit(os.open(os.devnull, os.O_RDONLY))"
    for shell in ("", ">&-", "2>&-", "<&- >&- 2>&-"):
        exit_code, *_ = command(code, shell)
        assert exit_code > 2, shell


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_error_may_be_full_and_standard_output_says_so(unbuffered):
    code = "print('progress', file=sys.stderr)\nsys.stderr.flush()\nprint('done')"
    assert command(code, "2>/dev/full", PYTHONUNBUFFERED=unbuffered) == (0, "done\n", "")
    code = (
        "try:\n    print('result', flush=True)\nexcept OSError:\n    pass\n"
        "print(console.output_fault().strerror, file=sys.stderr)\nconsole.drop_output()"
    )
    found = command(code, ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert found == (0, "", "No space left on device\n")


@pytest.mark.system
def test_a_command_into_a_full_device_is_one_line(tmp_path):
    (tmp_path / "c.py").write_text("import jaxfer.config\n\ndef get_config(arg=''):\n    return jaxfer.config.base()\n")
    argv = ["bash", "-c", f'exec "{sys.executable}" -m jaxfer show c.py >/dev/full']
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    line = "error: standard output can't be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_interrupts_at_any_moment_leave_no_traceback():
    """Twenty, through the imports of a real command and its shutdown."""
    code = (
        "import sys\nfrom jaxfer.commands import main\n"
        "sys.stdout.write('ready\\n'); sys.stdout.flush()\nsys.argv = ['jaxfer', 'show', 'absent.py']\nsys.exit(main())"
    )
    for delay in (0.0, 0.4):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.1 + delay)  # `main` has taken over
        for _ in range(20):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        _, err = process.communicate(timeout=60)
        # 2: it was done. The signal's own: the interpreter was shutting down and had dropped its handlers.
        assert process.returncode in (130, 2, -signal.SIGINT), err
        assert b"Traceback" not in err
        assert (
            process.returncode == 2
            or b"interrupted; run the same command again, which goes on from what is saved" in err
        )
