"""The page of a ranking."""

from __future__ import annotations

import json
import re

import jaxfer
from tests.reports import pages


def test_units_remarks_and_run_folders_of_a_ranking(tmp_path):
    """Of each candidate the best unit is marked, and each reason and each note is said once."""
    text = jaxfer.report(pages.ranking(tmp_path / "r.json"), out=tmp_path / "r.html").path.read_text()
    assert "Highest logme: block_0 of a, stem of b, stem of c" in text
    section = text.partition('<section id="layers"')[2].partition("</section>")[0]
    found = [re.findall(r">([^<>]*)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", section)]
    assert found == [
        ["candidate", "unit", "logme", "remark"],
        *(["a", "stem", "0.1", ""], ["a", "block_0", "0.2", "best"], ["a", "head", "–", "no vector"]),
        *(["b", "stem", "0.2", "best"], ["b", "block_0", "0.2", ""], ["b", "head", "–", "no vector"]),
        *(["c", "stem", "0.3", "best"], ["c", "block_0", "0.2", ""], ["c", "head", "–", "no vector"]),
    ]
    assert "<li>b: no leep, nce: head 1 is random</li>" in text and text.count("<li>Note: an assumption</li>") == 1
    assert "runs/s/cells/00, runs/s/cells/01" in text
    older = json.loads((tmp_path / "r.json").read_text())
    for candidate in older["candidates"]:
        del candidate["notes"], candidate["reached"]["folders"]
    (tmp_path / "r.json").write_text(json.dumps(older))
    text = jaxfer.report(tmp_path / "r.json", out=tmp_path / "r.html").path.read_text()
    assert "not known" in text and "Note: " not in text
