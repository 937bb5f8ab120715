"""Addresses: nothing outside of the folder is reached by any."""

from __future__ import annotations

import os

import pytest

from jaxfer.errors import InputError
from jaxfer.ui import places
from tests.reports import pages
from tests.runs.folders import result, write
from tests.ui.serving import ask, comparisons, fill, serving, tree

PATHS = [
    "..",
    "../outside",
    "%2e%2e/outside",
    "%2E%2E%2Foutside",
    "..%2foutside",
    "good/../../outside",
    "good/%2e%2e/%2e%2e/outside",
    "%252e%252e/outside",
    "....//outside",
    "..\\outside",
    "..%5coutside",
    "%c0%ae%c0%ae/outside",
    "/etc",
    "%2Fetc",
    "//etc",
    "good%00",
    "%00",
    "good/./",
    "./good",
    "good//",
    ".hidden",
    "link",
    "link/inner",
    "sweep/cells/out",
    "file:///etc",
    "good/config.json",
    "notes/secret.txt",
    "notes/rank.json",
    "found/rank.json/x",
    "found/linked/rank.json",
    "out/doctor.json",
    "notes",
    "x" * 300,
    "x/" * 3000,
    "%",
    "%zz",
    "%ff%fe",
    "~root",
    "CON",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("places")
    for name in ("outside", "outside/inner"):
        write(place / name, ended=result(accuracy=0.5))
    root = fill(place / "runs")
    write(root / ".hidden")
    os.symlink(place / "outside", root / "link")
    os.symlink(place / "outside", root / "sweep" / "cells" / "out")
    pages.ranking(place / "outside" / "rank.json")
    (root / "out").mkdir()
    os.symlink(pages.diagnosis(place / "outside" / "doctor.json"), root / "out" / "doctor.json")
    return root


@pytest.fixture(scope="module")
def port(folder):
    with serving(folder) as port:
        yield port


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:20])
@pytest.mark.parametrize("view", ["report", "evaluated", "live"])
def test_no_address_leads_out(port, view, path):
    status, _, text = ask(port, f"/{view}/{path}")
    assert status == 404 and "secret" not in text.partition("<title>")[2].partition("No page")[0]


@pytest.mark.parametrize("target", ["/..", "/%2e%2e/etc/passwd", "/etc/passwd", "/report", "/good", "/favicon.ico"])
def test_other_addresses(port, target):
    assert ask(port, target)[0] == 404


def test_addresses_that_are_there(folder):
    assert places.find(folder, "") == folder and places.find(folder, "sweep/cells/000/") == folder / "sweep/cells/000"
    assert places.find(folder, "found/rank.json") == folder / "found" / "rank.json"
    assert [path.name for path in places.collections(folder)] == ["compared", "rank.json", "doctor.json", "sweep"]
    odd = folder / "a b%2e&\udcff"
    odd.mkdir()
    assert places.find(folder, places.quoted(folder, odd)) == odd
    odd.rmdir()


def test_links_that_lead_out_are_not_followed(tmp_path):
    secret = write(tmp_path / "outside", ended=result(accuracy=0.125))
    root = fill(tmp_path / "runs")
    os.symlink(secret, root / "linked")
    for name in ("result.json", "metrics.jsonl"):  # of a run that is in the folder
        (root / "going" / name).unlink(missing_ok=True)
        os.symlink(secret / name, root / "going" / name)
    comparisons.write(tmp_path / "elsewhere")
    (root / "compared" / "comparison.json").unlink()
    os.symlink(tmp_path / "elsewhere" / "comparison.json", root / "compared" / "comparison.json")
    before = tree(tmp_path)
    with serving(root) as port:
        text = ask(port, "/")[2]
        assert "linked" not in text and "0.1250" not in text
        for target in ("/live/going", "/report/going", "/report/compared", "/live/compared"):
            status, _, text = ask(port, target)
            assert status in (303, 422) and (status == 303 or "is a link that leads out of" in text), target
    assert tree(tmp_path) == before


def test_a_link_within_the_folder_is_fine(tmp_path):
    root = fill(tmp_path / "runs")
    os.symlink(root / "going", root / "again")
    with serving(root) as port:
        assert ask(port, "/live/again")[0] == 200


def test_fingerprints_change_with_files(tmp_path):
    run = write(tmp_path / "a")
    first = places.fingerprint(tmp_path, run)
    assert places.fingerprint(tmp_path, run) == first
    (run / "metrics.jsonl").write_text("")
    assert places.fingerprint(tmp_path, run) != first
    alone = places.fingerprint(tmp_path, run / "config.json")
    (run / "metrics.jsonl").write_text("{}")
    assert places.fingerprint(tmp_path, run / "config.json") == alone, "of a file by itself"
    os.symlink("/etc/passwd", run / "x")
    with pytest.raises(InputError, match="x is a link that leads out of"):
        places.fingerprint(tmp_path, run)
