"""`jaxfer ui` as a process: what it says, how it ends, what it refuses, and a real run's pages."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

import jaxfer
from jaxfer.commands import main
from tests.experiments import tiny_config
from tests.reports import pages
from tests.runs.folders import write
from tests.ui.serving import ask, tree


@contextlib.contextmanager
def process(folder, shown="1 run", **environment):
    """A server's process, and its port."""
    command = [sys.executable, "-m", "jaxfer", "ui", str(folder), "--port=0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, env=os.environ | environment, **pipes)
    try:
        line = server.stdout.readline()
        found = re.fullmatch(rf"http://127\.0\.0\.1:(\d+)/ shows {shown} in {folder}; Ctrl-C ends it\n", line)
        assert found, line + server.stderr.read()
        yield server, int(found[1])
    finally:
        server.kill()
        server.communicate()


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(tmp_path, number):
    write(tmp_path / "runs" / "a")
    with process(tmp_path / "runs") as (server, port):
        assert ask(port, "/")[0] == 200
        server.send_signal(number)
        assert server.communicate(timeout=60) == ("", "") and server.returncode == 0


@pytest.mark.system
def test_a_folder_of_a_ranking_alone(tmp_path):
    pages.ranking(tmp_path / "rank.json")
    with process(tmp_path, "1 ranking") as (_, port):
        assert ask(port, "/report/rank.json")[0] == 200


@pytest.mark.system
def test_the_pages_of_a_real_run(tmp_path):
    config = tiny_config("resnet_basic", steps=2, eval_every=1, init="scratch")
    jaxfer.run(config, tmp_path / "runs" / "a")
    before = tree(tmp_path / "runs")
    with process(tmp_path / "runs", JAXFER_CACHE=str(tmp_path / "cache")) as (server, port):
        assert 'href="/report/a"' in ask(port, "/")[2]
        status, _, text = ask(port, "/report/a")
        assert status == 200 and '<section id="scores"' in text and 'id="calibration"' not in text
        for _ in range(600):
            status, _, text = ask(port, "/evaluated/a")
            if status != 202:
                break
            time.sleep(0.2)
        assert status == 200 and '<section id="calibration"' in text and '<a href="/">All runs</a>' in text
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert tree(tmp_path / "runs") == before
    assert len(list((tmp_path / "cache" / "ui").iterdir())) == 2


def test_what_is_refused(tmp_path, capsys):
    write(tmp_path / "runs" / "a")
    (tmp_path / "empty").mkdir()
    taken = socket.create_server(("127.0.0.1", 0))
    cases = {
        ("none",): "expected a folder with runs, found nothing",
        ("empty",): "no run in",
        ("runs/a/config.json",): "expected a folder with runs, found a file",
        ("runs", "--port=70000"): "--port: expected 0 to 65535, found 70000",
        ("runs", "--port=x"): "--port: invalid int value",
        (
            "runs",
            f"--port={taken.getsockname()[1]}",
        ): "can't be listened on there (Address already in use); name another",
        ("runs", "--config.lr=1"): "--config.lr: this command reads no config",
    }
    for (path, *more), message in cases.items():
        assert main(["ui", str(tmp_path / path), *more]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, (path, more, err)
    taken.close()
