"""The table of runs."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from jaxfer.errors import InputError
from jaxfer.reports import made
from jaxfer.runs.folder import locked
from jaxfer.runs.survey import survey
from jaxfer.ui import overview
from jaxfer.ui.listed import below
from jaxfer.ui.overview import Asked
from tests.reports import pages
from tests.runs.folders import LINES, write
from tests.ui.serving import ask, fill, serving, sweep

ROW = re.compile(r"<tr>(.*?)</tr>", re.DOTALL)


def rows(text, name):
    """Texts of the cells of each row of a section's table, its headers first."""
    section = text.partition(f'<section id="{name}"')[2].partition("</section>")[0]
    split = (re.split(r"</t[hd]>", row)[:-1] for row in ROW.findall(section))
    return [[re.sub(r"<[^>]*>", "", cell) for cell in row] for row in split]


def test_what_jaxfer_runs_lists(tmp_path):
    with serving(fill(tmp_path / "runs")) as port:
        text = ask(port, "/")[2]
    assert "<h1>7 runs in runs</h1>" in text and "<script" not in text
    headers, *body = rows(text, "runs")
    assert headers == ["name", "state", "val.accuracy", "seconds", "params_trainable", "lr"]
    found = {row[0]: row[1:] for row in body}
    assert found["good"] == ["finished", "0.8750", "12.5", "1,234", "0.01"]
    assert found["going"] == ["step 20 of 60", "0.7500", "2.5", "", "0.01"]
    assert found["sweep/lr=3"][0] == "failed at step 20 of 60"
    assert found["&lt;script&gt;alert(&#x27;x&#x27;)&lt;"][-1] == "0.5"
    assert found["torn"][0].startswith("damagedtorn/config.json: expected a JSON file of a run")
    assert 'href="/report/good"' in text and 'href="/live/going"' in text and 'href="/live/torn"' not in text
    assert 'href="/live/%3Cscript%3Ealert%28%27x%27%29%3C"' in text
    assert rows(text, "sweeps-and-comparisons") == [
        ["name", "kind", "state", "cells", "finished", "lost"],
        ["compared", "comparison", "finished", "0", "0", "0"],
        ["sweep", "sweep", "unfinished", "4", "1", "1"],
    ]
    assert rows(text, "rankings-and-diagnoses") == [
        ["name", "kind", "finding"],
        ["found/rank.json", "ranking", "&lt;script&gt;alert(&#x27;x&#x27;)&lt; ranks first by logme"],
        ["found/doctor.json", "diagnosis", "1 severe, 1 warning, 1 note"],
    ]
    assert '<h2 id="rankings-and-diagnoses-title">1 ranking, 1 diagnosis</h2>' in text
    assert 'http-equiv="refresh"' not in text


def test_a_ranking_and_a_diagnosis_have_the_pages_of_reports(tmp_path):
    root = fill(tmp_path / "runs")
    with serving(root) as port:
        for name, kind in (("rank", "ranking"), ("doctor", "diagnosis")):
            status, _, text = ask(port, f"/report/found/{name}.json")
            assert status == 200 and f'<p class="kind">{kind}</p>' in text and "With val evaluated" not in text
            assert (
                text.partition("<header>")[2]
                == made(root / "found" / f"{name}.json").html()[0].partition("<header>")[2]
            )
            for view in ("live", "evaluated"):
                assert ask(port, f"/{view}/found/{name}.json")[1]["Location"] == f"/report/found/{name}.json"
        assert ask(port, "/report/found")[1]["Location"] == "/report/found/rank.json"
        (root / "found" / "rank.json").unlink()
        assert ask(port, "/report/found")[1]["Location"] == "/report/found/doctor.json"
        before = ask(port, "/report/found/doctor.json")[2]
        pages.diagnosis(root / "found" / "doctor.json", findings=4)
        assert ask(port, "/report/found/doctor.json")[2] != before


