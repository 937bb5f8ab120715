"""Passes over a stream between steps: every example once, at the steps that are due, and resumed bitwise."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.errors import InputError
from jaxfer.method import Pass
from jaxfer.methods import shot
from jaxfer.models.port import FEATURES
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import TIMES, read_metrics
from jaxfer.training import loop, passes
from jaxfer.training.first import first_state
from jaxfer.training.preflight import preflight
from tests.experiments import tiny_config
from tests.methods.test_target_alone import labelled, softmax
from tests.training.test_resume import Asked


def shot_config(case="resnet_basic", **fields):
    config = tiny_config(case, **{"method": "shot", "lr": 1e-2, "eval_batch_size": 16, **fields})
    config.parallel.devices = 1
    return config


def test_when_a_pass_is_due():
    over = Pass(stream="target", times=3, rows=lambda ctx: (), kept=lambda rows, state: {})
    assert [done for done in range(11) if over.due(done, 11)] == [0, 3, 6, 9]
    assert all(over.due(done, 2) for done in range(2))


def test_centroids_and_labels_are_those_of_the_whole_target(tmp_path):
    """By the network before the step, whatever the batch size; padding is none of it."""
    ready = preflight(shot_config())
    (stage,), split = ready.stages, ready.data.streams["target"].splits["train"]
    state = first_state(ready, stage, tmp_path)
    images = stage.spec.port.encoding.reader(split)(np.arange(len(split)))
    passed = stage.spec.port.forward(state.params, state.model_state, images, taps=(FEATURES,))
    features, outputs = (np.asarray(x, np.float64) for x in (passed.taps[FEATURES], passed.outputs))
    labels = labelled(features, softmax(outputs))
    assert len(split) % 5 and len(set(labels.tolist())) > 1
    for size in (5, 16):
        found = passes.renewed(stage, state, ready.data, ready.where, size, 0).extra
        rows = np.asarray(shot.extended(np.float32(features)))
        own = np.asarray(shot.nearest(rows, found["centroids"]))
        # The hard round's labels make the centroids; those of a step are given by these.
        soft = shot.nearest(rows, {"sums": softmax(outputs).T @ rows, "counts": softmax(outputs).sum(0)}, np)
        wanted = np.stack([rows[soft == c].sum(0) for c in range(3)])
        np.testing.assert_allclose(found["centroids"]["sums"], wanted, rtol=1e-4, atol=1e-4)
        assert found["centroids"]["counts"].tolist() == np.bincount(soft, minlength=3).tolist()
        assert own.tolist() == labels.tolist()
    assert passes.renewed(stage, state, ready.data, ready.where, 16, 1) is not state  # 4 steps, 15 passes: each
    for path, leaf in flatten(state.params).items():
        np.testing.assert_array_equal(found["params"][path], leaf)


def test_labels_stay_those_of_the_last_pass(tmp_path):
    ready = preflight(shot_config(options={"passes": 2}, steps=6))
    (stage,) = ready.stages
    state = first_state(ready, stage, tmp_path)
    how = ready.data, ready.where, 16
    begun = passes.renewed(stage, state, *how, 0)
    assert passes.renewed(stage, begun, *how, 1) is begun and passes.renewed(stage, begun, *how, 2) is begun
    moved = begun.replace(params=jax.tree.map(lambda x: x + 0.1, begun.params))
    after = passes.renewed(stage, moved, *how, 3)
    assert not np.array_equal(after.extra["centroids"]["sums"], begun.extra["centroids"]["sums"])
    for path, leaf in flatten(moved.params).items():
        np.testing.assert_array_equal(after.extra["params"][path], leaf)


@pytest.mark.parametrize("fields", [{"devices": 1}, {"devices": 4, "fsdp": 4}], ids=["one", "fsdp"])
def test_a_run_that_is_stopped_between_passes_ends_bitwise_where_an_undisturbed_one_does(fields, tmp_path, monkeypatch):
    config = shot_config(options={"passes": 2}, steps=6, save_every=0, log_every=1)
    config.parallel.update(fields)
    jaxfer.run(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "preemption_notice", lambda: Asked(5))
        with pytest.raises(SystemExit) as stopped:
            jaxfer.run(config, tmp_path / "parts", quiet=True)
    assert "saved at step" in stopped.value.message and "of 6" in stopped.value.message
    jaxfer.run(config, tmp_path / "parts", quiet=True)
    ends = [open_run(tmp_path / name).state for name in ("whole", "parts")]
    for name in ("params", "model_state", "opt_state", "extra"):
        leaves = zip(*(jax.tree.leaves(getattr(state, name)) for state in ends), strict=True)
        assert all(np.array_equal(a, b) for a, b in leaves), name
    logs = [
        [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "parts")
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("add", ["ema", "swa"])
def test_an_add_on_leaves_passes_their_own(add, tmp_path):
    """Averages beside the network change none of its steps; what a pass keeps lies under their `base`."""
    fields = {"options": {"passes": 2}, "steps": 4}
    ends = []
    for name, adds in (("plain", ()), ("added", (add,))):
        jaxfer.run(shot_config("vit_cls", adds=adds, **fields), tmp_path / name, quiet=True)
        ends.append(open_run(tmp_path / name).state)
    plain, added = ends
    own = added.extra["base"]
    for a, b in zip(jax.tree.leaves((plain.params, plain.extra)), jax.tree.leaves((added.params, own)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_runs_at_once_make_their_passes_each():
    """A stage with passes is trained by itself, not many steps at a call."""
    from jaxfer.training import blocks

    ready = preflight(shot_config())
    spec = ready.stages[0].spec
    assert spec.method.passes is not None
    turn = dataclasses.make_dataclass("Turn", ["session", "stage"])
    session = dataclasses.make_dataclass("Session", ["experiment", "where"])(ready.experiment, ready.where)
    assert blocks.key(turn(session, ready.stages[0]), blocks.Grid.of([0, 1])) is None


def test_what_is_refused():
    for options, line in (
        ({"form": "both"}, "options.form: expected paper or running, found 'both'"),
        ({"passes": 0}, "options.passes: expected at least 1, found 0"),
        ({"memory": 0.9}, "options.memory: method 'shot' has no such option"),
    ):
        with pytest.raises(InputError, match=line):
            preflight(shot_config(options=options))
