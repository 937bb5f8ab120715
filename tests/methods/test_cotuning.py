"""Co-tuning: the relation of classes and the loss by hand, whose head is read, and that it is measured once."""

from __future__ import annotations

import json
import shutil
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
import scipy.optimize

import jaxfer
from jaxfer.conformance import tiny
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.errors import InputError
from jaxfer.method import Given
from jaxfer.methods._relation import STRENGTHS, fitted, reverse
from jaxfer.models import heads
from jaxfer.models.port import FEATURES, Training
from jaxfer.network import of_state
from jaxfer.registry import METHODS
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.training import entering
from jaxfer.training.preflight import preflight
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train
from tests.pretrained.checkpoints import RESNET, VIT, begin, checkpoint, config_of

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run on five classes."""
    folder, config = tmp_path_factory.mktemp("source") / "run", tiny_config("resnet_basic", steps=2, lr=0.03)
    config.data.classes_count = 5
    jaxfer.run(config, folder, quiet=True)
    return folder


def of(source, **fields):
    return tiny_config("resnet_basic", **{"method": "cotuning", "init": f"run:{source}", "steps": 2, **fields})


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("mode", "devices"),
    [
        ("jit", 1),
        pytest.param("jit", 4, marks=pytest.mark.rest),
        ("fsdp", 2),
        pytest.param("pmap", 4, marks=pytest.mark.rest),
    ],
)
def test_relation_by_hand(source, tmp_path, mode, devices):
    """The mean softmax of the source's own head over each class of the training split, in batches with padding."""
    config = of(source, eval_batch_size=7)
    config.parallel.update(mode=mode, devices=devices)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    finished = open_run(source)
    network, split = of_state(finished.stage, finished.state), preflight(config).data.splits["train"]
    chances, labels = [], np.asarray(split.labels)
    for batch in eval_batches(Feed(split=split, encodings=network.port.encodings), batch_size=len(split)):
        chances.append(softmax(np.asarray(network(batch).outputs, np.float64)))
    chances = np.concatenate(chances)
    assert chances.shape == (len(split), 5) and len(split) % 7
    wanted = np.stack([chances[labels == c].mean(0) for c in range(3)])
    relation = open_run(tmp_path / "run").state.extra["relation"]
    np.testing.assert_allclose(relation, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.rest)])
def test_the_reverse_relation_by_hand(source, tmp_path, devices):
    """Of the rows of the training split, in its order, whatever the batches and devices; kept as the state's."""
    config = of(source, eval_batch_size=7, options={"relation": "reverse"})
    config.parallel.update(mode="fsdp" if devices > 1 else "jit", devices=devices)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    finished = open_run(source)
    network, split = of_state(finished.stage, finished.state), preflight(config).data.splits["train"]
    (batch,) = eval_batches(Feed(split=split, encodings=network.port.encodings), batch_size=len(split))
    chances = softmax(np.asarray(network(batch).outputs, np.float64))
    wanted = reverse(chances, np.asarray(split.labels), 3)
    relation = open_run(tmp_path / "run").state.extra["relation"]
    assert relation.shape == (3, 5) and np.allclose(relation.sum(1), 1)
    np.testing.assert_allclose(relation, wanted, rtol=1e-3, atol=1e-5)


def test_bayes_rule_by_hand():
    """Where each source class goes with one target class, by a strength that is found on every fifth example."""
    rng = np.random.default_rng(0)
    sources = rng.integers(0, 4, 200)
    labels, chances = np.array([0, 1, 1, 2])[sources], 0.96 * np.eye(4)[sources] + 0.01
    found = reverse(chances, labels, 3)
    scores, held = [], np.arange(200) % 5 == 0
    for strength in STRENGTHS:
        weights = fitted(chances[~held], labels[~held], 3, strength)
        scores.append(((chances[held] @ weights).argmax(1) == labels[held]).mean())
    assert scores[0] == 1.0  # so the first of them is chosen
    of_target = softmax(fitted(chances, labels, 3, STRENGTHS[0]))
    joint = of_target.T * chances.mean(0)
    np.testing.assert_allclose(found, joint / joint.sum(1, keepdims=True), rtol=1e-12)
    shares = np.bincount(sources, minlength=4) / np.bincount(labels)[[0, 1, 1, 2]]
    np.testing.assert_allclose(found.T[np.arange(4), [0, 1, 1, 2]], shares, atol=0.02)


