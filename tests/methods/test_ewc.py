"""Elastic weight consolidation: Fisher information and penalty by hand, and whose head and data it is measured with."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.conformance import tiny
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.errors import InputError
from jaxfer.method import Context, Given
from jaxfer.methods import ewc
from jaxfer.methods._fisher import expected_squares
from jaxfer.network import of_state
from jaxfer.registry import TASKS
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import open_run
from jaxfer.training.preflight import preflight
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train


def test_fisher_of_a_linear_model_by_hand():
    """log softmax(x W H + b)[y] has the gradient x (H (onehot(y) - p))^T with respect to W."""
    rng, one = np.random.default_rng(0), np.eye(4)
    w, h, b = rng.normal(size=(3, 2)), rng.normal(size=(2, 4)), rng.normal(size=4)
    x, y = rng.normal(size=(5, 3)), np.array([0, 1, 2, 3, 1])
    batch = {"x": jnp.asarray(x, jnp.float32), "label": jnp.asarray(y)}

    def apply(params, batch):
        return batch["x"] @ params["stem"]["kernel"] @ params["head"]["out"]["kernel"] + params["head"]["out"]["bias"]

    params = {"stem": {"kernel": jnp.asarray(w)}, "head": {"out": {"kernel": jnp.asarray(h), "bias": jnp.asarray(b)}}}
    ctx = Context(apply, TASKS.make("classification"), batch, params, None, {}, {}, 0, None)
    port = types.SimpleNamespace(head="head/out")
    rows, weighted = (ewc.method(port, weighted=weighted).measure(ctx, Given()) for weighted in (False, True))
    logits = x @ w @ h + b
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = np.einsum("ni,nj->nij", x, (one[y] - p) @ h.T) ** 2
    assert rows.keys() == {"stem/kernel"}
    np.testing.assert_allclose(rows["stem/kernel"], wanted, rtol=1e-4, atol=1e-7)
    wanted *= p[np.arange(5), y][:, None, None]
    np.testing.assert_allclose(weighted["stem/kernel"], wanted, rtol=1e-4, atol=1e-7)
    expected = expected_squares(ctx, {"stem/kernel": params["stem"]["kernel"]}, 4)["stem/kernel"]
    each = [np.einsum("ni,nj->nij", x, (one[[c] * 5] - p) @ h.T) ** 2 * p[:, c, None, None] for c in range(4)]
    np.testing.assert_allclose(expected, sum(each), rtol=1e-4, atol=1e-7)
    own = ewc.method(port, expected=True, source_outputs=4).measure(ctx, Given())["stem/kernel"]
    np.testing.assert_array_equal(own, expected)
    with pytest.raises(InputError, match="config.options: weighted and expected are two forms of F; choose one"):
        ewc.method(port, expected=True, weighted=True)
    values = dataclasses.replace(ctx, batch={**batch, "label": jnp.asarray(y, jnp.float32)})
    with pytest.raises(InputError, match="options.expected: the default of `fisher` needs one class"):
        expected_squares(values, {}, 4)


def test_penalty_by_hand():
    """After one SGD step the second loss holds strength / 2 * sum of F (w - w0)^2, and the head moves freely."""
    fields = {"optimizer": "sgd", "lr": 0.1}
    stage = tiny_stage("vit_cls", method="ewc", options={"strength": 0.6}, **fields)
    plain, two = tiny_stage("vit_cls", **fields), batches(stage, 2)
    state, _ = train(stage, 1)
    fisher, start, moved = tiny.given(stage.given).measured, flatten(backbone(stage)[0]), flatten(state.params)
    assert set(fisher) == {path for path in start if not path.startswith("head/out/")}
    pull = sum((np.asarray(fisher[p], np.float64) * np.square(np.asarray(moved[p] - start[p]))).sum() for p in fisher)
    outputs = jax.jit(lambda: plain.spec.port.apply(state.params, {}, two[1])[0])()
    task = float(plain.spec.task.loss(outputs, two[1], {"label_smoothing": 0.0}).value())
    assert pull > 1e-3
    assert train(stage, 2)[1][1] == pytest.approx(task + 0.3 * pull, rel=1e-5)


@pytest.mark.parametrize(("mode", "devices"), [pytest.param("jit", 4, marks=pytest.mark.system), ("fsdp", 4)])
def test_fisher_of_a_run(tmp_path, mode, devices):
    """Kept classes, other examples: the mean over the training split, one by one, at the source's parameters."""
    jaxfer.run(tiny_config("resnet_basic", steps=2, lr=0.03), tmp_path / "source", quiet=True)
    config = tiny_config("resnet_basic", method="ewc", init="sibling:source", head="keep", steps=2, eval_batch_size=20)
    config.data.examples = 30
    config.parallel.update(mode=mode, devices=devices)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    split, finished = preflight(config, tmp_path / "run").data.splits["train"], open_run(tmp_path / "source")
    network = of_state(finished.stage, finished.state)
    leaves = flatten(network.params)

    @jax.jit
    @jax.grad
    def gradient(leaves, batch):
        outputs = network.port.apply(unflatten(leaves), network.model_state, batch)[0]
        return jax.nn.log_softmax(outputs)[0, batch["label"][0]]

    feed = Feed(split=split, encodings=network.port.encodings, targets=finished.stage.spec.task.targets)
    total = {path: np.zeros(leaf.shape) for path, leaf in leaves.items()}
    for batch in eval_batches(feed, batch_size=1):
        for path, g in gradient(leaves, batch).items():
            total[path] += np.square(np.asarray(g, np.float64)) / len(split)
    extra = open_run(tmp_path / "run").state.extra
    assert len(split) % 20 and extra["fisher"].keys() == total.keys() - {"head/out/kernel", "head/out/bias"}
    for path, leaf in extra["fisher"].items():
        np.testing.assert_allclose(leaf, total[path], rtol=2e-3, atol=1e-6 * total[path].max(), err_msg=path)
        np.testing.assert_array_equal(extra["anchor"][path], leaves[path])


