"""Progressive networks: columns by hand, the start, earlier columns as they were, a run that goes on from another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.method import Given
from jaxfer.models.port import FEATURES
from jaxfer.network import of_state
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import open_run
from tests.experiments import backbone, batches, stop_after, tiny_config, tiny_stage, train


def drawn(shapes, seed, size=0.3):
    """Normal values of these shapes."""
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(size * rng.normal(size=s.shape), s.dtype) for path, s in shapes.items()}


def handed(stage, seed=5):
    """What a source of two columns hands on, at random: its adapters, and the column before its own."""
    params, norms = tiny.draw(stage.spec.port, seed)
    shapes = stage.given.former
    column = {path: leaf for path, leaf in flatten(params).items() if path in shapes["source"]["params"]}
    return {"laterals": drawn(shapes["laterals"], seed), "source": {"params": column, "norms": norms}}


def by_hand(port, batch, columns):
    """({tap: what it gives} of each column, what the last one's output layer reads): a unit at a time.

    Args:
      port: the model.
      batch: examples.
      columns: (params, norms, {path: leaf} of its adapters, none of the first one) of each.
    """
    taps, inner = [], port.units[1:-1]
    for params, norms, laterals in columns:

        def lent(site, tap, laterals=laterals):
            if not laterals:
                return 0.0
            gates = np.float64(laterals[f"{site}/gate/scale"])
            s = np.concatenate([gate * np.float64(each[tap]) for gate, each in zip(gates, taps, strict=True)], -1)
            hidden = s @ np.float64(laterals[f"{site}/down/kernel"]) + np.float64(laterals[f"{site}/down/bias"])
            return np.maximum(hidden, 0) @ np.float64(laterals[f"{site}/up/kernel"])

        x = port.forward(params, norms, batch, end=port.units[0]).outputs
        given = {port.units[0]: x}
        for before, unit in zip(port.units, inner, strict=False):
            x = jnp.asarray(np.float64(x) + lent(unit, before), jnp.float32)
            x = port.forward(params, norms, {**batch, port.inputs[0]: x}, begin=unit, end=unit).outputs
            given[unit] = x
        last = port.forward(params, norms, {**batch, port.inputs[0]: x}, begin=port.units[-1], taps=(FEATURES,))
        read = np.float64(last.taps[FEATURES]) + lent(port.head, FEATURES)
        taps.append({**given, FEATURES: last.taps[FEATURES]})
    return taps, read


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("case", ["resnet_basic", "bert_pooler"])
def test_columns_by_hand(case, columns):
    stage = tiny_stage(case, method="progressive", options={"bottleneck": 3, "source_columns": columns - 1})
    (source, norms), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    former = handed(stage) if columns == 3 else None
    state = stage.enter(source, norms, 0, Given(former=former))
    leaves = flatten(state.params)
    moved = drawn({path: leaf for path, leaf in leaves.items() if path.startswith("progressive/")}, 0)
    leaves |= {path: leaves[path] + moved[path] for path in moved}
    column = unflatten({path: x for path, x in leaves.items() if path not in moved})
    laterals = {path.removeprefix("progressive/"): leaves[path] for path in moved}
    whole = [(source, norms, former and former["laterals"]), (column, norms, laterals)]
    if former:  # nothing reads the head of the first column
        head = {path: leaf for path, leaf in flatten(source).items() if path.startswith(f"{port.head}/")}
        first = former["source"]
        whole = [(unflatten({**head, **first["params"]}), first["norms"], None), *whole]
    taps, features = by_hand(port, batch, whole)
    if former:
        alone = by_hand(port, batch, [(source, norms, None)])[0][0]
        assert np.abs(taps[1][FEATURES] - alone[FEATURES]).max() > 1e-2  # the second one reads the first one
    kernel, bias = (np.float64(leaves[f"{port.head}/{leaf}"]) for leaf in ("kernel", "bias"))
    method, params = stage.spec.method, unflatten(leaves)
    found = port.apply(method.view(params, state.extra), norms, batch, intercept=method.intercept(params, state.extra))[
        0
    ]
    np.testing.assert_allclose(found, features @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_adapters_of_the_fourth_column():
    """One V for the concatenation of all columns before it, a gate for each of them; U and biases are of one column."""
    shapes = tiny_stage("vit_cls", method="progressive", options={"source_columns": 3}).shapes
    width = 12
    found = {path: leaf.shape for path, leaf in flatten(shapes[0]["progressive"]).items() if "block_1" in path}
    assert found == {
        "block_1/gate/scale": (3,),
        "block_1/down/kernel": (3 * width, 32),
        "block_1/down/bias": (32,),
        "block_1/up/kernel": (32, width),
    }
    extra = flatten(shapes[2])
    read = [extra[f"{at}/laterals/block_1/gate/scale"].shape for at in ("source", "source/source")]
    assert read == [(2,), (1,)]
    assert shapes[2]["source"]["source"]["source"].keys() == {"params", "norms"}


def test_the_start_is_the_new_column_alone():
    for start in ("fresh", "copy"):
        stage = tiny_stage("vit_cls", method="progressive", options={"start": start})
        (source, norms), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
        state, method = stage.enter(source, norms, 0), stage.spec.method
        view = method.view(state.params, state.extra)
        alone = port.apply(view, norms, batch)[0]
        beside = port.apply(view, norms, batch, intercept=method.intercept(state.params, state.extra))[0]
        np.testing.assert_array_equal(beside, alone)
        same = {path for path, leaf in flatten(view).items() if np.array_equal(leaf, flatten(source)[path])}
        kernels = {path for path in flatten(view) if path.endswith("/kernel")}
        assert same & kernels == (kernels if start == "copy" else {"head/out/kernel"})


def test_the_source_stays():
    stage = tiny_stage("resnet_basic", method="progressive", lr=0.05)
    source, norms = backbone(stage)
    state, _ = train(stage, 2)
    wanted = {"params": flatten(source), "norms": norms}
    assert jax.tree.all(jax.tree.map(np.array_equal, state.extra["source"], wanted))
    assert not jax.tree.all(jax.tree.map(np.array_equal, state.model_state, norms))


def later(init, **fields):
    """A run that adds a column to those of the source, under a new head."""
    decay = {"weight_decay": 0.1, "lr": 0.05}
    fields = {"steps": 3, "save_every": 1, **decay, **fields}
    return tiny_config("resnet_basic", method="progressive", init=f"sibling:{init}", head="reset", **fields)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One network, and a run of two columns that starts from it, one of three that starts from that."""
    folder = tmp_path_factory.mktemp("runs")
    jaxfer.run(tiny_config("resnet_basic", steps=1), folder / "one", quiet=True)
    jaxfer.run(later("one"), folder / "two", quiet=True)
    jaxfer.run(later("two"), folder / "three", quiet=True)
    return folder


@pytest.mark.system
def test_a_run_adds_a_column_to_those_of_its_source(runs):
    """Each is as the source's run left it, bitwise, after training; the whole source computes what it did."""
    two, three = (open_run(runs / name) for name in ("two", "three"))
    assert [run.experiment.stages[0][1].options["source_columns"] for run in (two, three)] == [1, 2]
    port, source = two.stage.spec.port, three.state.extra["source"]
    own = {path: leaf for path, leaf in flatten(two.state.params).items() if not path.startswith("head/out/")}
    kept = {path: leaf for path, leaf in source["params"].items() if not path.startswith("head/out/")}
    kept |= {f"progressive/{path}": leaf for path, leaf in source["laterals"].items()}
    assert kept.keys() == own.keys() and all(np.array_equal(kept[path], own[path]) for path in own)
    assert jax.tree.all(jax.tree.map(np.array_equal, source["norms"], two.state.model_state))
    first, there = source["source"], two.state.extra["source"]
    assert first.keys() == there.keys() and set(there["params"]) - set(first["params"]) == {
        "head/out/kernel",
        "head/out/bias",
    }
    assert all(np.array_equal(leaf, there["params"][path]) for path, leaf in first["params"].items())
    moved = flatten(three.state.params)
    assert not np.array_equal(moved["progressive/block_1/up/kernel"], own["progressive/block_1/up/kernel"])

    network, batch = of_state(two.stage, two.state), tiny.batch(port)
    head = {path: leaf for path, leaf in flatten(two.state.params).items() if path.startswith("head/out/")}
    first = {**first, "params": {**head, **first["params"]}}
    again = network.with_arrays(unflatten({**kept, **head}), source["norms"], {"source": first})
    np.testing.assert_array_equal(again(batch).outputs, network(batch).outputs)


@pytest.mark.system
def test_a_run_of_three_columns_is_a_run_like_others(runs, monkeypatch, capsys):
    """Stopped and resumed bitwise without its source, finished again, evaluated, predicted with, in a chain."""
    result = jaxfer.run(later("two"), runs / "three", quiet=True)
    former = result["lineage"]["former"]
    assert former["method"] == "progressive" and len(former["sha256"]) == 64
    assert jaxfer.evaluate(runs / "three")["loss"] == pytest.approx(result["metrics"]["val"]["loss"], rel=1e-6)
    (answer,) = jaxfer.predict(runs / "three", np.zeros((8, 8, 3), np.uint8))
    assert answer.error is None and len(answer.probabilities) == 3
    scores = jaxfer.chain([runs / name for name in ("one", "two", "three")]).scores
    assert scores[2][:2] == scores[1][:2] and scores[2][2] == result["metrics"]["val"]["accuracy"]
    capsys.readouterr()

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_after(patch, steps=2)
        jaxfer.run(later("two"), runs / "parts", quiet=True)
    (runs / "two").rename(runs / "moved")
    try:
        jaxfer.run(later("two"), runs / "parts", quiet=True)
    finally:
        (runs / "moved").rename(runs / "two")
    whole, parts = (open_run(runs / name).state for name in ("three", "parts"))
    for name in ("params", "model_state", "opt_state", "extra"):
        assert jax.tree.all(jax.tree.map(np.array_equal, getattr(whole, name), getattr(parts, name))), name


@pytest.mark.system
def test_a_stage_adds_a_column_to_those_of_the_stage_before(tmp_path):
    config = tiny_config("resnet_basic")
    config.stages = tuple("abc")
    for name, method in {"a": "full", "b": "progressive", "c": "progressive"}.items():
        config.stage[name] = dict(method=method, steps=1, lr=1e-2)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    run = open_run(tmp_path / "run")
    assert [stage.options.get("source_columns") for _, stage in run.experiment.stages] == [None, 1, 2]
    assert run.state.extra["source"]["source"].keys() == {"params", "norms"}


@pytest.mark.system
def test_sources_of_other_columns_are_refused(runs):
    """And a run of another method from one of columns, which no plain network has."""

    def refused(init="two", **fields):
        with pytest.raises(InputError) as caught:
            jaxfer.run(later(init, **fields), runs / "refused", quiet=True)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    stated = "config.options.source_columns: the source has {}, found 3; leave it out"
    assert refused(options={"source_columns": 3}) == stated.format("2 columns")
    assert refused("one", options={"source_columns": 3}) == stated.format("1 column")
    assert "its source kept other shapes for it; use the same model and options" in refused(options={"bottleneck": 8})
    config = later("two")
    config.method = "full"
    with pytest.raises(InputError, match="method 'progressive' adds modules that no plain ResNet has"):
        jaxfer.run(config, runs / "refused", quiet=True)
    config = tiny_config("resnet_basic", method="progressive", options={"source_columns": 2})
    with pytest.raises(InputError, match="the source has 1 column, found 2; leave it out"):
        jaxfer.run(config, runs / "refused", quiet=True)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"bottleneck": 0}, "progressive: expected bottleneck >= 1, found 0"),
        ({"gate": 0.0}, "progressive: expected a gate other than 0"),
        ({"start": "frehs"}, "progressive: unknown start 'frehs'.*fresh"),
        ({"source_columns": 0}, "progressive: expected source_columns >= 1, found 0; leave it out"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        tiny_stage("vit_cls", method="progressive", options=options)


def test_two_towers_are_refused():
    with pytest.raises(InputError, match="progressive: adds to one array, unit '.*' gives several; use full or lora"):
        tiny_stage("clip", method="progressive")