def test_a_folder_without_a_run(tmp_path):
    """Of rankings and diagnoses alone, and of a sweep whose cells all wait: `0 of 4`, at its own address too."""
    (tmp_path / "found").mkdir()
    pages.ranking(tmp_path / "found" / "rank.json")
    pages.diagnosis(tmp_path / "doctor.json")
    assert overview.counted(tmp_path, below(tmp_path)) == "1 diagnosis, 1 ranking"
    with serving(tmp_path) as port:
        status, _, text = ask(port, "/")
        assert status == 200 and f"<h1>1 diagnosis, 1 ranking in {tmp_path.name}</h1>" in text
        assert ask(port, "/report/")[1]["Location"] == "/report/doctor.json"
        assert ask(port, "/report/doctor.json")[0] == 200
    for path in ("found/rank.json", "doctor.json"):
        (tmp_path / path).unlink()
    with pytest.raises(InputError, match="no run in"):
        below(tmp_path)
    index = sweep(tmp_path / "s") / "cells.json"
    shutil.rmtree(tmp_path / "s" / "cells")
    assert overview.counted(tmp_path, below(tmp_path)) == "1 sweep" and index.exists()
    for root, address in ((tmp_path, "s"), (tmp_path / "s", "")):
        with serving(root) as port:
            status, _, text = ask(port, "/")
            assert status == 200 and rows(text, "sweeps-and-comparisons")[1][1:] == ["sweep", "waiting", "4", "0", "0"]
            assert ask(port, f"/report/{address}")[1]["Location"] == f"/live/{address}"
            status, _, text = ask(port, f"/live/{address}")
            assert (
                status == 200 and "<h1>s: waiting, 0 of 4 cells finished</h1>" in text and "command starts it." in text
            )


def test_what_goes_on_is_looked_at_again(tmp_path):
    root = fill(tmp_path / "runs")
    with serving(root) as port, locked(root / "going"):
        text = ask(port, "/")[2]
    assert f'<meta http-equiv="refresh" content="{overview.REFRESH}">' in text
    assert dict(row[:2] for row in rows(text, "runs"))["going"] == "running: step 20 of 60"


def test_sorted_filtered_and_in_other_columns(tmp_path):
    root = fill(tmp_path / "runs")
    with serving(root) as port:
        text = ask(port, "/?sort=-accuracy&filter=accuracy%3E0&columns=accuracy,lr")[2]
        assert [row[0] for row in rows(text, "runs")][:2] == ["name", "good"]
        assert rows(text, "runs")[0] == ["name", "val.accuracy", "lr"]
        assert "6 of 7 runs" in text and "Where accuracy&gt;0." in text
        assert 'href="/?sort=-lr&amp;filter=accuracy%3E0&amp;columns=accuracy%2Clr"' in text
        for query, said in {
            "sort=nothing": "no run has a field &#x27;nothing&#x27;",
            "filter=lr": "expected FIELD, one of",
            "x=1": "expected sort, filter, columns or from",
            "from=-1": "expected the number of a row",
            "&".join(["filter=lr>0"] * 60): "expected at most 50 fields",
        }.items():
            status, _, text = ask(port, "/?" + query.replace(">", "%3E"))
            assert status == 400 and said in text, query


def test_a_table_longer_than_a_page(tmp_path):
    for number in range(205):
        write(tmp_path / f"{number:03}", lines=LINES[:1])
    page, _ = overview.page(tmp_path, survey(tmp_path), Asked()).html()
    assert "Rows 1 to 200 of 205. " in page and 'href="/?from=200">later' in page and "earlier" not in page
    page, _ = overview.page(tmp_path, survey(tmp_path), Asked.read("from=200")).html()
    assert [row[0] for row in rows(page, "runs")] == ["name", *(f"{number:03}" for number in range(200, 205))]
    assert 'href="/">earlier' in page
    page, _ = overview.page(tmp_path, survey(tmp_path), Asked.read("from=900")).html()
    assert rows(page, "runs")[1:] == []


