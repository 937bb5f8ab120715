"""A run's files as events: in order, once each, through rewinds and while the run goes on."""

from __future__ import annotations

import json
import math
import os

import pytest
from etils import epath

import jaxfer.config
from jaxfer.errors import InputError, Interrupted
from jaxfer.runs.folder import in_use, locked
from jaxfer.trackers import TRACKERS, Begin, End, Metrics, following, make
from tests.runs.folders import LINES, result, write

STARTED = 1_700_000_000.0


@pytest.fixture
def run(tmp_path):
    """A run's folder with three lines, begun at `STARTED`."""
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1,), width=4, stem="cifar", image=(8, 8, 1))
    config.update(data=dict(source="digits"), steps=60)
    folder = write(tmp_path / "digits" / "one", changes=jaxfer.config.resolve(config).to_dict())
    (folder / "ledger.json").write_text("{}")
    os.utime(folder / "ledger.json", (STARTED, STARTED))
    return epath.Path(folder)


def add(folder, *lines, start=()):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (*start, *lines)))


def line(step, loss, split="train"):
    return {"step": step, "stage": "train", "split": split, "loss": loss, "seconds": step / 10}


def finish(folder):
    (folder / "result.json").write_text(json.dumps(result(accuracy=0.875, loss=0.5)))


def told(folder, **options):
    begin, *metrics, end = following.events(folder, **options)
    return begin, metrics, end


def test_a_finished_run(run):
    finish(run)
    begin, metrics, end = told(run)
    assert (begin.name, begin.folder, begin.started) == ("one", str(run), STARTED)
    assert begin.config["model.width"] == 4 and begin.config["seed"] == 0 and len(begin.id) == 16
    assert metrics == [
        Metrics(step=10, time=STARTED + 1.5, values={"train/loss": 2.0, "train/grad_norm": 3.0}),
        Metrics(step=20, time=STARTED + 2.0, values={"train/loss": 1.0, "train/grad_norm": 2.0}),
        Metrics(step=20, time=STARTED + 2.5, values={"val/accuracy": 0.75, "val/loss": 1.25}),
    ]
    assert (end.finished, end.step, end.time) == (True, 60, STARTED + 2.5)
    assert end.summary == {
        "result/val/accuracy": 0.875,
        "result/val/loss": 0.5,
        "cost/seconds": 12.5,
        "cost/compile_seconds": 4.0,
        "cost/params_trainable": 1234.0,
        "cost/params_total": 5678.0,
    }


def test_an_unfinished_run_told_once(run):
    _, metrics, end = told(run)
    assert len(metrics) == 3 and end == End(finished=False, step=20, time=STARTED + 2.5, summary={})


def test_what_is_no_number_is_not_told(run):
    add(run, line(10, math.nan) | {"confusion": [[1, 0], [0, 1]], "acc": 1})
    assert told(run)[1][0].values == {"train/acc": 1.0}


def followed(run, monkeypatch, *looks, said=None):
    """What is told of a run that does one of `looks` between two looks at it, and then ends."""
    waiting = iter(looks)
    monkeypatch.setattr(following, "in_use", lambda folder: waiting is not None)

    def sleep(seconds):
        nonlocal waiting
        look = next(waiting, None)
        if look is None:
            waiting = None
        else:
            look()

    return told(run, live=True, sleep=sleep, say=(said if said is not None else []).append)


def test_a_run_that_goes_on(run, monkeypatch):
    more = line(30, 0.5)
    _, metrics, end = followed(
        run,
        monkeypatch,
        lambda: (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + '{"step": 30, "st'),
        lambda: add(run, more, start=LINES),
        lambda: None,
        lambda: finish(run),
    )
    assert [(m.step, *m.values) for m in metrics][2:] == [(20, "val/accuracy", "val/loss"), (30, "train/loss")]
    assert end.finished


def test_a_process_that_is_gone(run, monkeypatch):
    _, metrics, end = followed(run, monkeypatch)
    assert len(metrics) == 3 and not end.finished


