"""Stored features: the numbers are those of a run without them, and no row of a wrong key or content is ever read."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import jaxfer
from jaxfer.commands import main
from jaxfer.config.experiment import ParallelConfig
from jaxfer.conformance.training import entered
from jaxfer.data.split import Array, Split
from jaxfer.parallel.placement import placement
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.metrics import read_metrics
from jaxfer.training import cached, feature_store, loop
from jaxfer.training.feature_store import Store
from jaxfer.training.preemption import Notice
from tests.experiments import tiny_config, tiny_stage

ONE = placement(ParallelConfig(devices=1))
MIXED = {"devices": 4, "fsdp": 2, "tensor": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def probe(case, **fields):
    fields = dict(method="probe", steps=12, eval_every=6, log_every=1, lr=1e-2, eval_batch_size=5) | fields
    config = tiny_config(case, **fields)
    config.parallel.devices = fields.get("parallel", {}).get("devices", 1)
    if "tokenizer" in config.model:
        config.model.buckets, config.model.dropout = (5, 7), 0.1  # right before the output layer, where it is drawn
    return config


def run(config, path, **fields):
    for name, value in fields.items():
        config[name] = value
    jaxfer.run(config, path, quiet=True)
    return json.loads((path / "result.json").read_text()), list(read_metrics(path / "metrics.jsonl"))


def alike(config, path, **fields):
    """A run without features and one with them, of equal numbers; returns the result of the latter."""
    plain, wanted = run(config(), path / "plain", cache="off", **fields)
    kept, found = run(config(), path / "kept", **fields)
    for line, other in zip(found, wanted, strict=True):
        assert line.keys() == other.keys()
        for name in line.keys() - {"step", "stage", "split", "seconds"}:
            assert line[name] == pytest.approx(other[name], rel=1e-5)
    assert "features" not in plain["cost"] and kept["cost"]["step_flops"] < plain["cost"]["step_flops"]
    return kept


def same_outputs(path):
    outputs = [jaxfer.features(path / name, unit="head").arrays()["features"] for name in ("plain", "kept")]
    np.testing.assert_array_equal(*(x.argmax(-1) for x in outputs))
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "parallel"),
    [
        ("resnet_basic", {}),
        pytest.param("bert_pooler", {}, marks=pytest.mark.system),
        pytest.param("mobilenet_v1", {}, marks=pytest.mark.system),
        pytest.param("vit_cls", MIXED, marks=pytest.mark.system),
    ],
)
def test_losses_and_predictions_are_those_of_every_step_anew(case, parallel, tmp_path):
    kept = alike(lambda: probe(case), tmp_path, parallel={"devices": 1} | parallel)
    same_outputs(tmp_path)
    assert kept["cost"]["features"]["computed"] == kept["examples"]["train"] + kept["examples"]["val"]


@pytest.mark.system
def test_another_seed_of_one_source_computes_nothing(tmp_path):
    run(probe("vit_cls", method="full", steps=1), tmp_path / "source")
    source = dict(init=f"run:{tmp_path / 'source'}", head="reset", steps=6)
    run(probe("vit_cls", **source), tmp_path / "one")
    other, _ = run(probe("vit_cls", seed=3, lr=0.1, **source), tmp_path / "other")
    assert other["cost"]["features"]["computed"] == 0


FIELDS = dict(batch_size=3, stop=False, say=lambda line: None)


def of(case="vit_cls", code="code", dtype="float32", views=(1, ()), **fields):
    stage = tiny_stage(case, method="probe", **fields)
    made = cached.of_stage(stage, entered(stage), ONE, code, dtype=dtype, views=views, **FIELDS)
    return made, entered(stage)


def images(seed=0, count=9):
    values = np.random.default_rng(seed).integers(0, 256, (count, 6, 9, 3), np.uint8)
    return Split.whole(image=Array(values, "image"))


def key(kept, split):
    return kept._store(split)[0].folder.name


def test_each_ingredient_of_the_key_makes_another(monkeypatch):
    """A replaced file of the same size is another content of its column."""
    kept, state = of()
    keys = [key(kept, images())]
    for path in ("stem/patch/kernel", "block_1/norm_1/bias"):
        leaves = flatten(state.params)
        assert path in leaves
        changed = state.replace(params=unflatten({**leaves, path: leaves[path] + 1e-6}))
        keys.append(key(cached.of_stage(kept.plain, changed, ONE, "code", **FIELDS), images()))
    keys.append(key(of(code="other")[0], images()))
    keys.append(key(of(compute_dtype="bfloat16")[0], images()))
    keys.append(key(kept, images(seed=1)))
    keys.append(key(kept, images(count=8)))
    spec, port = kept.plain.spec, kept.plain.spec.port
    for encoding in (dict(mean=(0.1, 0.2, 0.3)), dict(std=(0.1, 0.2, 0.3)), dict(interpolation="bicubic")):
        other = dataclasses.replace(port, encodings=(dataclasses.replace(port.encoding, **encoding),))
        stage = dataclasses.replace(kept.plain, spec=dataclasses.replace(spec, port=other))
        keys.append(key(dataclasses.replace(kept, plain=stage), images()))
    with monkeypatch.context() as patch:
        patch.setattr(cached.jax, "__version__", "0")
        keys.append(key(kept, images()))
    assert len(set(keys)) == len(keys)
    assert key(of()[0], images().take(np.array([3, 1]))) == keys[0]  # other rows of the same


def test_only_rows_that_are_wrong_are_computed_again():
    kept, state = of()
    split = images()
    few = kept.split(split.take(np.array([4, 2, 7])), state)
    assert kept.computed == 3
    first = np.array(kept.split(split, state).columns["features"].values)
    assert kept.computed == 9
    np.testing.assert_array_equal(few.columns["features"].values[[2, 4, 7]], first[[2, 4, 7]])
    store, _ = kept._store(split)
    path, size = store.folder / feature_store.ROWS, store.row.itemsize
    content = bytearray(path.read_bytes())
    content[3 * size + 20] ^= 1  # a value
    content[5 * size] ^= 1  # a checksum
    content[6 * size : 7 * size] = content[8 * size : 9 * size]  # another row
    path.write_bytes(content)
    again, _ = of()
    np.testing.assert_array_equal(again.split(split, state).columns["features"].values, first)
    assert again.computed == 3
    path.write_bytes(path.read_bytes()[:-1])  # another length: nothing of it is believed
    again, _ = of()
    np.testing.assert_array_equal(again.split(split, state).columns["features"].values, first)
    assert again.computed == 9


FILLS = """
import sys, time, numpy as np
from pathlib import Path
from jaxfer.training.feature_store import Store
store = Store(folder=Path(sys.argv[1]), count=400, shape=(300,))
with store.locked(lambda: None):
    store.open({})
    print("begun", flush=True)
    missing = store.missing(np.arange(400))
    for row in missing:
        store.write(np.array([row]), np.full((1, 300), row, np.float32))
        time.sleep(0.0005)
