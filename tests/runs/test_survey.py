"""Runs found below a folder, and what their files say."""

from __future__ import annotations

import json
import os

import pytest
from etils import epath

from jaxfer.errors import InputError
from jaxfer.runs import metrics
from jaxfer.runs.survey import survey
from tests.runs.folders import CONFIG, LINES, result, write


def test_a_folder_of_runs_in_every_state(tmp_path):
    write(tmp_path / "a" / "finished", ended=result(accuracy=0.875, loss=0.5))
    write(tmp_path / "a" / "going")
    write(tmp_path / "begun", lines=())
    write(tmp_path / "lost", diverged_json='{"message": "non-finite loss"}')
    write(tmp_path / "broken", lines=(), error_txt="Traceback")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')  # somebody's checkpoint
    runs = survey(tmp_path)
    assert [(run.name, run.state, run.step, run.steps) for run in runs] == [
        ("a/finished", "finished", 60, 60),
        ("a/going", "unfinished", 20, 60),
        ("begun", "unfinished", 0, 60),
        ("broken", "failed", 0, 60),
        ("lost", "diverged", 20, 60),
    ]
    done, going, *_ = runs
    assert done.scores == {"val.accuracy": 0.875, "val.loss": 0.5} and done.monitor == "accuracy"
    assert done.cost == {"seconds": 12.5, "compile_seconds": 4.0, "params_trainable": 1234, "params_total": 5678}
    assert going.scores == {"val.accuracy": 0.75, "val.loss": 1.25} and going.cost == {"seconds": 2.5}
    assert done.config["model.width"] == 8 and "rooms" not in done.config


def test_cells_have_their_names(tmp_path):
    for key in ("00aa", "00bb"):
        write(tmp_path / "sweep" / "cells" / key, ended=result(accuracy=0.5))
    index = [{"name": "probe seed 0", "folder": "cells/00aa"}]
    (tmp_path / "sweep" / "cells.json").write_text(json.dumps(index))
    assert [run.name for run in survey(tmp_path)] == ["sweep/00bb", "sweep/probe seed 0"]
    assert [run.name for run in survey(tmp_path / "sweep")] == ["00bb", "probe seed 0"]
    (tmp_path / "sweep" / "cells.json").write_text("torn")
    assert [run.name for run in survey(tmp_path / "sweep")] == ["cells/00aa", "cells/00bb"]


def test_a_run_itself_and_links(tmp_path):
    write(tmp_path / "one")
    os.symlink(tmp_path, tmp_path / "one" / "up")
    os.symlink(tmp_path / "one", tmp_path / "two")
    assert [run.name for run in survey(tmp_path / "one")][0] == "one"
    assert len(survey(tmp_path)) == 1


def test_steps_of_several_stages(tmp_path):
    stages = {"stages": ["probe", "full"], "stage": {"probe": {"steps": 10}, "full": {"steps": 30}}}
    write(tmp_path, changes=stages)
    assert survey(tmp_path)[0].steps == 40


def test_a_damaged_run_does_not_hide_the_others(tmp_path):
    write(tmp_path / "good")
    write(tmp_path / "bad", lines=("no object",))
    write(tmp_path / "worse", ended={"metrics": {}})
    (tmp_path / "worst").mkdir()
    (tmp_path / "worst" / "config.json").write_text("{")
    states = {run.name: (run.state, run.problem) for run in survey(tmp_path)}
    assert states["good"] == ("unfinished", "")
    assert [states[name][0] for name in ("bad", "worse", "worst")] == ["damaged"] * 3
    assert "result.json: cost: expected" in states["worse"][1] and "restore the file" in states["worse"][1]


def test_a_task_that_is_gone_has_no_monitor(tmp_path):
    write(tmp_path, changes={"task": {**CONFIG["task"], "name": "of_my_own"}})
    assert survey(tmp_path)[0].monitor == ""


def test_nothing_to_list(tmp_path):
    with pytest.raises(InputError, match="no run in .* or below it: expected folders that `jaxfer run`"):
        survey(tmp_path)
    with pytest.raises(InputError, match="expected a folder with runs, found nothing at .*nowhere"):
        survey(tmp_path / "nowhere")


def test_the_end_of_a_long_log(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "TAIL", 250)
    path = write(tmp_path, lines=LINES * 3) / "metrics.jsonl"
    assert metrics.last_lines(path) == list(LINES[1:])
    path.write_text(path.read_text() + '{"step": 30, "stage')  # a line that is being written
    assert metrics.last_lines(path) == list(LINES[1:])
    assert metrics.last_lines(tmp_path / "none") == []


def test_links_that_lead_out_are_left_out_on_demand(tmp_path):
    outside = write(tmp_path / "outside", ended=result(accuracy=0.5))
    root = tmp_path / "runs"
    write(root / "a")
    (write(root / "b") / "metrics.jsonl").unlink()
    os.symlink(outside, root / "c")
    os.symlink(outside / "metrics.jsonl", root / "b" / "metrics.jsonl")
    os.symlink(outside / "result.json", root / "b" / "result.json")
    os.symlink(root / "a", root / "d")
    found = {run.name: (run.state, run.step) for run in survey(root)}
    assert found.pop("a", found.pop("d", None)) == ("unfinished", 20)
    assert found == {"b": ("finished", 60), "c": ("finished", 60)}
    found = {run.name: (run.state, run.step) for run in survey(root, outside=False)}
    assert found.pop("a", found.pop("d", None)) == ("unfinished", 20)
    assert found == {"b": ("unfinished", 0)}


def test_what_cannot_be_opened_does_not_hide_the_others(tmp_path, monkeypatch):
    write(tmp_path / "good")
    write(tmp_path / "foreign")
    (write(tmp_path / "pipe", lines=()) / "x").mkdir()
    os.mkfifo(tmp_path / "pipe" / "metrics.jsonl")
    os.mkfifo(tmp_path / "pipe" / "x" / "cells.json")
    listed = type(epath.Path(tmp_path)).iterdir

    def refused(path):
        if path.name == "foreign":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(type(epath.Path(tmp_path)), "iterdir", refused)
    found = {run.name: (run.state, run.problem) for run in survey(tmp_path)}
    assert found["good"] == ("unfinished", "")
    assert found["foreign"][0] == found["pipe"][0] == "damaged"
    assert "foreign can't be listed (Permission denied); correct its permissions" in found["foreign"][1]
    assert "metrics.jsonl: expected a file, found none" in found["pipe"][1]
