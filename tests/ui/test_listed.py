"""A folder that many ask for is surveyed once."""

from __future__ import annotations

import concurrent.futures
import time

import pytest

from jaxfer.errors import InputError
from jaxfer.runs.folder import locked
from jaxfer.ui import listed
from jaxfer.ui.listed import Listed
from tests.runs.folders import write


def test_fifty_who_ask_at_once_share_a_survey_and_a_page(tmp_path, monkeypatch):
    surveys, pages, survey = [], [], listed.survey

    def slow(folder, **options):
        surveys.append(folder)
        time.sleep(0.3)
        return survey(folder, **options)

    def page(runs):
        pages.append(runs)
        return " ".join(run.name for run in runs)

    monkeypatch.setattr(listed, "survey", slow)
    monkeypatch.setattr(listed, "SHARED", 1000.0)
    write(tmp_path / "a")
    runs = Listed(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(50) as clients:
        found = set(clients.map(lambda i: runs.shown(i % 2, page), range(50)))
    assert found == {"a"} and surveys == [tmp_path] and len(pages) == 2
    runs._until = 0.0
    write(tmp_path / "b")
    assert runs.shown(0, page) == "a b" and len(surveys) == 2 and len(pages) == 3


def test_a_run_in_a_folder(tmp_path):
    run, runs = write(tmp_path / "a"), Listed(tmp_path)
    assert runs.at(run).name == "a" and listed.state(runs.at(run)) == "unfinished"
    with locked(run):
        assert listed.state(runs.at(run)) == "running"
    with pytest.raises(InputError, match="no run at .*b: expected a folder"):
        runs.at(tmp_path / "b")
