"""Pages of what goes on."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxfer.errors import InputError
from jaxfer.runs.folder import locked
from jaxfer.runs.survey import survey
from jaxfer.ui import progress
from tests.runs.folders import LINES, result, write
from tests.sweeps import example as swept
from tests.ui.serving import EVIL, ask, fill, serving, sweep, tree
from tests.ui.test_overview import rows

ROOT = Path(__file__).parents[2]
REFRESH = '<meta http-equiv="refresh" content="5">'


def test_a_running_sweep(tmp_path):
    folder = sweep(tmp_path / "runs" / "sweep")
    with contextlib.ExitStack() as held:
        port = held.enter_context(serving(tmp_path / "runs"))
        held.enter_context(locked(folder))
        held.enter_context(locked(folder / "cells" / "001"))
        before = tree(tmp_path)
        status, _, text = ask(port, "/live/sweep")
        assert status == 200 and REFRESH in text and "<script" not in text
        assert "<h1>sweep: running, 1 of 4 cells finished</h1>" in text and "2 of 4 cells have ended" in text
        assert rows(text, "cells") == [
            ["cell", "state", "step", "val", "seconds"],
            ["lr=2", "running", " 20 of 60", "0.750", "2.5 s"],
            ["lr=3", "failed", " 20 of 60", "0.750", "2.5 s"],
            ["lr=1", "finished", " 60 of 60", "0.875", "12.5 s"],
            ["lr=4", "waiting", "", "", "–"],
        ]
        assert '<progress value="2" max="4" aria-label="2 of 4 cells have ended" class="long">' in text
        assert "<dt>best val accuracy</dt><dd>0.875<small>lr=1</small></dd>" in text
        assert 'href="/report/sweep/cells/000"' in text and 'href="/live/sweep/cells/001"' in text
        write(folder / "cells" / "001", ended=result(accuracy=0.9375, loss=0.5))  # it goes on meanwhile
        text = ask(port, "/live/sweep")[2]
        assert "2 of 4 cells finished" in text and "<dd>0.938<small>lr=2</small></dd>" in text
        assert before.items() <= tree(tmp_path).items() | before.items()


@pytest.mark.system
def test_a_real_sweep_is_watched_to_its_end(tmp_path):
    """Seven cells of another process: the count on the page rises to 7, and the table is there at the end."""
    spec, counts = swept.write(tmp_path), []
    argv = [sys.executable, "-m", "jaxfer", "sweep", spec, "--workdir", str(tmp_path / "runs" / "s")]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    swept.wait_for_a_cell(tmp_path / "runs" / "s", process)
    with serving(tmp_path / "runs") as port:
        while process.poll() is None:
            status, _, text = ask(port, "/live/s")
            assert status == 200, text
            if found := re.search(r"<h1>s: running, (\d) of 7 cells finished</h1>", text):
                assert REFRESH in text
                counts.append(int(found[1]))
            time.sleep(0.1)
        assert process.returncode == 0, process.stderr.read()
        text = ask(port, "/live/s")[2]
        assert "all cells have ended, 7 of 7 cells finished" in text and REFRESH not in text
        assert {row[1] for row in rows(text, "cells")[1:]} == {"finished"}
        assert ask(port, "/report/s")[0] == 200
    assert counts == sorted(counts) and len(set(counts)) > 1, "it was seen at work"


def test_a_sweep_that_nobody_works_on(tmp_path):
    sweep(tmp_path / "sweep")
    text = progress.of_cells(tmp_path, tmp_path / "sweep", survey(tmp_path)).html()[0]
    assert (
        "sweep: not running" in text and "The same `jaxfer sweep` command resumes it." in text and REFRESH not in text
    )
    for i in (1, 2, 3):
        write(tmp_path / "sweep" / "cells" / f"00{i}", ended=result(accuracy=0.5, loss=0.5))
    text = progress.of_cells(tmp_path, tmp_path / "sweep", survey(tmp_path)).html()[0]
    assert "all cells have ended, 4 of 4 cells finished" in text and "resumes it" not in text


def test_cells_that_share_a_run_count_once(tmp_path):
    index = sweep(tmp_path / "s") / "cells.json"
    entries = json.loads(index.read_text())
    index.write_text(json.dumps([*entries, {**entries[0], "name": "again"}]))
    text = progress.of_cells(tmp_path, tmp_path / "s", survey(tmp_path)).html()[0]
    assert "1 of 4 cells finished" in text and "again" not in [row[0] for row in rows(text, "cells")]
    with serving(tmp_path) as port:
        assert rows(ask(port, "/")[2], "sweeps-and-comparisons")[1] == ["s", "sweep", "unfinished", "4", "1", "1"]


def test_a_sweep_none_of_whose_cells_has_begun(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "cells.json").write_text(sweep(tmp_path / "t").joinpath("cells.json").read_text())
    assert "4 waiting" in progress.of_cells(tmp_path, tmp_path / "s", survey(tmp_path)).html()[0]
    (tmp_path / "s" / "cells.json").write_text("{")
    with pytest.raises(InputError, match="expected the JSON of a sweep's cells"):
        progress.of_cells(tmp_path, tmp_path / "s", ())


def test_a_run_that_goes_on(tmp_path):
    run = write(tmp_path / "runs" / "a", lines=(*LINES, {**LINES[2], "step": 30, "accuracy": 0.5}))
    with serving(tmp_path / "runs") as port, locked(run):
        text = ask(port, "/live/a")[2]
        assert "<h1>a: running, step 30 of 60</h1>" in text and REFRESH in text
        assert '<progress value="30" max="60"' in text and "accuracy on val: best at step 20, 0.750" in text
        write(run, ended=result(accuracy=0.5))
        status, headers, _ = ask(port, "/live/a")
        assert (status, headers["Location"]) == (303, "/report/a")


def test_how_a_run_ended(tmp_path):
    write(tmp_path / "failed", error_txt=f"Traceback\nValueError: {EVIL}")
    write(tmp_path / "lost", diverged_json='{"message": "loss became nan"}')
    write(tmp_path / "torn", diverged_json="{")
    failed, lost, torn = (progress.of_run(run).html()[0] for run in survey(tmp_path))
    assert "ValueError: &lt;script&gt;" in failed and "<script" not in failed and REFRESH not in failed
    assert "<pre>loss became nan</pre>" in lost and "diverged.json can&#x27;t be read" in torn


def test_a_cell_leads_back_to_its_sweep(tmp_path):
    with serving(fill(tmp_path / "runs")) as port:
        text = ask(port, "/live/sweep/cells/001")[2]
        assert '<a href="/live/sweep">Cells</a>' in text and "<h1>sweep/lr=2: unfinished" in text
        assert ">Cells</a>" not in ask(port, "/live/going")[2]