def test_a_new_head_is_refused(tmp_path):
    jaxfer.run(tiny_config("resnet_basic", steps=1), tmp_path / "source", quiet=True)
    config = tiny_config("resnet_basic", method="ewc", init="sibling:source", head="reset", steps=1)
    with pytest.raises(InputError, match="'ewc' measures .* name the source's data in config.stream.former, or keep"):
        jaxfer.run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.system
def test_the_stream_former_is_measured(tmp_path):
    """Other classes than the source's, under a new head; the Fisher information is that of the source's data."""
    first = tiny_config("resnet_basic", steps=2, lr=1e-2)
    jaxfer.run(first, tmp_path / "first", quiet=True)
    config = tiny_config("resnet_basic", method="ewc", init=f"run:{tmp_path / 'first'}", head="reset", steps=3)
    own = {name: value for name, value in first.data.to_dict().items() if name != "workers"}
    config.data.update(classes_count=5)
    config.stream.former = {**own, "task": "classification", "weight": 0.0}
    result = jaxfer.run(config, tmp_path / "second", quiet=True)
    assert {"accuracy", "former/accuracy"} <= result["metrics"]["val"].keys()
    same = tiny_config("resnet_basic", method="ewc", init=f"run:{tmp_path / 'first'}", head="keep", steps=1)
    jaxfer.run(same, tmp_path / "same", quiet=True)
    there, here = (open_run(tmp_path / name).state.extra["fisher"] for name in ("second", "same"))
    for path, leaf in there.items():
        np.testing.assert_allclose(leaf, here[path], rtol=1e-5, atol=1e-9, err_msg=path)
    config.stream.former = {**own, "classes_count": 4, "task": "classification", "weight": 0.0}
    with pytest.raises(InputError, match="config.stream.former: it has 4 classes, the source 3"):
        jaxfer.run(config, tmp_path / "wrong", quiet=True)


def test_online_information_by_hand():
    """F = gamma F + F_new, around the parameters of the start; without `online` nothing is handed on."""
    stage = tiny_stage("vit_cls", method="ewc", options={"online": 0.25})
    given, (params, _) = tiny.given(stage.given), backbone(stage)
    extra = stage.enter(params, {}, 0, given).extra
    assert given.former.keys() == given.measured.keys()
    for path, leaf in extra["fisher"].items():
        wanted = np.asarray(given.measured[path], np.float64) + 0.25 * np.asarray(given.former[path], np.float64)
        np.testing.assert_allclose(leaf, wanted, rtol=1e-6)
        np.testing.assert_array_equal(extra["anchor"][path], flatten(params)[path])
    assert stage.spec.method.former(params, extra) is extra["fisher"]
    assert tiny_stage("vit_cls", method="ewc").given.former is None
    with pytest.raises(InputError, match="config.options.online: expected 0 to 1, found 1.5"):
        tiny_stage("vit_cls", method="ewc", options={"online": 1.5})


@pytest.mark.system
def test_a_chain_of_online_runs(tmp_path):
    """The third run's information is its own measurement, which plain ewc has, and gamma times the second run's."""
    jaxfer.run(tiny_config("resnet_basic", steps=2, lr=0.03), tmp_path / "one", quiet=True)
    fields = {"method": "ewc", "head": "keep", "steps": 2}
    online = {**fields, "options": {"online": 0.5}}
    two = jaxfer.run(tiny_config("resnet_basic", init="sibling:one", **online), tmp_path / "two", quiet=True)
    three = jaxfer.run(tiny_config("resnet_basic", init="sibling:two", **online), tmp_path / "three", quiet=True)
    jaxfer.run(tiny_config("resnet_basic", init="sibling:two", **fields), tmp_path / "plain", quiet=True)
    assert [bool(result["lineage"]["former"]["sha256"]) for result in (two, three)] == [False, True]
    former, whole, own = (open_run(tmp_path / name).state.extra["fisher"] for name in ("two", "three", "plain"))
    for path, leaf in whole.items():
        np.testing.assert_allclose(leaf, own[path] + 0.5 * former[path], rtol=1e-6, err_msg=path)