def test_a_resumed_run_is_told_once(run, monkeypatch):
    """It goes back to step 10 and logs step 20 again, later by the clock and else the same."""
    said, again = [], [{**one, "seconds": 9.0} for one in LINES[1:]]
    _, metrics, _ = followed(
        run,
        monkeypatch,
        lambda: add(run, LINES[0]),
        lambda: add(run, *again, line(30, 0.5), start=LINES[:1]),
        said=said,
    )
    assert [m.step for m in metrics] == [10, 20, 20, 30] and said == []


def test_another_outcome_is_said_and_the_first_stays(run, monkeypatch):
    said = []
    _, metrics, _ = followed(
        run,
        monkeypatch,
        lambda: add(run, line(20, 7.0), line(30, 8.0), start=LINES[:1]),
        lambda: add(run, line(20, 7.0), line(30, 8.0), line(40, 9.0), start=LINES[:1]),
        said=said,
    )
    assert [m.step for m in metrics] == [10, 20, 20, 30, 40]
    assert metrics[1].values["train/loss"] == 1.0
    assert said == ["warning: step 20 was trained again with another outcome; the first stays told"]


def test_the_identity_survives_an_extension_and_no_other_change(run, tmp_path):
    content = json.loads((run / "config.json").read_text())
    before = following.identity(run)
    for change, same in (({"steps": 90}, True), ({"log_every": 5}, True), ({"lr": 0.5}, False)):
        (run / "config.json").write_text(json.dumps(content | change))
        assert (following.identity(run) == before) == same, change
    other = write(tmp_path / "other", changes=content)
    assert following.identity(epath.Path(other)) != before


def test_a_lock_is_seen_without_being_touched(tmp_path):
    folder = epath.Path(tmp_path)
    assert not in_use(folder)
    with locked(folder):
        assert in_use(folder)
    assert not in_use(folder)


class Recorder:
    """A tracker that keeps what it is told, and may fail."""

    def __init__(self, error=None):
        self.events, self.error = [], error

    def begin(self, event):
        self.events.append(event)

    def metrics(self, event):
        if self.error:
            raise self.error
        self.events.append(event)

    end = begin


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(following, "make", lambda name, **options: recorder.events.append(options) or recorder)
    return recorder


def test_track(run, recorder):
    said = []
    following.track(run, "x", say=said.append)
    options, begin, *metrics, end = recorder.events
    assert options == {"project": "digits", "into": ""}
    assert isinstance(begin, Begin) and len(metrics) == 3 and isinstance(end, End)
    assert said == [f"told x of {run} up to step 20; the run is not finished"]


def test_a_tracker_that_fails_and_ctrl_c(run, recorder):
    before = {path: path.read_bytes() for path in run.iterdir()}
    recorder.error = ConnectionError("no server\nat all")
    with pytest.raises(InputError, match="--to=x: ConnectionError: no server; the run is untouched"):
        following.track(run, "x")
    recorder.error = KeyboardInterrupt()
    with pytest.raises(Interrupted, match="the run goes on"):
        following.track(run, "x")
    assert recorder.events[-1].finished is False, "what was told is flushed"
    assert before == {path: path.read_bytes() for path in run.iterdir()}


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no run at .*: expected a folder that `jaxfer run` wrote"):
        following.track(tmp_path, "wandb")
    with pytest.raises(InputError, match="--to=tensorbord: no such tracker; nearest: 'tensorboard'"):
        make("tensorbord", project="", into="")
    monkeypatch.setattr("importlib.import_module", absent)
    for name, package in TRACKERS.items():
        with pytest.raises(
            InputError, match=rf"--to={name} needs the package {package}; pip install 'jaxfer\[{name}\]'"
        ):
            make(name, project="", into="")


def absent(module):
    raise ModuleNotFoundError("not installed", name=TRACKERS[module.rpartition(".")[2]])
