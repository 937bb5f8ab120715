"""Metrics on a split: exact whatever the batch and the devices; a finished run on its own and on other data."""

from __future__ import annotations

import csv

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.config.experiment import ParallelConfig
from jaxfer.data.prepare import build
from jaxfer.errors import InputError
from jaxfer.parallel.placement import placement
from jaxfer.runs.finished import open_run
from jaxfer.training.evaluation import evaluate_split
from jaxfer.training.programs import _block_program, _train_program, compiles
from tests.experiments import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    _train_program.cache_clear()  # so that this run compiles, whatever ran before it in this process
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    result = jaxfer.run(tiny_config("resnet_basic", method="lora", test=True, lr=1e-2), folder, quiet=True)
    return folder, result


@pytest.mark.system
def test_padding_and_devices_change_no_metric(run):
    """Every batch size and device count gives the plain mean over the split, computed here by hand."""
    finished = open_run(run[0])
    experiment = finished.experiment
    data = build(experiment.data, dict(experiment.source.options), seed=0, with_test=False)
    split, spec = data.splits["val"], finished.stage.spec
    images = np.stack([split.example("image", i) for i in range(len(split.labels))])
    mean, std = (np.float32(getattr(spec.port.encoding, name)) for name in ("mean", "std"))
    inputs = {"image": (images.astype(np.float32) / 255 - mean) / std}
    params, model_state = finished.stage.leave(finished.state)
    logits = np.asarray(spec.port.apply(params, model_state, inputs)[0], np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    loss = -logp[np.arange(len(split.labels)), split.labels].mean()
    accuracy = (logits.argmax(-1) == split.labels).mean()
    state = finished.state.replace(hparams={}, key=None, opt_state=())
    for devices, batch_size, axes in [
        *((1, 1, {}), (1, 5, {}), (4, 7, {}), (4, 256, {})),
        *((4, 5, {"fsdp": 4}), (4, 5, {"fsdp": 2, "tensor": 2})),
    ]:
        where = placement(ParallelConfig(devices=devices, **axes))
        found = evaluate_split(spec, where.place(spec, state), split, where, batch_size).metrics
        assert found["accuracy"] == pytest.approx(accuracy, abs=1e-12)
        assert found["loss"] == pytest.approx(loss, abs=1e-6)


def test_evaluate_repeats_the_result(run):
    folder, result = run
    for split in ("val", "test"):
        assert jaxfer.evaluate(folder, split=split) == pytest.approx(result["metrics"][split], abs=1e-6)


def test_the_predictions_have_the_metrics(run, tmp_path):
    metrics = jaxfer.evaluate(run[0], split="test", predictions=tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    wrong = [row["label"] != row["predicted"] for row in rows]
    assert metrics["accuracy"] == pytest.approx(1 - sum(wrong) / len(rows))
    assert metrics["loss"] == pytest.approx(sum(float(row["loss"]) for row in rows) / len(rows), abs=1e-5)
    assert [row["mistake"] for row in rows] == [*map(str, range(1, sum(wrong) + 1)), *[""] * (len(rows) - sum(wrong))]
    assert sorted(int(row["row"]) for row in rows) == list(range(len(rows)))
    sure = [float(row["probability"]) for row in rows]
    assert sure == sorted(sure[: sum(wrong)], reverse=True) + sorted(sure[sum(wrong) :])


def test_an_adapter_is_not_forgotten(run):
    """`evaluate` goes through the method's own view and interceptor: without the adapters the loss is another."""
    finished = open_run(run[0])
    bare = finished.state.params["lora"]
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(bare)) > 0
    state = finished.state
    zeroed = state.replace(params={**state.params, "lora": jax.tree.map(np.zeros_like, bare)})
    experiment, where = finished.experiment, placement(ParallelConfig(devices=1))
    data = build(experiment.data, dict(experiment.source.options), seed=0, with_test=False)
    zeroed = jax.device_put(zeroed.replace(hparams={}, key=None, opt_state=()), where.replicated)
    without = evaluate_split(finished.stage.spec, zeroed, data.splits["val"], where, 64).metrics["loss"]
    assert abs(without - run[1]["metrics"]["val"]["loss"]) > 1e-4


def test_other_data_of_the_same_classes(run):
    found = jaxfer.evaluate(run[0], split="train", overrides={"data.noise": "0.0"})
    assert found["loss"] != jaxfer.evaluate(run[0], split="train")["loss"]


def test_what_eval_refuses(run):
    with pytest.raises(InputError, match="part of the trained run"):
        jaxfer.evaluate(run[0], overrides={"lr": "0.1"})
    with pytest.raises(InputError, match="the run's classes are"):
        jaxfer.evaluate(run[0], overrides={"data.classes_count": "4"})


def test_result_json_holds_everything(run):
    _, result = run
    assert set(result["metrics"]) == {"val", "test"}
    assert set(result["cost"]) == {
        *("seconds", "compile_seconds", "input_seconds", "examples_per_second", "step_flops", "forward_flops"),
        *("params_trainable", "params_total", "optimizer_bytes", "peak_bytes", "state_bytes"),
    }
    assert all(value > 0 for value in result["cost"].values())
    assert {"seed", "lineage", "versions", "classes", "examples", "steps"} <= set(result)
    finished = open_run(run[0])
    assert result["cost"]["params_total"] == sum(leaf.size for leaf in jax.tree.leaves(finished.state.params))
    assert result["cost"]["optimizer_bytes"] == sum(leaf.nbytes for leaf in jax.tree.leaves(finished.state.opt_state))


def test_the_report_is_of_the_splits_of_the_result(run):
    """The support of each split's classes, and the accuracy that the confusion matrix has."""
    _, result = run
    assert set(result["report"]) == {"val", "test"}
    for split, report in result["report"].items():
        support = sum(scores["support"] for scores in report["classes"].values())
        right = sum(row.get(name, 0) for name, row in report["confusion"].items())
        assert support == result["examples"][split] and list(report["classes"]) == result["classes"]
        assert right / support == pytest.approx(result["metrics"][split]["accuracy"])
        recalls = [scores["recall"] for scores in report["classes"].values()]
        assert np.mean(recalls) == pytest.approx(result["metrics"][split]["balanced_accuracy"])


def test_the_test_split_stays_sealed_unless_asked(tmp_path):
    config = tiny_config("resnet_basic")
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    assert set(result["metrics"]) == {"val"} and "test" not in result["examples"]
    config.test = True
    for programs in (_train_program, _block_program):
        programs.cache_clear()
    again = jaxfer.run(config, tmp_path / "run", quiet=True)
    assert set(again["metrics"]) == {"val", "test"} and again["metrics"]["val"] == result["metrics"]["val"]
    assert again["report"]["val"] == result["report"]["val"], "the checkpoint keeps its counts"
    assert again["cost"] == result["cost"] and compiles() == 0, "its training is over, and so is what it cost"