def test_folders_that_vanish(tmp_path):
    run = write(tmp_path / "runs" / "one")
    with serving(tmp_path / "runs") as port:
        assert ask(port, "/")[0] == 200
        (run / "config.json").unlink()
        status, _, text = ask(port, "/")
        assert status == 400 and "no run in" in text


WRONG = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"3",
    b'"x"',
    b"\xff\xfe\0",
    b"[" * 20_000,
    b'{"stages": 3}',
    b'{"stages": [], "init": "x", "model": {"name": "x"}}',
    b'{"stages": ["a"], "stage": {}, "init": "x", "model": {"name": "x"}, "task": {"name": "x"}}',
    b'{"stages": [], "steps": "x", "init": "x", "model": {"name": "x"}, "task": {"name": []}}',
    b'{"metrics": {"val": {"accuracy": "x"}}, "cost": {}}',
    b'{"metric": "accuracy", "findings": [{}]}',
    b'[{"name": "a", "group": "", "folder": "../../x", "overrides": {}, "status": "x"}]',
    b'[{"name": 3}]',
    b'{"step": "x"}\n',
    b'{"step": NaN, "split": 3}\n',
    b'{"step": 1, "split": "val"}\n{"step": 1e999, "split": "val", "accuracy": "x"}\n',
]
FILES = ["good/config.json", "good/result.json", "good/metrics.jsonl", "going/config.json", "going/metrics.jsonl"]
FILES += ["sweep/cells.json", "sweep/cells/000/result.json", "sweep/cells/001/config.json", "compared/cells.json"]
FILES += ["found/rank.json", "found/doctor.json"]
FILES += ["compared/comparison.json", "compared/selection.json", "compared/protocol.json", "compared/opened.json"]


@pytest.mark.parametrize("name", FILES)
def test_no_broken_file_takes_a_page_down(tmp_path, name):
    root = fill(tmp_path / "runs")
    path = root / name
    with serving(root) as port:
        for content in WRONG:
            path.write_bytes(content)
            status, _, text = ask(port, "/")
            assert status == 200 and ">good<" in text or name.startswith("good"), content
            for thing in ("good", "going", "sweep", "compared", "found/rank.json", "found/doctor.json"):
                for view in ("report", "live"):
                    assert ask(port, f"/{view}/{thing}")[0] in (200, 303, 404, 422), (view, thing, content)


def test_a_pipe_in_place_of_a_file_blocks_nobody(tmp_path):
    root = fill(tmp_path / "runs")
    for name in ("going/metrics.jsonl", "good/result.json"):
        (root / name).unlink()
        os.mkfifo(root / name)
    (root / "sweep" / "cells.json").unlink()
    (root / "sweep" / "cells.json").mkdir()
    (root / "compared" / "cells.json").unlink()
    os.mkfifo(root / "compared" / "cells.json")
    with serving(root) as port:
        found = dict(row[:2] for row in rows(ask(port, "/")[2], "runs"))
        assert found["going"].startswith("damaged") and found["good"].startswith("damaged")
        for target in ("/live/going", "/report/good", "/live/compared", "/report/compared"):
            assert ask(port, target)[0] == 422, target


def test_what_no_reader_expects_is_said(tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("<b>")

    monkeypatch.setattr(overview, "page", broken)
    with serving(fill(tmp_path / "runs")) as port:
        status, _, text = ask(port, "/")
    assert status == 422 and "runs can&#x27;t be shown" in text and "KeyError: &#x27;&lt;b&gt;&#x27;" in text


def test_what_an_address_asks():
    asked = Asked.read("sort=-lr&filter=lr>0.1&filter=a=b&columns=lr, method&from=200")
    assert asked == Asked("-lr", ("lr>0.1", "a=b"), ("lr", "method"), 200)
    assert Asked.read(asked.address().partition("?")[2]) == asked
    assert Asked().address() == "/" and Asked(start=3).address(start=0) == "/"
    with pytest.raises(InputError):
        Asked.read("from=٣")
