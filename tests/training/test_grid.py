"""A head chosen from a grid: an ordinary run folder, whose model is exactly one of the layers."""

from __future__ import annotations

import csv
import json
import signal

import numpy as np
import pytest

import jaxfer
import jaxfer.config
from jaxfer import linear
from jaxfer.config import resolve
from jaxfer.errors import NonFiniteLoss, Preempted
from jaxfer.linear import dinov2
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import read_metrics
from jaxfer.training.preflight import preflight
from tests.experiments import tiny_config

pytestmark = pytest.mark.system
VIT = dict(name="vit", patch=4, width=8, layers=3, heads=2, mlp_width=16, image=(8, 8, 1), last=2, pool="cls+mean")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))


def digits(**fields):
    """Features of a random transformer on 40 digits of four classes."""
    config = jaxfer.config.base()
    config.model = dict(VIT)
    config.data = dict(source="digits", classes=tuple("0123"), labels_per_class=10, val_per_class=20)
    config.parallel.devices = 1
    config.update(method="probe", options={"grid": "dinov2", "epochs": 40}, batch_size=16)
    config.update(fields)
    return config


def head(run):
    """(kernel, bias) of a run's output layer."""
    leaves = flatten(open_run(run).state.params)
    return np.asarray(leaves["head/out/kernel"]), np.asarray(leaves["head/out/bias"])


def fit_of(run):
    return json.loads((run / "result.json").read_text())["fits"]["train"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFER_CACHE", str(folder / "cache"))
        jaxfer.run(digits(test=True), folder / "run", quiet=True)
    return folder / "run"


def test_the_best_on_val_is_the_runs_model(done):
    result, found = json.loads((done / "result.json").read_text()), fit_of(done)
    path, lines = found["path"], list(read_metrics(done / "metrics.jsonl"))
    assert [(line["step"], line["split"]) for line in lines] == [(1, "train"), (1, "val")] and result["steps"] == 1
    tried = [(row["rate"], row["blocks"], row["pool"]) for row in path]
    assert tried == [(r, b, p) for b in (1, 2) for p in (False, True) for r in dinov2.RATES]
    best = path[int(np.argmax([row["accuracy"] for row in path]))]  # the first of equals
    assert found == {"fit": "dinov2", **{name: best[name] for name in ("rate", "blocks", "pool")}, "path": path}
    assert best["accuracy"] > 0.5 and len({row["loss"] for row in path}) == 52
    assert result["metrics"]["val"]["accuracy"] == best["accuracy"]
    assert result["metrics"]["val"]["loss"] == pytest.approx(best["loss"], abs=1e-6)
    for split in ("val", "test"):
        assert jaxfer.evaluate(done, split=split) == pytest.approx(result["metrics"][split], abs=1e-6)


def test_the_head_is_zero_where_the_layer_reads_nothing(done):
    found, (kernel, bias) = fit_of(done), head(done)
    assert kernel.shape == (24, 4) and bias.any()
    ends = slice(8 * (2 - found["blocks"]), 16 + 8 * found["pool"])
    read = np.zeros(24, bool)
    read[ends] = True
    assert (kernel.any(1) == read).all()
    arrays = jaxfer.features(done, split="val").arrays()
    right = ((arrays["features"] @ kernel + bias).argmax(-1) == arrays["label"]).mean()
    assert right == pytest.approx(max(row["accuracy"] for row in found["path"]))


def test_the_table_has_a_row_for_each_layer(done):
    with (done / "fit_train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["rate", "blocks", "pool", "loss", "accuracy"]
    path = fit_of(done)["path"]
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in path]
    assert [row["pool"] == "True" for row in rows] == [row["pool"] for row in path]


def test_killed_between_two_calls_it_starts_again_and_ends_the_same(done, tmp_path, monkeypatch):
    solver, calls = linear.GRIDS["dinov2"], []

    def asked(problem, **settings):
        for found in solver.solve(problem, **settings):
            calls.append(found)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGTERM)
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(dinov2, "CHUNK", 20)
        patch.setitem(linear.GRIDS, "dinov2", solver._replace(solve=asked))
        with pytest.raises(Preempted) as stopped:
            jaxfer.run(digits(), tmp_path / "run", quiet=True)
    assert calls == [None, None] and not (tmp_path / "run/fit_train.csv").exists()
    assert stopped.value.message == "SIGTERM: the fit starts again; run the same command again"
    jaxfer.run(digits(), tmp_path / "run", quiet=True)
    for ours, theirs in zip(head(tmp_path / "run"), head(done), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert fit_of(tmp_path / "run") == fit_of(done)


def test_features_of_several_devices_give_the_same_choice(done, tmp_path):
    config = digits()
    config.parallel.update(devices=4, fsdp=2)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    for ours, theirs in zip(head(tmp_path / "run"), head(done), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_other_features_have_rates_alone(tmp_path, capsys):
    config = tiny_config("resnet_basic", method="probe", options={"grid": "dinov2", "epochs": 2})
    config.data.target, config.task.name = "value", "regression"
    result = jaxfer.run(config, tmp_path, quiet=False)
    path = result["fits"]["train"]["path"]
    assert [list(row) for row in path] == [["rate", "loss", "mse"]] * 13
    errors = [row["mse"] for row in path]
    assert result["metrics"]["val"]["mse"] == pytest.approx(min(errors), rel=1e-4)
    said = " ".join(capsys.readouterr().err.split())
    assert "stage 'train': dinov2, 13 linear layers, best on val rate" in said
    assert "fitted at once by dinov2, which counts as one step; steps and the optimizer's fields are not read" in said


def test_a_layer_that_diverges_is_said_and_never_chosen(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dinov2, "RATES", (1e-2, 5e39))
    result = jaxfer.run(digits(), tmp_path / "run", quiet=True)
    path = result["fits"]["train"]["path"]
    assert [row["loss"] is None for row in path] == [False, True] * 4 and result["fits"]["train"]["rate"] == 1e-2
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: stage 'train': the loss on val is not finite for 4 of 8 linear layers" in said
    monkeypatch.setattr(dinov2, "RATES", (5e39,))
    with pytest.raises(NonFiniteLoss, match="non-finite loss on val of all 4 linear layers, stage 'train'"):
        jaxfer.run(digits(), tmp_path / "lost", quiet=True)


@pytest.mark.parametrize(("model", "count"), [({}, 52), (dict(pool="cls"), 26), (dict(last=1), 26)])
def test_show_says_how_many_layers_there_will_be(model, count):
    text = str(jaxfer.show(digits(model={**VIT, **model})))
    assert text.split("\n\n")[1].startswith(
        f"stage 'train': method probe, fitted at once by dinov2, {count} linear layers\n"
    )


def test_the_batch_is_part_of_a_grid_and_steps_are_not():
    plans = [preflight(digits(steps=steps)).experiment for steps in (10, 99)]
    assert plans[0] == plans[1] and plans[0].stages[0][1].batch_size == 16
    assert resolve(digits()).identity() != resolve(digits(batch_size=8)).identity()
