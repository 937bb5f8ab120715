"""Folders that are whole or absent, whatever ends the process that writes them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from etils import epath

from jaxfer.exports import staging

DEAD = 2**22 + 1  # above the largest process id of Linux


@pytest.fixture
def target(tmp_path):
    return epath.Path(tmp_path) / "export"


def left(target):
    return sorted(entry.name for entry in target.parent.iterdir())


def fill(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text(text)


def beside(target, kind, pid=DEAD):
    return target.parent / f".{target.name}.{socket.gethostname()}.{pid}.{kind}"


def test_the_folder_is_there_at_the_end_and_the_former_one_until_then(target):
    fill(target, "former")
    with staging.staged(target) as temporary:
        fill(temporary, "new")
        assert (target / "file").read_text() == "former"
    assert (target / "file").read_text() == "new" and left(target) == ["export"]


def test_an_error_leaves_the_former_one_alone(target):
    fill(target, "former")
    with pytest.raises(RuntimeError, match="broken"), staging.staged(target) as temporary:
        fill(temporary, "half")
        raise RuntimeError("broken")
    assert (target / "file").read_text() == "former" and left(target) == ["export"]


def test_what_killed_processes_left_is_removed(target):
    """Of this machine's dead processes only, and of this target."""
    for place in (beside(target, "tmp"), beside(target, "old"), target):
        fill(place, "half")
    kept = [
        beside(target, "tmp", os.getppid()),
        target.parent / ".export.elsewhere.1.tmp",
        target.parent / ".other.tmp",
    ]
    for place in kept:
        fill(place, "another's")
    with staging.staged(target) as temporary:
        fill(temporary, "new")
    assert left(target) == sorted(["export", *(place.name for place in kept)])
    assert (target / "file").read_text() == "new"


def test_half_a_replacement_is_undone(target):
    """Killed between the two renames: the former export lies aside, and nothing is in its place."""
    fill(beside(target, "old"), "former")
    with pytest.raises(RuntimeError), staging.staged(target):
        raise RuntimeError
    assert (target / "file").read_text() == "former" and left(target) == ["export"]


SCRIPT = """
import os, sys, time
from etils import epath
from jaxfer.exports import staging

with staging.unwound_by_sigterm(), staging.staged(epath.Path(sys.argv[1])) as folder:
    (folder / "file").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_sigterm_leaves_nothing(target):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143 and left(target) == []
    process.stdout.close()
