"""Adapters of one backbone: switched bit by bit, summed and stacked by hand, and what can't be."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.exports.adapters import evaluate
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import open_run
from tests.experiments import tiny_config
from tests.models.tiny import batch

pytestmark = pytest.mark.system

FIELDS = dict(steps=2, lr=0.05)
# {name: fields}; `a` and `b` have other ranks and scales.
RUNS = {
    "a": dict(method="lora", options=dict(rank=2, alpha=3.0)),
    "b": dict(method="lora", options=dict(rank=3, alpha=6.0), batch_size=4),
    "scales": dict(method="ia3"),
    "whole": dict(method="full"),
    "five": dict(method="lora", options=dict(rank=2), classes=5),
    "to the head": dict(method="lora", options=dict(rank=2, targets=("head/out/kernel",))),
    "averaged": dict(method="lora", options=dict(rank=2), adds=("ema",)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    jaxfer.run(tiny_config("vit_cls", method="probe", steps=1), folder / "start", quiet=True)
    for name, fields in RUNS.items():
        given = {**FIELDS, **fields}
        classes = given.pop("classes", 3)
        config = tiny_config("vit_cls", init=f"run:{folder / 'start'}", **given)
        config.data.classes_count = classes
        jaxfer.run(config, folder / name, quiet=True)
    return folder


@pytest.fixture(scope="module")
def held(runs):
    return jaxfer.adapters({name: runs / name for name in ("a", "b", "scales")})


def outputs(model):
    x = batch(model.port, examples=4)
    return np.asarray(jax.jit(lambda arrays: model.network.with_arrays(*arrays)(x).outputs)(model.network.arrays))


def trained(folder):
    """The run's own outputs, unmerged, and its parameters."""
    finished = open_run(folder)
    spec, state = finished.stage.spec, finished.state
    x = batch(spec.port, examples=4)

    def apply(params, extra):
        how = dict(intercept=spec.method.intercept(params, extra))
        return spec.port.apply(spec.method.view(params, extra), state.model_state, x, **how)[0]

    return np.asarray(jax.jit(apply)(state.params, state.extra)), flatten(state.params)


def test_a_switch_is_the_run_bit_by_bit_on_one_backbone(held, runs):
    found = {name: outputs(held.switch(name)) for name in held.each}
    for name, each in found.items():
        np.testing.assert_array_equal(each, trained(runs / name)[0])
        leaves = flatten(held.switch(name).params)
        assert all(leaves[path] is leaf for path, leaf in held.backbone.items())
    assert np.abs(found["a"] - found["b"]).max() > 1e-3
    assert evaluate(held.switch("a"), runs / "a") == jaxfer.evaluate(runs / "a")


def by_hand(held, runs, weights, head):
    """The outputs of kernels W + sum of w * alpha / rank * A B, in the model without any method."""
    leaves = {**held.backbone, **held.each[head].head}
    for name, weight in weights.items():
        own, options = trained(runs / name)[1], RUNS[name]["options"]
        for path in [path for path in own if path.endswith("/a") and path.startswith("lora/")]:
            site = path.removeprefix("lora/").removesuffix("/a")
            a, b = np.asarray(own[path], np.float64), np.asarray(own[f"lora/{site}/b"], np.float64)
            update = weight * options["alpha"] / options["rank"] * np.tensordot(a, b, 1)
            leaves[f"{site}/kernel"] = np.asarray(leaves[f"{site}/kernel"] + update, np.float32)
    port = held.each[head].model.port
    return np.asarray(port.apply(unflatten(leaves), held.model_state, batch(port, examples=4))[0])


@pytest.mark.parametrize("weights", [{"a": 0.7, "b": -1.5}, {"a": 1.0, "b": 0.0}])
@pytest.mark.parametrize("head", ["a", "b"])
def test_a_weighted_sum(weights, head, held, runs):
    model = held.weighted(weights, head=head)
    np.testing.assert_allclose(outputs(model), by_hand(held, runs, weights, head), rtol=0, atol=1e-5)
    if weights["b"] == 0 and head == "a":
        np.testing.assert_allclose(outputs(model), outputs(held.switch("a")), rtol=0, atol=1e-5)
    leaves = flatten(model.params)
    assert all(leaves[path] is leaf for path, leaf in held.backbone.items())


