"""Heads that are fitted at once: an ordinary run folder, and the numbers of its own stored features."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest

import jaxfer
import jaxfer.config
from jaxfer import linear
from jaxfer.config import resolve
from jaxfer.errors import NonFiniteLoss, Preempted
from jaxfer.linear import lbfgs
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import read_metrics
from jaxfer.training import feature_store
from jaxfer.training.preflight import preflight
from tests.experiments import tiny_config

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))


def digits(fit="lbfgs", **fields):
    """Features of a random network on 40 digits of four classes."""
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1), width=8, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", classes=tuple("0123"), labels_per_class=10, val_per_class=20)
    config.parallel.devices = 1
    options = {} if fit is None else {"fit": fit}
    config.update(method="probe", options=options, steps=30, warmup=5, batch_size=8, eval_every=7)
    config.update(fields)
    return config


def head(run):
    """(kernel, bias) of a run's output layer."""
    leaves = flatten(open_run(run).state.params)
    return np.asarray(leaves["head/out/kernel"], np.float64), np.asarray(leaves["head/out/bias"], np.float64)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """{fit: folder of a run}."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFER_CACHE", str(folder / "cache"))
        for fit in ("ridge", "lbfgs"):
            jaxfer.run(digits(fit, test=True), folder / fit, quiet=True)
    return {fit: folder / fit for fit in ("ridge", "lbfgs")}


@pytest.mark.parametrize("fit", ["ridge", "lbfgs"])
def test_a_fit_leaves_an_ordinary_run(done, fit):
    run = done[fit]
    result, lines = json.loads((run / "result.json").read_text()), list(read_metrics(run / "metrics.jsonl"))
    assert [(line["step"], line["split"]) for line in lines] == [(1, "train"), (1, "val")]
    found = result["fits"]["train"]
    penalties, values = zip(*((point["penalty"], point["accuracy"]) for point in found["path"]), strict=True)
    assert penalties == linear.PENALTIES and max(values) > 0.5
    assert found["penalty"] == penalties[int(np.argmax(values))] == lines[0]["penalty"]  # the strongest of equals
    assert result["metrics"]["val"]["accuracy"] == lines[1]["accuracy"] == max(values)
    for split in ("val", "test"):
        assert jaxfer.evaluate(run, split=split) == result["metrics"][split]
    assert result["steps"] == result["checkpoint_step"] == 1 and "step_flops" not in result["cost"]
    table = (run / "params.txt").read_text().splitlines()
    assert any(line.split() == ["head/out/kernel", "16x4", "head", "-", "-"] for line in table)


@pytest.mark.parametrize("fit", ["ridge", "lbfgs"])
def test_the_head_is_that_of_the_chosen_penalty_on_the_networks_features(done, fit):
    kernel, bias = head(done[fit])
    arrays = jaxfer.features(done[fit], split="train").arrays()
    x = arrays["features"]
    axes = linear.Axes.of(x)
    penalty = json.loads((done[fit] / "result.json").read_text())["fits"]["train"]["penalty"]
    problem = linear.Problem(x=axes(x), inputs=axes, labels=arrays["label"], outputs=4)
    path = linear.fit(fit, None, "probe")(problem)
    wanted = axes.folded(next(solution for solution in path if solution.tried["penalty"] == penalty))
    np.testing.assert_allclose(x @ kernel + bias, x @ wanted[0] + wanted[1], atol=1e-4)


def test_killed_after_the_fit_it_is_evaluated_and_finished(done, tmp_path, monkeypatch):
    """Nothing is fitted again: the checkpoint has the fit, and its path is in the record."""

    def fitted(*_, **__):
        raise AssertionError("fitted again")

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(jaxfer.training.session.Session, "_evaluate", killed)
        with pytest.raises(Killed):
            jaxfer.run(digits(test=True), tmp_path / "run", quiet=True)
    monkeypatch.setattr(jaxfer.training.fitting, "fitted", fitted)
    result = jaxfer.run(digits(test=True), tmp_path / "run", quiet=True)
    wanted = json.loads((done["lbfgs"] / "result.json").read_text())
    for name in ("metrics", "fits", "examples", "steps"):
        assert json.loads(json.dumps(result[name])) == wanted[name]
    assert result["lineage"]["sha256"] == wanted["lineage"]["sha256"]
    assert jaxfer.run(digits(test=True, steps=500), tmp_path / "run", quiet=True) == result  # steps are not read


def test_sigterm_during_a_fit_keeps_nothing_of_it(done, tmp_path, monkeypatch):
    solver = linear.SOLVERS["ridge"]

    def asked(problem, **settings):
        for solution in solver.solve(problem, **settings):
            signal.raise_signal(signal.SIGTERM)
            yield solution

    with monkeypatch.context() as patch:
        patch.setitem(linear.SOLVERS, "ridge", solver._replace(solve=asked))
        with pytest.raises(Preempted) as stopped:
            jaxfer.run(digits("ridge"), tmp_path / "run", quiet=True)
    assert stopped.value.message == "SIGTERM: the fit starts again; run the same command again"
    jaxfer.run(digits("ridge"), tmp_path / "run", quiet=True)
    np.testing.assert_array_equal(head(tmp_path / "run")[0], head(done["ridge"])[0])


@pytest.mark.parametrize("how", ["cache", "JAXFER_CACHE", "disk", "devices"])
def test_features_in_memory_and_on_several_devices_give_the_same_head(done, how, tmp_path, monkeypatch, capsys):
    config = digits("ridge")
    if how == "cache":
        config.cache = "off"
    elif how == "JAXFER_CACHE":
        monkeypatch.setenv("JAXFER_CACHE", "off")
    elif how == "disk":
        monkeypatch.setattr(feature_store, "make_room", lambda *_: False)
    else:
        config.parallel.update(devices=4, fsdp=2)
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    assert ("features" in result["cost"]) == (how == "devices")
    assert ("features are computed anew" in capsys.readouterr().err) == (how == "disk")
    np.testing.assert_allclose(head(tmp_path / "run")[0], head(done["ridge"])[0], atol=1e-4)


def test_a_later_stage_and_a_later_run_start_from_the_fitted_head(done, tmp_path):
    """At rate 0 both evaluate as the fit does."""
    wanted = json.loads((done["lbfgs"] / "result.json").read_text())["metrics"]["val"]
    after = digits(None, init=f"run:{done['lbfgs']}", head="keep", lr=0.0, steps=2, warmup=0)
    assert jaxfer.run(after, tmp_path / "after", quiet=True)["metrics"]["val"] == pytest.approx(wanted, abs=1e-5)
    staged = digits(None, stages=("probe", "full"), warmup=0)
    staged.stage.probe = dict(method="probe", options={"fit": "lbfgs"})
    staged.stage.full = dict(method="full", lr=0.0, steps=2, eval_norms=(".*",))
    result = jaxfer.run(staged, tmp_path / "staged", quiet=True)
    assert result["steps"] == 3 and list(result["fits"]) == ["probe"] and result["cost"]["step_flops"] > 0
    assert result["metrics"]["val"] == pytest.approx(wanted, abs=1e-5)


def test_texts_of_several_lengths_are_fitted_in_their_own_order(tmp_path):
    """Features are computed from short texts to long ones, and put back: else labels would be those of other texts."""
    config = tiny_config("bert_pooler", method="probe", options={"fit": "ridge"})
    config.model.buckets = (4, 5, 7)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    x = jaxfer.features(tmp_path / "run", split="train").arrays()
    kernel, bias = head(tmp_path / "run")
    right = ((x["features"] @ kernel + bias).argmax(-1) == x["label"]).mean()
    train = next(line for line in read_metrics(tmp_path / "run/metrics.jsonl") if line["split"] == "train")
    assert train["accuracy"] == pytest.approx(right, abs=1e-6)


def test_regression_is_chosen_by_the_least_error(tmp_path):
    config = tiny_config("resnet_basic", method="probe", options={"fit": "ridge"})
    config.data.target, config.task.name = "value", "regression"
    config.parallel.devices = 1
    result = jaxfer.run(config, tmp_path, quiet=True)
    errors = [point["mse"] for point in result["fits"]["train"]["path"]]
    assert result["fits"]["train"]["penalty"] == linear.PENALTIES[int(np.argmin(errors))]
    assert result["metrics"]["val"]["mse"] == pytest.approx(min(errors), rel=1e-4)


def test_smoothed_labels_are_fitted(tmp_path):
    """The gradient vanishes at the smoothed targets, and not at the labels themselves."""
    config = digits(options={"fit": "lbfgs", "penalties": (1e-3,)})
    config.task.label_smoothing = 0.2
    jaxfer.run(config, tmp_path, quiet=True)
    arrays, (kernel, bias) = jaxfer.features(tmp_path, split="train").arrays(), head(tmp_path)
    x, labels = arrays["features"].astype(np.float64), np.eye(4)[arrays["label"]]
    chances = np.exp(x @ kernel + bias)
    chances /= chances.sum(1, keepdims=True)
    smoothed, plain = (
        np.abs(((x - x.mean(0)) / x.std(0)).T @ (chances - targets) / len(x)).max()
        for targets in (0.8 * labels + 0.05, labels)
    )
    assert smoothed < 1e-3 < 1e-2 < plain


def test_an_unfinished_fit_and_the_end_of_the_path_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lbfgs, "ITERATIONS", 2)
    jaxfer.run(digits(options={"fit": "lbfgs", "penalties": (10.0, 0.1)}), tmp_path, quiet=False)
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: stage 'train': L-BFGS stopped after 2 iterations at 2 of 2 penalties, with a gradient norm" in said
    assert "stage 'train': lbfgs, 2 penalties, best on val" in said and "an end of the path" in said
    assert "note: config: the head is fitted at once by lbfgs, which counts as one step; steps, batch_size" in said


def test_features_that_are_not_finite_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxfer.training.fitting, "_features", lambda split: np.full((len(split), 16), np.nan))
    with pytest.raises(NonFiniteLoss, match="non-finite features or targets, stage 'train'"):
        jaxfer.run(digits(), tmp_path, quiet=True)


def test_a_probe_by_steps_is_the_experiment_it_was():
    """Without a fit neither option is in the config or the identity, written out or not; a fit has no steps in it."""
    plain = resolve(digits(None))
    assert plain == resolve(digits(None, options={"fit": None, "penalties": None}))
    assert plain.stages[0][1].options == {}
    fits = [preflight(digits(steps=steps, lr=lr, warmup=0)).experiment for steps, lr in ((10, 0.1), (99, None))]
    assert fits[0] == fits[1] and fits[0].stages[0][1].steps == 1
    assert resolve(jaxfer.config.override(digits(), {})).identity() != plain.identity()
