"""Progressive networks: two columns by hand, the start, and that the source's column stays as it was."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.models.port import FEATURES
from jaxfer.rules import flatten, unflatten
from tests.experiments import backbone, batches, tiny_stage, train


@pytest.mark.parametrize("case", ["resnet_basic", "bert_pooler"])
def test_two_columns_by_hand(case):
    stage = tiny_stage(case, method="progressive", options={"bottleneck": 3})
    (source, norms), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    state, rng = stage.enter(source, norms, 0), np.random.default_rng(0)
    leaves = flatten(state.params)
    for path in [path for path in leaves if path.startswith("progressive/")]:
        leaves[path] += jnp.asarray(0.3 * rng.normal(size=leaves[path].shape), jnp.float32)
    laterals = {path.removeprefix("progressive/"): np.float64(x) for path, x in leaves.items()}
    column = {path: x for path, x in leaves.items() if not path.startswith("progressive/")}

    def lent(site, s):
        read = np.float64(s) * laterals[f"{site}/gate/scale"]
        read = np.maximum(read @ laterals[f"{site}/down/kernel"] + laterals[f"{site}/down/bias"], 0)
        return read @ laterals[f"{site}/up/kernel"]

    inner = port.units[1:-1]
    taps = port.forward(source, norms, batch, taps=(*port.units[:-1], FEATURES)).taps
    x = port.forward(unflatten(column), norms, batch, end=port.units[0]).outputs
    for before, unit in zip(port.units, inner, strict=False):
        x = jnp.asarray(np.float64(x) + lent(unit, taps[before]), jnp.float32)
        passed = {**batch, port.inputs[0]: x}
        x = port.forward(unflatten(column), norms, passed, begin=unit, end=unit).outputs
    passed = {**batch, port.inputs[0]: x}
    features = port.forward(unflatten(column), norms, passed, begin=port.units[-1], taps=(FEATURES,)).taps[FEATURES]
    features = np.float64(features) + lent(port.head, taps[FEATURES])
    kernel, bias = (np.float64(column[f"{port.head}/{leaf}"]) for leaf in ("kernel", "bias"))
    method, params = stage.spec.method, unflatten(leaves)
    found = port.apply(method.view(params, state.extra), norms, batch, intercept=method.intercept(params, state.extra))[
        0
    ]
    np.testing.assert_allclose(found, features @ kernel + bias, rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize(
    "options,message",
    [
        ({"bottleneck": 0}, "progressive: expected bottleneck >= 1, found 0"),
        ({"gate": 0.0}, "progressive: expected a gate other than 0"),
        ({"start": "frehs"}, "progressive: unknown start 'frehs'.*fresh"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        tiny_stage("vit_cls", method="progressive", options=options)


def test_two_towers_are_refused():
    with pytest.raises(InputError, match="progressive: adds to one array, unit '.*' gives several; use full or lora"):
        tiny_stage("clip", method="progressive")