def test_a_stack(held, runs):
    """Of LoRA it is the sum; a stack of one is that adapter, and scales act on what LoRA made."""
    stack = held.stacked(["a", "b"], head="b")
    np.testing.assert_allclose(outputs(stack), by_hand(held, runs, {"a": 1, "b": 1}, "b"), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(outputs(held.stacked(["scales"])), outputs(held.switch("scales")))
    found, own = outputs(held.stacked(["a", "scales"])), trained(runs / "scales")[1]
    merged = flatten(held.each["a"].method.merge(held.switch("a").params, {}))
    plain = held.each["scales"].method.merge({**unflatten(merged), "ia3": unflatten(own)["ia3"]}, {})
    port = held.each["a"].model.port
    wanted = port.apply(plain, held.model_state, batch(port, examples=4))[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vera", "loha", "lokr"])
def test_a_sum_of_other_products(name, runs, tmp_path):
    """One of weight 1 is what its own method does to activations; half of two is, too."""
    jaxfer.run(tiny_config("vit_cls", init=f"run:{runs / 'start'}", method=name, **FIELDS), tmp_path / name, quiet=True)
    held = jaxfer.adapters({name: tmp_path / name, "again": tmp_path / name})
    wanted = outputs(held.switch(name))
    for weights in ({name: 1}, {name: 0.5, "again": 0.5}):
        np.testing.assert_allclose(outputs(held.weighted(weights)), wanted, rtol=0, atol=1e-5)
    assert np.abs(outputs(held.weighted({name: 0})) - wanted).max() > 1e-4


def test_each_has_its_head(runs):
    held = jaxfer.adapters({name: runs / name for name in ("a", "five")})
    assert len(held.switch("a").labels) == 3 and outputs(held.switch("five")).shape[-1] == 5
    model = held.weighted({"a": 0.5, "five": 0.5}, head="five")
    assert model.labels == held.switch("five").labels and outputs(model).shape[-1] == 5
    assert {"accuracy", "loss"} <= evaluate(model, runs / "five").keys()
    answers = jaxfer.predict(held.stacked(["a", "five"]), [np.zeros(model.port.encoding.size, np.uint8)])
    assert len(answers[0].probabilities) == 3


def test_the_command(runs, capsys):
    a, b = str(runs / "a"), str(runs / "b")
    assert main(["eval", a]) == main(["adapters", a, b, "--use=a"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.startswith("val: ")
    assert main(["adapters", a, b, "--weights=a=0.5,b=0.5", "--head=b", "--split=train"]) == 0
    assert main(["adapters", a, b, "--stack=b,a"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("train: ") and out[1].startswith("val: ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("a b --use=c", "unknown adapter 'c'; known: a, b"),
        ("a b --weights=a=1,c=2", "unknown adapter 'c'"),
        ("a b --weights=a:1", "--weights: expected NAME=WEIGHT,NAME=WEIGHT, found 'a:1'"),
        ("a b --weights=a=nan", "weights: expected a number for a, found nan"),
        ("a b --stack=a,a", "stack: expected different names of a, b, found ['a', 'a']"),
        ("a b --use=a --head=b", "--head: --use has the adapter's own"),
        ("a scales --weights=a=1,scales=1", "scales: adapters of lora, vera, loha, lokr have a sum, ia3 has none"),
        ("a whole --use=a", "whole: its backbone is not that of a: params/block_0/"),
        ("a averaged --stack=averaged", "averaged: a run that is evaluated by averages of its parameters"),
        ("a a --use=a", "expected folders of different names"),
        ("a none --use=a", "none"),
        ("a b", "one of the arguments --use --weights --stack is required"),
    ],
)
def test_what_is_a_line(argv, message, runs, capsys):
    words = [word if word.startswith("--") else str(runs / word) for word in argv.split()]
    assert main(["adapters", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_adapter_of_the_head_does_not_join_others(runs):
    held = jaxfer.adapters({name: runs / name for name in ("a", "to the head")})
    np.testing.assert_array_equal(outputs(held.switch("to the head")), trained(runs / "to the head")[0])
    with pytest.raises(InputError, match="to the head: its adapter changes its own output layer"):
        held.weighted({"a": 1, "to the head": 1})


def test_other_models(runs, tmp_path):
    jaxfer.run(tiny_config("resnet_basic", method="lora", steps=1), tmp_path / "other", quiet=True)
    with pytest.raises(InputError, match="other: its model has .* that of a .*; adapters share one"):
        jaxfer.adapters({"a": runs / "a", "other": tmp_path / "other"})
    with pytest.raises(InputError, match="expected {name: the folder of a run}, found {}"):
        jaxfer.adapters({})