"""


def test_killed_while_it_fills_no_row_is_wrong(tmp_path):
    store, draw = Store(folder=tmp_path / "store", count=400, shape=(300,)), random.Random(0)
    left = 400
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", FILLS, str(store.folder)], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(draw.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        child.wait()
        missing = store.missing(np.arange(400))
        there = np.setdiff1d(np.arange(400), missing)
        np.testing.assert_array_equal(store.values[there], np.repeat(there[:, None], 300, 1))
        assert len(missing) <= left
        left = len(missing)
    assert left < 400


def test_a_second_process_waits_and_computes_nothing(tmp_path):
    store, said = Store(folder=tmp_path / "store", count=400, shape=(300,)), []
    with subprocess.Popen([sys.executable, "-c", FILLS, str(store.folder)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        with store.locked(lambda: said.append("waits")):
            assert said == ["waits"] and not len(store.missing(np.arange(400)))


def test_a_full_disk_costs_a_line(tmp_path, monkeypatch, capsys):
    _, wanted = run(probe("vit_cls"), tmp_path / "plain", cache="off")
    written = os.pwrite

    def full(file, data, place):
        if place > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(file, data, place)

    monkeypatch.setattr(feature_store.os, "pwrite", full)
    result, found = run(probe("vit_cls"), tmp_path / "run")
    assert [line.get("loss") for line in found] == [line.get("loss") for line in wanted]
    warned = capsys.readouterr().err.splitlines()
    assert warned == ["warning: features are computed anew in every step: No space left on device"]


def test_asked_to_stop_while_it_fills_it_keeps_what_is_done(tmp_path, monkeypatch, folder):
    whole, wanted = run(probe("vit_cls"), tmp_path / "whole")
    jaxfer.training.feature_store.clear()

    class Asked(Notice):
        asked = 0

        def __bool__(self):
            self.asked += 1
            return self.asked > 3

    class Given:
        def __enter__(self):
            return Asked()

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(loop, "preemption_notice", Given)
    with pytest.raises(SystemExit) as stopped:
        run(probe("vit_cls"), tmp_path / "run")
    assert stopped.value.code == 75
    assert "features computed so far are kept" in str(stopped.value.message)
    monkeypatch.undo()
    monkeypatch.setenv("JAXFER_CACHE", str(folder.parent))
    result, found = run(probe("vit_cls"), tmp_path / "run")
    assert 0 < result["cost"]["features"]["computed"] < whole["cost"]["features"]["computed"]
    assert [line.get("loss") for line in found] == [line.get("loss") for line in wanted]


def test_the_limit_removes_what_was_used_longest_ago(folder, monkeypatch):
    rows, stores = np.arange(30), [Store(folder=folder / name, count=30, shape=(256,)) for name in "abc"]
    for age, store in zip((30, 10, 20), stores, strict=True):
        store.open({"rows": 30})
        store.write(rows, np.ones((30, 256)))
        os.utime(store.folder / feature_store.ABOUT, (time.time() - age,) * 2)
    size = feature_store.listed()[0].size
    monkeypatch.setattr(feature_store, "LIMIT", 3 * size + 10)
    assert [kept.folder.name for kept in feature_store.listed()] == ["a", "c", "b"]
    assert feature_store.make_room(size, folder / "new")
    assert [kept.folder.name for kept in feature_store.listed()] == ["c", "b"]
    (stores[1].folder / feature_store.ABOUT).write_text("{")  # damaged: it counts all the same
    assert [kept.about for kept in feature_store.listed() if kept.folder.name == "b"] == [{}]
    assert not feature_store.make_room(4 * size, folder / "new")


def test_show_and_the_command(tmp_path, folder, capsys):
    config = probe("vit_cls")
    (stage,) = jaxfer.show(config)
    assert "features: of the output layer, computed once: 12 values of" in str(stage)
    config.method = "full"
    (stage,) = jaxfer.show(config)
    assert "features: computed in each step: " in str(stage)
    run(probe("vit_cls"), tmp_path / "run")
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].startswith("2 files of features") and "ViT" in shown[2]
    assert main(["cache", "--clear"]) == 0 and main(["cache"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 files of features, 0 of at most")
    assert main(["cache", "--config.seed=1"]) == 2
