"""SWA, and the parameters themselves evaluated beside averages."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.errors import InputError
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import read_metrics
from jaxfer.step import make_eval_step
from jaxfer.training.preflight import preflight
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
    config = tiny_config("resnet_basic", stages=("first", "second"))
    config.stage.first, config.stage.second = dict(FIELDS), dict(method="full", steps=2)
    with pytest.raises(
        InputError, match=r"config.stage.first.adds: .*add a stage after it that counts them anew \(adabn"
    ):
        preflight(config)
    assert tiny_stage("resnet_basic", norms=((".*", "eval"),), **FIELDS).spec.method.still_norms
    assert tiny_stage("resnet_basic", **FIELDS | {"method": "probe"}), "frozen norms stand still"


def test_a_stage_that_counts_them_anew_has_those_of_the_average(tmp_path):
    """Algorithm 1's last lines: after an epoch the first norm's are of its inputs under the mean, over all examples."""
    config = tiny_config("resnet_basic", batch_size=4, lr=0.1, stages=("full", "count"), eval_every=0)
    config.stage.full = {name: value for name, value in FIELDS.items() if name != "lr"} | {"steps": 12}
    config.stage.count = dict(method="adabn", options=dict(examples="training"), steps=12)
    train = preflight(config).data.splits["train"]
    assert len(train) == 4 * 12, "both stages are an epoch"
    jaxfer.run(config, tmp_path / "run", quiet=True)
    ended = open_run(tmp_path / "run")
    port, read = ended.stage.spec.port, []

    def watch(next_fun, args, kwargs, context):
        if context.module.path == ("stem", "norm"):
            read.append(np.asarray(args[0], np.float64).reshape(-1, 6))
        return next_fun(*args, **kwargs)

    for batch in eval_batches(Feed(split=train, encodings=port.encodings), batch_size=48):
        port.forward(ended.state.params, ended.state.model_state, batch, intercept=watch)
    (maps,), found = read, ended.state.model_state["batch_stats"]["stem"]["norm"]
    np.testing.assert_allclose(found["mean"], maps.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["var"], maps.var(0, ddof=1), rtol=1e-4)
    config.stage.full.adds, config.stage.full.options = (), {}
    jaxfer.run(config, tmp_path / "plain", quiet=True)
    plain = open_run(tmp_path / "plain").state.params["stem"]["conv"]["kernel"]
    assert not np.allclose(plain, ended.state.params["stem"]["conv"]["kernel"], atol=1e-4), (
        "it is the mean that goes on"
    )


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
