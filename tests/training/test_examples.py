"""Whole runs with few labels: which rows each stage is fed, resumed, with loader processes, and second views."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer import config as configs
from jaxfer.errors import InputError
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.folder import read_result
from jaxfer.runs.metrics import TIMES, read_metrics
from jaxfer.training import stepping
from jaxfer.training.preflight import preflight
from tests.experiments import PHRASES, stop_after, tiny_config

pytestmark = pytest.mark.system

CONFIG = "configs/radiology_lm.py:tiny"


def reports(adapt=12, full=6, **overrides):
    """One pass over 48 phrases without labels, then one over the 24 that keep theirs."""
    settings = configs.load(CONFIG, {"parallel.devices": 1, "eval_every": 0, **overrides})
    settings.stage.adapt.steps, settings.stage.full.steps = adapt, full
    return settings


@pytest.fixture
def fed(monkeypatch):
    """What each stage was fed, in order: (rows of the source, names of the columns there were)."""
    stages = []

    def spied(feed, **how):
        rows, own = [], feed.targets
        stages.append((rows, set(feed.split.columns)))

        def targets(split, chosen, fields, draw):
            rows.extend(split.rows[chosen].tolist())
            return own(split, chosen, fields, draw)

        return batches(dataclasses.replace(feed, targets=targets), **how)

    batches = stepping.train_batches
    monkeypatch.setattr(stepping, "train_batches", spied)
    return stages


def lines(folder):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(folder / "metrics.jsonl")]


def leaves(folder):
    return flatten(jax.device_get(open_run(folder).state.params))


def same_run(one, two):
    a, b = leaves(one), leaves(two)
    assert a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)
    assert lines(one) == lines(two)


def test_a_stage_without_labels_reads_every_example_and_the_next_the_few(tmp_path, fed):
    result = jaxfer.run(reports(), tmp_path / "run", quiet=True)
    (adapt, inputs), (full, columns) = fed
    assert sorted(adapt) == list(range(48)) and inputs == {"text"}
    few = preflight(reports()).data.splits["train"].rows.tolist()
    assert sorted(full) == few and len(few) == 24 and columns == {"text", "label"}
    assert result["examples"] == {"train": 24, "val": 12, "unlabelled": 48}
    # Another seed labels others; more labels of one seed hold the fewer.
    other, more = (
        preflight(reports(**change)).data.splits["train"].rows for change in ({"seed": 1}, {"data.labels": 36})
    )
    assert other.tolist() != few and set(few) < set(more.tolist())


def test_labels_of_each_class_leave_the_rest_to_such_a_stage(tmp_path, fed):
    few = {"data.labels": 0, "data.labels_per_class": 2}
    jaxfer.run(reports(12, 3, **few), tmp_path / "run", quiet=True)
    (adapt, _), (full, _) = fed
    assert sorted(adapt) == list(range(48)) and len(set(full)) == 6


def test_without_a_number_of_labels_both_stages_read_the_same_split(tmp_path, fed):
    result = jaxfer.run(reports(12, 12, **{"data.labels": 0}), tmp_path / "run", quiet=True)
    assert sorted(fed[0][0]) == sorted(fed[1][0]) == list(range(48))
    assert fed[0][1] == {"text", "label"} and "unlabelled" not in result["examples"]


def test_the_first_stage_does_not_depend_on_the_labels(tmp_path):
    """Its losses are those of a run where every example has one."""
    for name, count in (("few", 24), ("all", 0)):
        jaxfer.run(reports(4, 1, **{"data.labels": count, "log_every": 1}), tmp_path / name, quiet=True)
    few, whole = ([line for line in lines(tmp_path / name) if line["stage"] == "adapt"] for name in ("few", "all"))
    assert few == whole and len(few) == 5


def test_resumed_and_with_loader_processes_it_is_the_same_run(tmp_path):
    settings = reports(4, 4, log_every=1, save_every=1)
    jaxfer.run(settings, tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, steps=2)
        with pytest.raises(SystemExit) as stopped:
            jaxfer.run(settings, tmp_path / "parts", quiet=True)
        assert stopped.value.code == 75
    jaxfer.run(configs.override(settings, {"data.workers": 1}), tmp_path / "parts", quiet=True)
    same_run(tmp_path / "whole", tmp_path / "parts")
    assert read_result(tmp_path / "parts")["examples"]["unlabelled"] == 48


def test_the_overview_says_what_such_a_stage_reads():
    said = preflight(reports()).overview().splitlines()
    assert said[-1] == "stage adapt: all 48 training examples, without their labels"
    assert "  train  train.tsv; drawn from 48: data.labels=24, seed 0" in said
    joined = " ".join(line.strip() for line in said)
    assert "(10 of 24 in train, 4 of 12 in val, 20 of 48 in all of train)" in joined
    assert "without their labels" not in preflight(configs.load(f"{CONFIG},plain")).overview()


def pictures(**overrides):
    settings = tiny_config("resnet_basic", batch_size=4)
    settings.parallel.devices = 1
    settings.stages = ("views", "labels")
    settings.stage.views = dict(task="unlabelled", method="simclr", steps=2)
    settings.stage.labels = dict(method="full", steps=2)
    settings.stream.view = dict(rows="same")
    return configs.override(settings, {"data.labels_per_class": 2, **overrides})


def test_a_second_view_is_of_the_stage_s_own_examples(tmp_path, monkeypatch):
    seen = []

    def spied(feed, **how):
        seen.append((feed.split.rows, {name: stream.feed.split.rows for name, stream in how["beside"].items()}))
        return batches(feed, **how)

    batches = stepping.train_batches
    monkeypatch.setattr(stepping, "train_batches", spied)
    data = preflight(pictures()).data
    jaxfer.run(pictures(), tmp_path / "run", quiet=True)
    (views, beside), (few, none) = seen
    assert len(views) == len(data.pool) > len(few) == len(data.splits["train"])
    np.testing.assert_array_equal(views, data.pool.rows)
    np.testing.assert_array_equal(beside["view"], views)
    assert none == {}


def test_a_second_view_with_labels_keeps_the_few():
    """Hidden words beside the classes of the same rows: every row that is read needs its label."""
    settings = tiny_config("bert_mean", task={"name": "masked_lm"}, batch_size=4)
    settings.parallel.devices = 1
    settings.data = dict(source="table", path=PHRASES, labels=20)
    settings.stream.kind = dict(rows="same", task="classification")
    assert preflight(settings).data.pool is None


@pytest.mark.parametrize("option", ["labels", "labels_per_class"])
def test_labels_that_nothing_reads(option):
    settings = tiny_config("bert_mean", task={"name": "masked_lm"})
    settings.parallel.devices = 1
    settings.data = {"source": "table", "path": PHRASES, option: 12}
    with pytest.raises(
        InputError, match=f"data.{option}=12 has no effect: task 'masked_lm' reads no labels; set it to"
    ):
        preflight(settings)
    settings.data[option] = 0
    settings.stream.words = {"source": "table", "path": PHRASES, "task": "masked_lm", option: 12}
    with pytest.raises(InputError, match="config.stream.words: a number of labels has no effect: task 'masked_lm' re"):
        preflight(settings)


def test_texts_alone_train_a_masked_model_and_no_other(tmp_path):
    (tmp_path / "train.tsv").write_text("text\n" + "".join(f"{word} film a\n" for word in ("good", "bad", "very") * 4))
    settings = tiny_config("bert_mean", task={"name": "masked_lm"}, batch_size=4, steps=1)
    settings.parallel.devices = 1
    settings.data = dict(source="table", path=str(tmp_path), label="", val_fraction=0.25)
    result = jaxfer.run(settings, tmp_path / "run", quiet=True)
    assert result["classes"] == [] and result["examples"] == {"train": 9, "val": 3}
    for task, kind in (("classification", "class"), ("regression", "value"), ("tagging", "tags")):
        settings.task = {"name": task}
        with pytest.raises(InputError, match=f"task {task!r} learns {kind!r}, data source 'table' has text; choose"):
            preflight(settings)
