"""Reports made on demand, once, and kept where nothing is served."""

from __future__ import annotations

import concurrent.futures
import contextlib
import subprocess
import sys
import threading
import time

import pytest

from jaxfer import cache_folder, reports
from jaxfer.errors import InputError
from jaxfer.ui import made
from jaxfer.ui.made import Reports, Waiting
from tests.full_disk import full
from tests.reports import comparisons
from tests.ui.serving import EVIL, ask, fill, serving, tree

START = subprocess.Popen


@pytest.fixture
def counted(monkeypatch):
    """The folders whose reports were made."""
    calls, make = [], reports.made

    def counting(folder, **options):
        calls.append(folder.name)
        time.sleep(0.1)
        return make(folder, **options)

    monkeypatch.setattr(reports, "made", counting)
    return calls


@pytest.fixture
def making(tmp_path):
    comparisons.write(tmp_path / "runs" / "c")
    with contextlib.closing(Reports(tmp_path / "runs")) as made:
        yield made


def test_a_report_is_made_once_until_a_file_changes(tmp_path, monkeypatch, counted):
    """Also for one who comes while it is being written."""
    root, write, late = fill(tmp_path / "runs"), cache_folder.write, []
    with serving(root) as port, concurrent.futures.ThreadPoolExecutor(51) as clients:

        def text(_=None):
            return ask(port, "/report/compared")[2]

        def written(*page):
            late.append(clients.submit(text))
            time.sleep(0.2)
            write(*page)

        monkeypatch.setattr(cache_folder, "write", written)
        texts = {*clients.map(text, range(50)), late[0].result()}
        assert len(texts) == 1 and counted == ["compared"] and "<script" not in (page := texts.pop())
        assert "0.750 ± 0.635" in page and 'href="/evaluated/compared"' in page and 'href="/live/compared"' in page
        comparisons.write(root / "compared", arm="another")
        assert "another" in text() and counted == ["compared"] * 2


def test_a_report_that_takes_long_holds_nobody_else_up(tmp_path, monkeypatch):
    ended, begun, make = threading.Event(), threading.Event(), reports.made

    def slow(folder, **options):
        begun.set()
        assert ended.wait(60)
        return make(folder, **options)

    monkeypatch.setattr(reports, "made", slow)
    with serving(fill(tmp_path / "runs")) as port, concurrent.futures.ThreadPoolExecutor(1) as client:
        waits = client.submit(ask, port, "/report/compared")
        assert begun.wait(60)
        assert ask(port, "/")[0] == ask(port, "/live/sweep")[0] == 200 and not waits.done()
        ended.set()
        assert waits.result()[0] == 200


def test_reports_outlive_the_server(tmp_path, monkeypatch, counted):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    root = fill(tmp_path / "runs")
    before = tree(root)
    for _ in range(2):
        with serving(root) as port:
            assert ask(port, "/report/compared")[0] == 200
    assert counted == ["compared"] and len(list((tmp_path / "cache" / "ui").iterdir())) == 1
    comparisons.write(root / "compared", arm="another")
    with serving(root) as port:
        assert ask(port, "/report/compared")[0] == 200
    assert len(list((tmp_path / "cache" / "ui").iterdir())) == 1  # its older version is gone
    assert before.keys() == tree(root).keys()


def test_a_full_disk_costs_time_alone(tmp_path, monkeypatch, counted):
    """The report is served, made anew by the next server, and no part of it is left."""
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    root = fill(tmp_path / "runs")
    for _ in range(2):
        with serving(root) as port, full(4_096):
            status, _, text = ask(port, "/report/compared")
        assert status == 200 and len(text) > 4_096
    assert counted == ["compared"] * 2 and not list((tmp_path / "cache" / "ui").iterdir())


def test_a_cache_within_the_folder_is_left_alone(tmp_path, monkeypatch, counted):
    root = fill(tmp_path / "runs")
    before = tree(root)
    monkeypatch.setenv("JAXFER_CACHE", str(root / "cache"))
    with serving(root) as port:
        assert ask(port, "/report/compared")[0] == ask(port, "/report/compared")[0] == 200
    assert counted == ["compared"] and tree(root) == before


def test_a_report_that_cannot_be_made(tmp_path, monkeypatch):
    root = fill(tmp_path / "runs")
    with serving(root) as port:
        (root / "good" / "result.json").write_text("{")
        status, _, text = ask(port, "/report/good")
        assert status == 422 and "good can&#x27;t be shown" in text and "result.json: expected a JSON file" in text

        def broken(folder, **options):
            raise SystemExit(EVIL)

        monkeypatch.setattr(reports, "made", broken)
        status, _, text = ask(port, "/report/compared")
        assert status == 422 and "SystemExit: &lt;script&gt;" in text and "<script" not in text
        status, headers, _ = ask(port, "/report/going")
        assert (status, headers["Location"]) == (303, "/live/going")


def command(monkeypatch, code):
    """In place of `jaxfer report`: this code, with its arguments in sys.argv[1:]."""

    def instead(words, **options):
        assert words[:3] == [sys.executable, "-m", "jaxfer"]
        return START([sys.executable, "-c", code, *words[3:]], **options)

    monkeypatch.setattr(made.subprocess, "Popen", instead)


def until_made(making, folder):
    for _ in range(600):
        try:
            return making.evaluated(folder)
        except Waiting:
            time.sleep(0.05)
    raise AssertionError("not made")


def test_evaluated_in_a_process_of_its_own(making, tmp_path, monkeypatch):
    command(
        monkeypatch, "import os, sys; open(sys.argv[4], 'w').write(f'{sys.argv[1:4]} {os.environ[\"JAX_PLATFORMS\"]}')"
    )
    folder = tmp_path / "runs" / "c"
    with pytest.raises(Waiting) as waiting:
        making.evaluated(folder)
    assert waiting.value.before == 0
    assert until_made(making, folder) == f"{['report', str(folder), '--out']} cpu"
    command(monkeypatch, "raise SystemExit('made twice')")
    assert making.evaluated(folder).startswith("['report'")


def test_what_the_process_says_is_told_until_a_file_changes(making, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "c"
    command(monkeypatch, "import sys; print('warning: x\\nerror: no such data', file=sys.stderr); sys.exit(2)")
    for _ in range(2):
        with pytest.raises(InputError, match=r"^no such data$"):
            until_made(making, folder)
    comparisons.write(folder, arm="another")
    command(monkeypatch, "import os; os.abort()")
    with pytest.raises(InputError, match=r"^nothing was said \(exit code -6\)$"):
        until_made(making, folder)


def test_one_at_a_time_and_none_outlives_the_server(making, tmp_path, monkeypatch):
    comparisons.write(tmp_path / "runs" / "d")
    command(monkeypatch, "import time; time.sleep(600)")
    for name, before in (("c", 0), ("d", 1)):
        with pytest.raises(Waiting) as waiting:
            making.evaluated(tmp_path / "runs" / name)
        assert waiting.value.before == before
    while making._process is None:
        time.sleep(0.01)
    making.close()
    assert making._process.poll() == -9


def test_the_page_of_a_report_that_is_being_made(tmp_path, monkeypatch):
    command(monkeypatch, "import time; time.sleep(600)")
    with serving(fill(tmp_path / "runs")) as port:
        status, _, text = ask(port, "/evaluated/compared")
        assert status == 202 and '<meta http-equiv="refresh" content="2">' in text
        assert "compared: being made" in text and 'href="/report/compared"' in text
        assert ask(port, "/evaluated/going")[0] == 303
