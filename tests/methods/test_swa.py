"""SWA, and the parameters themselves evaluated beside averages."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.errors import InputError
from jaxfer.rules import flatten
from jaxfer.runs.metrics import read_metrics
from jaxfer.step import make_eval_step
from jaxfer.training.programs import eval_arguments
from tests.experiments import batches, tiny_config, tiny_stage, train

# Of eight steps those after the fourth count, every second one: the fifth and the seventh.
FIELDS = dict(method="full", adds=("swa",), options={"swa_start": 0.5, "swa_every": 2.0}, steps=8, lr=0.1)


def test_the_mean_by_hand():
    stage, plain = tiny_stage("vit_cls", **FIELDS), tiny_stage("vit_cls", method="full", steps=8, lr=0.1)
    fifth, seventh = (flatten(train(plain, steps)[0].params) for steps in (5, 7))
    state, _ = train(stage, 8)
    assert state.extra["count"] == 2
    for path, leaf in state.extra["average"].items():
        wanted = (np.asarray(fifth[path], np.float64) + np.asarray(seventh[path])) / 2
        np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-6)


def test_before_the_first_that_counts_evaluation_uses_the_parameters_themselves():
    stage = tiny_stage("vit_cls", **FIELDS)
    evaluate = jax.jit(make_eval_step(stage.spec))
    (batch,) = batches(stage, 1, seed=9)
    for steps, same in ((4, True), (5, True), (6, False)):
        state, _ = train(stage, steps)
        found = evaluate(*eval_arguments(stage.spec, state), batch)["collected"]
        alone = jax.jit(lambda params: stage.spec.port.apply(params, {}, batch)[0])
        np.testing.assert_allclose(found, alone(stage.leave(state)[0]), rtol=1e-5, atol=1e-6)
        assert (np.abs(found - alone(state.params)).max() < 1e-5) == same


def test_statistics_that_follow_the_last_parameters_are_refused():
    with pytest.raises(
        InputError, match=r"and the statistics of block_0/norm_1 follow the last ones; set config.norms="
    ):
        tiny_stage("resnet_basic", **FIELDS)
    assert tiny_stage("resnet_basic", norms=((".*", "eval"),), **FIELDS).spec.method.still_norms
    assert tiny_stage("resnet_basic", **FIELDS | {"method": "probe"}), "frozen norms stand still"


@pytest.mark.parametrize("options", [{"swa_start": 1.5}, {"swa_every": 0.0}])
def test_options_out_of_range(options):
    with pytest.raises(InputError, match=rf"config.options.{next(iter(options))}: expected"):
        tiny_stage("vit_cls", **FIELDS | {"options": options})


@pytest.mark.system
def test_the_parameters_themselves_are_evaluated_beside_the_average(tmp_path):
    config = tiny_config("vit_cls", **FIELDS | {"eval_every": 4, "test": True})
    result = jaxfer.run(config, tmp_path / "swa", quiet=True)
    lines = [line for line in read_metrics(tmp_path / "swa/metrics.jsonl") if line["split"] == "val"]
    assert lines[0]["loss"] == pytest.approx(lines[0]["raw/loss"], rel=1e-6), "nothing counts yet"
    assert lines[1]["loss"] != lines[1]["raw/loss"]
    assert result["metrics"]["val"]["raw/loss"] == lines[1]["raw/loss"]
    assert {"accuracy", "raw/accuracy"} <= set(result["metrics"]["test"])
    plain = jaxfer.run(
        tiny_config("vit_cls", **FIELDS | {"eval_every": 4, "adds": (), "options": {}}), tmp_path / "plain", quiet=True
    )
    assert plain["metrics"]["val"]["loss"] == pytest.approx(lines[1]["raw/loss"], rel=1e-5)
    assert not [name for name in plain["metrics"]["val"] if name.startswith("raw/")]
