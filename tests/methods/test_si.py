"""Synaptic intelligence: two steps by hand, and what one run hands on to the next."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.methods import si
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import open_run
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train


def test_two_steps_by_hand():
    """The second step is pulled back by 2 c importance (w - start); the path has the task's gradients alone."""
    rate, c = 0.1, 0.3
    fields = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": rate}
    stage = tiny_stage("vit_cls", method="si", options={"c": c}, **fields)
    (params, _), two = backbone(stage), batches(stage, 2)
    importance = tiny.given(stage.given).former

    @jax.jit
    @jax.grad
    def gradient(leaves, batch):
        outputs = stage.spec.port.apply(unflatten(leaves), {}, batch)[0]
        return stage.spec.task.loss(outputs, batch, {"label_smoothing": 0.0}).value()

    start = flatten(params)
    first = gradient(start, two[0])
    middle = {path: leaf - rate * first[path] for path, leaf in start.items()}
    second = gradient(middle, two[1])
    pull = {path: 2 * c * importance.get(path, 0) * (middle[path] - start[path]) for path in start}
    state, _ = train(stage, 2)
    assert set(state.extra["path"]) == {path for path in start if not path.startswith("head/out/")}
    for path, leaf in flatten(state.params).items():
        moved = -rate * (second[path] + pull[path])
        np.testing.assert_allclose(leaf, middle[path] + moved, rtol=0, atol=2e-6, err_msg=path)
        if path in importance:
            wanted = -first[path] * (middle[path] - start[path]) - second[path] * moved
            np.testing.assert_allclose(state.extra["path"][path], wanted, rtol=1e-3, atol=1e-6, err_msg=path)
    assert max(np.abs(leaf).max() for leaf in pull.values()) > 1e-3


@pytest.mark.parametrize(("floor", "second"), [("none", -0.4), ("task", 0.2), ("importance", 0.0)])
def test_importance_by_hand(floor, second):
    """0.2 +- 0.06 / (0.3^2 + 0.01), and what is kept from falling below 0."""
    method = si.method(tiny.make("resnet_basic"), xi=0.01, floor=floor)
    extra = {name: {"stem/kernel": np.array(x)} for name, x in
             {"start": [1.0, 1.0], "path": [0.06, -0.06], "importance": [0.2, 0.2]}.items()}  # fmt: skip
    found = method.former({"stem": {"kernel": np.array([1.3, 0.7])}, "head": {"out": {"bias": np.zeros(2)}}}, extra)
    np.testing.assert_allclose(found["stem/kernel"], [0.8, second], rtol=1e-6, atol=1e-7)
    with pytest.raises(InputError, match="config.options.xi: expected a number above 0, found 0.0"):
        si.method(tiny.make("resnet_basic"), xi=0.0)
    with pytest.raises(InputError, match="config.options.floor: expected none, task, importance, found 'tsk'; nearest"):
        si.method(tiny.make("resnet_basic"), floor="tsk")


def test_a_run_hands_its_importance_on(tmp_path):
    """Bitwise, under a new head and an add-on with a state of its own; a source of another method has none."""
    fields = {"method": "si", "steps": 2, "lr": 1e-2, "options": {"floor": "task"}}
    jaxfer.run(tiny_config("resnet_basic", **fields), tmp_path / "first", quiet=True)
    source = open_run(tmp_path / "first")
    wanted = jax.jit(source.stage.spec.method.former)(source.state.params, source.state.extra)
    assert max(np.asarray(leaf).max() for leaf in wanted.values()) > 0
    config = tiny_config("resnet_basic", init="sibling:first", head="reset", adds=("ema",), **fields)
    result = jaxfer.run(config, tmp_path / "second", quiet=True)
    second = open_run(tmp_path / "second")
    assert result["lineage"]["former"]["method"] == "si" and len(result["lineage"]["former"]["sha256"]) == 64
    for path, leaf in second.state.extra["base"]["importance"].items():
        np.testing.assert_array_equal(leaf, wanted[path], err_msg=path)
    third = second.stage.hand_on(second.state, source.stage)  # from below the add-on's state
    assert all(np.all(np.asarray(leaf) >= wanted[path]) for path, leaf in third.items())


@pytest.mark.system
def test_a_stage_hands_its_importance_on(tmp_path):
    """To the next one of the run; one of another method between them has none."""
    stages = {"a": "si", "b": "si", "c": "full", "d": "si"}
    for names in ("ab", "abcd"):
        config = tiny_config("resnet_basic")
        config.stages = tuple(names)
        for name in names:
            config.stage[name] = dict(method=stages[name], steps=2, lr=1e-2)
        jaxfer.run(config, tmp_path / names, quiet=True)
    two, four = (open_run(tmp_path / names).state.extra["importance"] for names in ("ab", "abcd"))
    assert max(np.asarray(leaf).max() for leaf in two.values()) > 0
    assert not any(np.asarray(leaf).any() for leaf in four.values())


def test_a_source_of_another_method_has_nothing(tmp_path, capsys):
    jaxfer.run(tiny_config("resnet_basic", steps=1), tmp_path / "first", quiet=True)
    config = tiny_config("resnet_basic", method="si", init="sibling:first", steps=1)
    result = jaxfer.run(config, tmp_path / "second")
    assert "si: the source kept nothing for it, it starts from zero" in capsys.readouterr().err
    assert result["lineage"]["former"] == {"method": "si", "sha256": None}
    importance = open_run(tmp_path / "second").state.extra["importance"]
    assert not any(np.asarray(leaf).any() for leaf in importance.values())