def test_the_fit_is_where_the_gradient_vanishes():
    """X^T (P - Y) + W / strength = 0, and what one probability and two classes give: a root that is found by itself."""
    rng = np.random.default_rng(1)
    x, labels = rng.dirichlet(np.ones(5), 40), rng.integers(0, 3, 40)
    for strength in (1e-3, 1.0, 1e3):
        weights = fitted(x, labels, 3, strength)
        gradient = x.T @ (softmax(x @ weights) - np.eye(3)[labels]) + weights / strength
        assert np.abs(gradient).max() < 1e-4
    weights = fitted(np.ones((4, 1)), np.array([0, 0, 0, 1]), 2, 1.0)
    slope = scipy.optimize.brentq(lambda w: 4 / (1 + np.exp(-2 * w)) - 3 + w, 0, 3)
    np.testing.assert_allclose(weights, [[slope, -slope]], rtol=1e-5)


@pytest.mark.parametrize("case", ["resnet_basic", pytest.param("vit_distilled", marks=pytest.mark.rest)])
def test_loss_by_hand(case):
    """The task's loss, plus trade_off times the cross-entropy of the source's head with the label's row."""
    stage = tiny_stage(case, method="cotuning", options={"source_outputs": 4, "trade_off": 0.7}, lr=0.0)
    plain, (batch,), (params, state) = tiny_stage(case, lr=0.0), batches(stage, 1), backbone(stage)
    given = tiny.given(stage.given)
    relation = np.asarray(given.measured["chances"] / given.measured["share"][:, None], np.float64)
    assert relation.shape == (3, 4)
    training = Training(key=jax.random.key(0), live=plain.spec.live, eval_norms=plain.spec.eval_norms)
    passed = jax.jit(
        lambda: plain.spec.port.forward(params, state, batch, training=training, taps=(FEATURES,))
    )()  # batch statistics; no unit has dropout
    layer = {path.removeprefix("head/out/"): leaf for path, leaf in given.head.items()}
    logits = np.asarray(passed.taps[FEATURES] @ layer["kernel"] + layer["bias"], np.float64)
    wanted = train(plain, 1)[1][0] - 0.7 * (relation[batch["label"]] * np.log(softmax(logits))).sum(-1).mean()
    assert train(stage, 1)[1][0] == pytest.approx(wanted, rel=1e-5)


def test_the_temperature_of_the_relation():
    """The head's outputs are divided by it before the softmax that the relation is a mean of."""
    port = tiny.make("vit_cls")
    rng, leaves = np.random.default_rng(0), {"head/out/kernel": np.ones((3, 4)), "head/out/bias": np.zeros(4)}
    leaves["head/out/kernel"] = rng.normal(size=(3, 4)).astype(np.float32)
    features = rng.normal(size=(5, 3)).astype(np.float32)
    ctx = types.SimpleNamespace(
        taps={FEATURES: jax.numpy.asarray(features)}, batch={"label": np.array([0, 1, 2, 1, 0])}
    )
    for options, temperature in (({}, 1.0), ({"temperature": 2.5}, 2.5)):
        measured = METHODS.make("cotuning", port, **options).measure(ctx, Given(head=leaves))
        wanted = softmax(features @ leaves["head/out/kernel"] / temperature)
        found = np.asarray(measured["chances"]).sum(1)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    with pytest.raises(InputError, match="config.options.temperature: expected a number above 0, found 0.0; 1 is none"):
        METHODS.make("cotuning", port, temperature=0.0)
    with pytest.raises(InputError, match="options.relation must be one of 'direct', 'reverse', found 'revers'"):
        METHODS.make("cotuning", port, relation="revers")


