"""Whole runs with streams: two tasks on one backbone, an earlier task's head (`pretrained/stream_heads.py`), a sealed
target, other data."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.errors import InputError
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import TIMES, read_metrics
from tests.experiments import PHRASES, stop_after, tiny_config

TWO = {"source": "table", "path": PHRASES, "task": "masked_lm", "weight": 0.5}


def images(**fields):
    config = tiny_config("resnet_basic", steps=4, eval_every=2, eval_batch_size=8, **fields)
    config.parallel.devices = 1
    return config


def beside(config, **fields):
    """The config's own data as a stream."""
    own = {name: value for name, value in config.data.to_dict().items() if name != "workers"}
    return {**own, **fields}


def lines(folder):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(folder / "metrics.jsonl")]


def leaves(folder):
    return flatten(jax.device_get(open_run(folder).state.params))


@pytest.mark.system
def test_two_kinds_of_heads_on_one_backbone(tmp_path):
    """Classes of phrases and their hidden words: metrics of both, bitwise resume, and a plain model afterwards."""
    config = tiny_config("bert_mean", method="full", steps=5, eval_every=3, save_every=2, eval_batch_size=8)
    config.parallel.devices = 1
    config.stream.words = TWO
    result = jaxfer.run(config, tmp_path / "whole", quiet=True)
    assert {"accuracy", "loss", "words/loss", "words/token_accuracy"} <= result["metrics"]["val"].keys()
    assert result["streams"]["words"]["examples"]["train"] + result["streams"]["words"]["examples"]["val"] == 60
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, steps=3)
        with pytest.raises(SystemExit) as stopped:
            jaxfer.run(config, tmp_path / "parts", quiet=True)
        assert stopped.value.code == 75
    jaxfer.run(config, tmp_path / "parts", quiet=True)
    whole, parts = leaves(tmp_path / "whole"), leaves(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[path], parts[path]) for path in whole)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert "head/out/words/transform/kernel" in whole or any(path.startswith("head/out/words/") for path in whole)
    later = tiny_config("bert_mean", method="probe", steps=1, init=f"run:{tmp_path / 'whole'}", head="keep")
    later.parallel.devices = 1
    jaxfer.run(later, tmp_path / "later", quiet=True)
    assert not [path for path in leaves(tmp_path / "later") if path.startswith("head/out/words/")]


@pytest.mark.system
def test_an_earlier_task_keeps_its_head(tmp_path):
    first = images()
    jaxfer.run(first, tmp_path / "first", quiet=True)
    source = leaves(tmp_path / "first")
    config = images(method="er", init=f"run:{tmp_path / 'first'}", head="reset")
    config.stream.memory = beside(first, task="classification", weight=0.0, batch_size=4)
    config.steps = 1
    config.lr = 0.0
    config.data.classes = ("class_2", "class_0")
    result = jaxfer.run(config, tmp_path / "second", quiet=True)
    after, ledger = leaves(tmp_path / "second"), json.loads((tmp_path / "second" / "ledger.json").read_text())
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(after[f"head/out/memory/{name}"], source[f"head/out/{name}"])
        entry = ledger["leaves"][f"params/head/out/memory/{name}"]
        assert (entry["what"], entry["from"]) == ("loaded", f"params/head/out/{name}")
    assert "memory/accuracy" in result["metrics"]["val"]
    config.stream.memory = beside(first, task="classification", classes=("class_1", "class_0"))
    jaxfer.run(config, tmp_path / "third", quiet=True)
    ledger = json.loads((tmp_path / "third" / "ledger.json").read_text())
    assert ledger["leaves"]["params/head/out/memory/kernel"]["what"] == "initialised"


@pytest.mark.system
def test_a_target_is_scored_on_test_alone_and_may_not_change(tmp_path):
    config = images(method="dann", test=True)
    config.stream.target = beside(config, noise=2.0)
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    assert "target/accuracy" in result["metrics"]["test"]
    assert not [name for name in result["metrics"]["val"] if name.startswith("target/")]
    config.stream.target = beside(config, noise=2.0, classes_count=4)
    other = jaxfer.run(config, tmp_path / "other", quiet=True)
    assert not [name for name in other["metrics"]["test"] if name.startswith("target/")]


def test_a_changed_stream_is_refused(tmp_path):
    rng = np.random.default_rng(0)

    def written(count):
        images = rng.integers(256, size=(count, 9, 7, 3), dtype=np.uint8)
        np.savez(tmp_path / "target.npz", train_image=images, train_label=np.arange(count) % 3)

    written(12)
    config = images_of(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, steps=2)
        with pytest.raises(SystemExit):
            jaxfer.run(config, tmp_path / "run", quiet=True)
    written(15)
    with pytest.raises(InputError, match="the stream target has changed since the run began"):
        jaxfer.run(config, tmp_path / "run", quiet=True)


def images_of(folder):
    config = images(method="full")
    config.stream.target = {"source": "npz", "path": str(folder / "target.npz")}
    config.method = "dann"
    return config
