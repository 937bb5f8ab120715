"""Stopping early, and what the best evaluation is by another metric."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

import jaxfer
from jaxfer.config import resolve
from jaxfer.config.experiment import RunConfig
from jaxfer.errors import InputError
from jaxfer.ports import make_port
from jaxfer.runs.finished import open_run, steps_taken
from jaxfer.runs.metrics import read_metrics
from jaxfer.tasks import classification
from jaxfer.training import session, stopping
from tests import kill
from tests.experiments import tiny_config, tiny_stage


def evaluations(values, *, patience, min_delta=0.0, metric="accuracy", named=""):
    """(steps at which the stage would end, the best step) of these values at steps 1, 2, ... of 100."""
    stage, run = tiny_stage("row_mlp", steps=100), RunConfig(patience=patience, min_delta=min_delta)
    task = stage.spec.task.watching("classification", metric, "auto")
    stage = dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, task=task))
    record = {"best": None}
    ends = [
        step
        for step, value in enumerate(values, 1)
        if stopping.judge(record, run, stage, {"step": step, named or metric: value})
    ]
    return ends, record["best"]["step"]


def test_a_stage_ends_after_so_many_evaluations_without_a_better_one():
    rising_once = [0.5, 0.6, 0.6, 0.55, 0.58]
    assert evaluations(rising_once, patience=3) == ([5], 2)
    assert evaluations(rising_once, patience=4) == ([], 2)
    assert evaluations(rising_once, patience=0) == ([], 2)
    assert evaluations([0.5, 0.6, 0.59, 0.61, 0.6], patience=2) == ([], 4), "the count begins again"
    assert evaluations([0.9, 0.8, 0.85], patience=1, metric="loss") == ([3], 2), "less is better"


def test_a_better_one_counts_from_min_delta_on():
    """0.5 -> 0.55 -> 0.58: each is better, none by more than 0.1 than what counted last."""
    assert evaluations([0.5, 0.55, 0.58, 0.65], patience=2, min_delta=0.1) == ([3], 4)
    assert evaluations([0.5, 0.55, 0.625, 0.7], patience=2, min_delta=0.1) == ([], 4)


def test_the_metric_that_is_watched():
    task = classification.task()
    assert task.watching("classification", "", "auto") is task
    loss = task.watching("classification", "loss", "auto")
    assert (loss.monitor, loss.maximize) == ("loss", False)
    assert task.watching("classification", "loss", "auto") is loss, "runs of one setting share programs"
    assert task.watching("classification", "macro_f1", "min").maximize is False
    with pytest.raises(InputError, match="config.monitor: task 'classification' has no metric 'macro_f2'; nearest: 'm"):
        task.watching("classification", "macro_f2", "auto")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"monitor": "acuracy"}, "has no metric 'acuracy'; nearest: 'accuracy'"),
        ({"monitor_mode": "most"}, "config.monitor_mode: expected one of auto, max, min, found 'most'"),
        ({"patience": -1}, "config.patience: expected at least 0"),
        ({"patience": 2, "eval_every": 0}, "config.eval_every=0 has one, at the end; set eval_every"),
        ({"min_delta": 0.1}, "is for config.patience, which is 0"),
    ],
)
def test_what_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        resolve(tiny_config("resnet_basic", **fields))


def test_a_metric_that_these_data_lack():
    with pytest.raises(InputError, match="config.monitor: auroc is of 2 classes, the data has 3; name another"):
        make_port(resolve(tiny_config("resnet_basic", monitor="auroc")), 3)
    with pytest.raises(InputError, match="macro_auroc is of at least 3 classes, the data has 2"):
        make_port(resolve(tiny_config("resnet_basic", monitor="macro_auroc")), 2)
    with pytest.raises(InputError, match="val has no 'worst_group_accuracy', it has accuracy; name one of these"):
        evaluations([0.5], patience=0, metric="worst_group_accuracy", named="accuracy")


def test_the_best_are_ranked_and_the_earlier_of_equals_comes_first():
    stage, run, record = tiny_stage("row_mlp"), RunConfig(keep_best=3), {"best": None}
    assert stopping.best_steps(record) == []
    for step, value in enumerate((0.5, 0.7, float("nan"), 0.7, 0.6, 0.8), 1):
        stopping.judge(record, run, stage, {"step": step, "accuracy": value})
    assert stopping.best_steps(record) == [6, 2, 4]
    stopping.forget(record)
    assert stopping.best_steps(record) == []


def test_unset_they_leave_an_experiment_as_it_was():
    plain = resolve(tiny_config("row_mlp"))
    watched = resolve(tiny_config("row_mlp", monitor="loss", patience=3, eval_every=1))
    fields = {"monitor", "monitor_mode", "patience", "min_delta"}
    assert not fields & (plain.identity().keys() | plain.to_dict().keys())
    assert fields & watched.identity().keys() == {"monitor", "patience"}
    assert resolve(jaxfer.load("digits")).run.patience == 0


def still(**fields):
    """Rates of 0: the first evaluation stays the best."""
    config = tiny_config("row_mlp", steps=20, eval_every=2, log_every=3, save_every=3, lr=0.0, patience=2, **fields)
    config.parallel.devices = 1
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """`still`, which ends at step 6, the second evaluation after the best."""
    folder = tmp_path_factory.mktemp("still")
    return folder, jaxfer.run(still(), folder, quiet=True)


def test_a_run_ends_early(whole):
    folder, result = whole
    assert (result["stopped"], result["steps"], result["checkpoint_step"]) == ({"train": 6}, 20, 6)
    lines = read_metrics(folder / "metrics.jsonl")
    said = [(line["step"], line["split"]) for line in lines]
    assert said == [(2, "train"), (2, "val"), (3, "train"), (4, "train"), (4, "val"), (6, "train"), (6, "val")]
    assert int(open_run(folder, "last").state.step) == 6
    best, last = (jaxfer.evaluate(folder, checkpoint=which) for which in ("best", "last"))
    assert best["loss"] == lines[1]["loss"] and last == result["metrics"]["val"], "running statistics go on"


def test_it_is_finished(whole, tmp_path, monkeypatch, capsys):
    before, result = whole
    folder = shutil.copytree(before, tmp_path / "copy")
    monkeypatch.setattr(session, "Turn", None)  # nothing is trained
    assert jaxfer.run(still(), folder) == result
    tested = jaxfer.run(still(test=True), folder)
    assert tested["stopped"] == {"train": 6} and "accuracy" in tested["metrics"]["test"]
    assert tested["cost"] == result["cost"]
    longer = still()
    longer.steps = 30
    assert jaxfer.run(longer, folder)["steps"] == 30
    said = "30 steps and not 20 change nothing: stage 'train' stopped early, at step 6"
    assert said in capsys.readouterr().err


def test_the_best_checkpoints_stay(tmp_path):
    """The three best, and the last two saves, 18 and 20; beside them what was best at the first of these."""
    config = still(monitor="loss", monitor_mode="max", keep_best=3)
    config.patience, config.lr = 0, 3e-2
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    losses = {
        line["step"]: line["loss"] for line in read_metrics(tmp_path / "run/metrics.jsonl") if line["split"] == "val"
    }
    best, before = (
        sorted((step for step in losses if step <= last), key=lambda step: (-losses[step], step))[:3]
        for last in (20, 18)
    )
    assert result["best_steps"] == best
    kept = {int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()}
    assert kept == {*best, *before, 18, 20}
    assert jaxfer.evaluate(tmp_path / "run", checkpoint=str(best[2]))["loss"] == pytest.approx(losses[best[2]])
    with pytest.raises(InputError, match="no checkpoint of step 7 in"):
        open_run(tmp_path / "run", "7")
    with pytest.raises(InputError, match="unknown checkpoint 'first'; known: result, last, best, or a step"):
        open_run(tmp_path / "run", "first")


class Stop(Exception):
    """In place of a kill."""


def test_killed_at_any_save_it_ends_at_the_same_step(whole, tmp_path, monkeypatch):
    expected = kill.ending(whole[0])
    save, evaluate = session.Checkpoints.save, session.Session._evaluate
    for number in (1, 2, 4, 6):  # after an evaluation, a save without one, a save, the last evaluation
        count, folder = iter(range(100)), tmp_path / str(number)

        def cut(count=count, number=number):
            if next(count) == number:
                raise Stop

        def saving(self, *arguments, cut=cut):
            save(self, *arguments)
            self.wait()
            cut()

        def evaluating(self, *arguments, cut=cut):
            evaluate(self, *arguments)
            cut()

        monkeypatch.setattr(session.Checkpoints, "save", saving)
        monkeypatch.setattr(session.Session, "_evaluate", evaluating)
        with pytest.raises(Stop):
            jaxfer.run(still(), folder, quiet=True)
        monkeypatch.setattr(session.Checkpoints, "save", save)
        monkeypatch.setattr(session.Session, "_evaluate", evaluate)
        jaxfer.run(still(), folder, quiet=True)
        assert kill.ending(folder) == expected


def test_the_next_stage_begins_where_it_would_have(tmp_path):
    config = still(stages=("first", "second"))
    config.stage.first = dict(steps=10)
    config.stage.second = dict(steps=4, lr=0.01)
    result = jaxfer.run(config, tmp_path, quiet=True)
    assert result["stopped"] == {"first": 6} and result["checkpoint_step"] == 14
    assert steps_taken(tmp_path, result) == 6 + 4, "of a comparison's arm they are what is counted"
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["stage"] == "second"][0] == 12


def test_whoever_watches_a_run_can_end_it(tmp_path):
    """It is told of every evaluation, and the run is the one that config.patience would have ended there."""
    told = []

    def watch(line):
        told.append(line)
        return line["step"] == 4

    config = tiny_config("resnet_basic", steps=8, eval_every=2, save_every=3)
    result = jaxfer.run(config, tmp_path / "run", quiet=True, watch=watch)
    assert [line["step"] for line in told] == [2, 4] and result["stopped"] == {"train": 4}
    lines = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if line["split"] == "val"]
    assert [{name: line[name] for name in told[0]} for line in lines] == told
    assert result["metrics"]["val"]["accuracy"] == lines[-1]["accuracy"]
    assert int(open_run(tmp_path / "run").state.step) == 4
    assert jaxfer.run(config, tmp_path / "run", quiet=True) == result, "it is finished"
    whole = jaxfer.run(config, tmp_path / "whole", quiet=True, watch=lambda line: line["step"] == 8)
    assert "stopped" not in whole, "nothing is ended by its last evaluation"