def test_the_outputs_of_two_layers_by_hand():
    """DeiT's head: the mean of a layer for each token."""
    rng, x = np.random.default_rng(0), np.ones((4, 2, 3))
    one, two = ({"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)} for _ in range(2))
    both = {f"cls/{name}": leaf for name, leaf in one.items()} | {f"dist/{name}": leaf for name, leaf in two.items()}
    wanted = (one["kernel"].sum(0) + one["bias"] + two["kernel"].sum(0) + two["bias"]) / 2
    np.testing.assert_allclose(heads.read(both, jax.numpy.asarray(x)), np.tile(wanted, (4, 1)), rtol=1e-6)


def test_rates():
    """The source's head learns at a tenth of the rate; rates that a config gives each group are taken as they are."""
    stage = tiny_stage("vit_cls", method="cotuning", lr=0.2)
    found = {name: stage.hparams[f"lr/{name}"] for name in ("backbone", "head", "source_head")}
    assert found == {"backbone": 0.2, "head": 0.2, "source_head": pytest.approx(0.02)}
    rates = {"backbone": 0.0, "head": 0.3, "source_head": 0.4}
    stage = tiny_stage("vit_cls", method="cotuning", rates=rates)
    assert {name: stage.hparams[f"lr/{name}"] for name in rates} == rates


def test_measured_once_and_without_the_source_thereafter(source, tmp_path, monkeypatch):
    moved, folder = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(source, moved)
    jaxfer.run(of(moved), folder, quiet=True)
    assert json.loads((folder / "config.json").read_text())["options"]["source_outputs"] == 5
    assert flatten(open_run(folder).state.params)["cotuning/head/out/kernel"].shape == (12, 5)
    shutil.rmtree(moved)

    def again(*_):
        raise AssertionError("measured twice")

    monkeypatch.setattr(entering, "measured", again)
    assert jaxfer.run(of(moved, steps=3), folder, quiet=True)["steps"] == 3
    assert set(jaxfer.evaluate(folder)) >= {"accuracy", "loss", "balanced_accuracy", "macro_f1", "mcc"}


@pytest.mark.parametrize(("family", "options"), [("resnet", RESNET), pytest.param("vit", VIT, marks=pytest.mark.rest)])
def test_the_head_of_a_checkpoint(tmp_path, family, options):
    """Its own head of five classes, although the run makes one of three."""
    _, params, _ = checkpoint(tmp_path / "five", family, options, labels=tuple("abcde"))
    start = begin(config_of(tmp_path / "five", options["image"], method="cotuning"))
    assert flatten(start.params)["head/out/kernel"].shape[-1] == 3
    assert start.head.keys() == {"head/out/kernel", "head/out/bias"}
    for path, leaf in start.head.items():
        np.testing.assert_array_equal(leaf, flatten(params)[path])
    assert begin(config_of(tmp_path / "five", options["image"])).head is None


def test_a_checkpoint_without_a_head(tmp_path):
    folder = tmp_path / "vit"
    checkpoint(folder, "vit", VIT)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    bare = {key.removeprefix("vit."): x for key, x in tensors.items() if not key.startswith("classifier")}
    safetensors.numpy.save_file(bare, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="has no head that labels whole inputs; choose another source or method"):
        begin(config_of(folder, (8, 12, 3), method="cotuning"))


def test_sources_and_tasks_that_do_not_classify(source, tmp_path):
    config = of(source)
    config.task = dict(name="multilabel")
    with pytest.raises(InputError, match="'cotuning' learns the task classification, config.task is 'multilabel'"):
        preflight(config)
    content = json.loads((source / "config.json").read_text())
    shutil.copytree(source, tmp_path / "other")
    (tmp_path / "other/config.json").write_text(json.dumps({**content, "task": {"name": "multilabel"}}))
    with pytest.raises(InputError, match="has a head for the task multilabel; choose another source or method"):
        preflight(of(tmp_path / "other"))
    with pytest.raises(InputError, match="the source's head has 5 outputs, found 4; leave it out"):
        preflight(of(source, options={"source_outputs": 4}))
