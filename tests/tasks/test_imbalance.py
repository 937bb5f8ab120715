"""Losses for classes of unequal size: by hand, beside scikit-learn and optax, and through slices and devices."""

from __future__ import annotations

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_class_weight

import jaxfer
import jaxfer.config
from jaxfer.config.experiment import ParallelConfig
from jaxfer.conformance.training import batches, continue_training, entered, tiny_stage
from jaxfer.data.encoding import Draw
from jaxfer.data.loader import Feed
from jaxfer.data.order import batch_indices
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.parallel.placement import placement
from jaxfer.registry import TASKS
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import read_metrics
from jaxfer.tasks import imbalance
from tests.experiments import tiny_config

# Softmax of these: (1/2, 1/4, 1/4), (1/6, 1/3, 1/2), (1/2, 1/4, 1/4).
LOGITS = jnp.log(jnp.asarray([[2.0, 1.0, 1.0], [1.0, 2.0, 3.0], [2.0, 1.0, 1.0]]))
LABELS = np.asarray([0, 1, 2], np.int32)
TRAIN = np.asarray([0] * 16 + [1] * 3 + [2], np.int32)  # of 20 examples: 16, 3, 1
DRAW = Draw(0, 0, np.arange(3))
SETS = np.asarray([[1, 1, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]], bool)  # 1, 4, 3 and 0 of 4


def classes(**options):
    """(task, a batch of an example of each class of TRAIN)."""
    task, split = TASKS.make("classification", **options), Split.whole(label=Array(TRAIN, "class"))
    return task, task.targets(split, np.asarray([0, 16, 19]), {}, DRAW)


def sets(**options):
    """(task, a batch of all of SETS)."""
    task, split = TASKS.make("multilabel", **options), Split.whole(label=Array(SETS, "classes"))
    return task, task.targets(split, np.arange(4), {}, Draw(0, 0, np.arange(4)))


def loss(task, outputs, batch, **hparams):
    known = {name: jnp.float32(value) for name, value in {**(task.hparams or {}), **hparams}.items()}
    return task.loss(outputs, batch, known)


def binary(p, label, pos_weight=1.0):
    return -pos_weight * math.log(p) if label else -math.log(1 - p)


def test_counts_are_those_of_the_rows_in_use():
    split = Split.whole(label=Array(TRAIN, "class"))
    assert split.class_counts.tolist() == [16, 3, 1]
    assert split.take(np.asarray([0, 1, 16, 19])).class_counts.tolist() == [2, 1, 1]
    assert Split.whole(label=Array(SETS, "classes")).class_counts.tolist() == [1, 4, 3, 0]


def test_balanced_weights_are_those_of_scikit_learn():
    task, batch = classes(class_weights="balanced")
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=TRAIN)
    np.testing.assert_allclose(batch["class_weight"], wanted, rtol=1e-6)
    np.testing.assert_allclose(wanted, [20 / 48, 20 / 9, 20 / 3])
    found = loss(task, LOGITS, batch)
    np.testing.assert_allclose(found.count, wanted, rtol=1e-6)
    nll = np.log([2, 3, 4])
    np.testing.assert_allclose(found.value(), (wanted * nll).sum() / wanted.sum(), rtol=1e-6)


def test_given_weights_are_by_class():
    task, batch = classes(class_weights=(1.0, 0.0, 3.0))
    found = loss(task, LOGITS, batch)
    assert found.count.tolist() == [1.0, 0.0, 3.0]
    np.testing.assert_allclose(found.value(), (math.log(2) + 3 * math.log(4)) / 4, rtol=1e-6)


def test_weights_of_the_effective_number():
    task, batch = classes(class_weights="effective")
    found = loss(task, LOGITS, batch, class_beta=0.75).count
    np.testing.assert_allclose(found, [0.25 / (1 - 0.75**16), 0.25 / (1 - 0.75**3), 1.0], rtol=1e-6)
    np.testing.assert_array_equal(loss(task, LOGITS, batch, class_beta=0.0).count, [1.0, 1.0, 1.0])
    # Near 1 they are 1 / n; beta itself is rounded to float32.
    near = loss(task, LOGITS, batch, class_beta=1 - 2**-20).count
    np.testing.assert_allclose(near * np.asarray([16, 3, 1]), [1, 1, 1], rtol=1e-4)


def test_a_weighted_loss_is_smoothed_before_it_is_weighted():
    task, batch = classes(class_weights=(1.0, 2.0, 3.0))
    plain = loss(TASKS.make("classification"), LOGITS, batch, label_smoothing=0.3).total
    found = loss(task, LOGITS, batch, label_smoothing=0.3)
    np.testing.assert_allclose(found.total, plain * np.asarray([1.0, 2.0, 3.0]), rtol=1e-6)


def test_focal_loss_of_classes():
    task, batch = classes(loss="focal")
    assert set(batch) == {"label"}
    wanted = [(1 / 2) ** 2 * math.log(2), (2 / 3) ** 2 * math.log(3), (3 / 4) ** 2 * math.log(4)]
    np.testing.assert_allclose(loss(task, LOGITS, batch).total, wanted, rtol=1e-6)
    np.testing.assert_allclose(loss(task, LOGITS, batch, gamma=0.0).total, np.log([2, 3, 4]), rtol=1e-6)
    # Smoothing: the mean over a target of 0.8 at the class and 0.1 at the others.
    whole = [[(1 - 1 / n) ** 2 * math.log(n) for n in row] for row in [(2, 4, 4), (6, 3, 2), (2, 4, 4)]]
    smooth = np.sum((0.7 * np.eye(3) + 0.1) * whole, -1)
    np.testing.assert_allclose(loss(task, LOGITS, batch, label_smoothing=0.3).total, smooth, rtol=1e-6)


def test_focal_loss_of_two_classes_is_optax_sigmoid_focal_loss():
    z = jnp.linspace(-6, 6, 13)
    for label in (0, 1):
        batch = {"label": jnp.full(13, label)}
        found = loss(TASKS.make("classification", loss="focal"), jnp.stack([0 * z, z], -1), batch, gamma=1.5).total
        wanted = optax.losses.sigmoid_focal_loss(z, jnp.full(13, float(label)), gamma=1.5)
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-7)


def test_logit_adjustment_adds_the_log_prior():
    task, batch = classes(loss="logit_adjusted")
    np.testing.assert_allclose(batch["log_prior"], [np.log([0.8, 0.15, 0.05])] * 3, rtol=1e-6)
    # The odds of each class times its share.
    odds = np.exp(LOGITS) * [0.8, 0.15, 0.05]
    wanted = -np.log((odds / odds.sum(-1, keepdims=True))[np.arange(3), LABELS])
    np.testing.assert_allclose(loss(task, LOGITS, batch).total, wanted, rtol=1e-6)
    np.testing.assert_allclose(loss(task, LOGITS, batch, tau=0.0).total, np.log([2, 3, 4]), rtol=1e-6)


def test_ldam_takes_a_margin_from_the_true_class():
    task, batch = classes(loss="ldam")
    np.testing.assert_allclose(batch["margin"], [0.5, 3**-0.25, 1.0], rtol=1e-6)  # (1 / n)^(1/4)
    odds, margin = np.exp(np.asarray(LOGITS, np.float64)), np.asarray([0.5, 3**-0.25, 1.0])
    odds[np.arange(3), LABELS] *= np.exp(-0.4 * margin)
    odds **= 2
    wanted = -np.log((odds / odds.sum(-1, keepdims=True))[np.arange(3), LABELS])
    np.testing.assert_allclose(loss(task, LOGITS, batch, max_margin=0.4, scale=2.0).total, wanted, rtol=1e-6)
    assert {name: task.hparams[name] for name in ("max_margin", "scale")} == {"max_margin": 0.5, "scale": 30.0}


def test_pos_weight_is_negatives_per_positive():
    task, batch = sets(pos_weight="balanced")
    np.testing.assert_allclose(batch["pos_weight"], [[3, 1 / 4, 1 / 3, 4]] * 4, rtol=1e-6)  # all have one, none another
    chances = np.asarray([1 / 2, 3 / 4, 1 / 5, 2 / 3])
    outputs = jnp.log(jnp.asarray([[1.0, 3.0, 0.25, 2.0]] * 4))
    found = loss(task, outputs, batch)
    wanted = [np.mean([binary(*each) for each in zip(chances, row, (3, 1 / 4, 1 / 3, 4), strict=True)]) for row in SETS]
    assert found.count is None  # a mean over labels, as of PyTorch's BCEWithLogitsLoss
    np.testing.assert_allclose(found.total, wanted, rtol=1e-6)
    given, batch = sets(pos_weight=(2.0, 1.0, 1.0, 1.0))
    chosen = [binary(*each) for each in zip(chances, SETS[0], (2, 1, 1, 1), strict=True)]
    np.testing.assert_allclose(loss(given, outputs, batch).total[0], np.mean(chosen), rtol=1e-6)


def test_focal_loss_of_sets_is_that_of_optax():
    outputs, labels = jnp.linspace(-8, 8, 34).reshape(17, 2), jnp.asarray([[True, False]] * 17)
    found = loss(TASKS.make("multilabel", loss="focal"), outputs, {"label": labels}).total
    wanted = optax.losses.sigmoid_focal_loss(outputs, labels.astype(jnp.float32), gamma=2.0).mean(-1)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-7)


def test_asymmetric_loss_by_hand():
    task = TASKS.make("multilabel", loss="asymmetric")
    # Probabilities 1/2 of a label, 4/5 and 1/26 of none: 1/26 is below the shift of 1/20, and costs nothing.
    outputs, label = jnp.log(jnp.asarray([[1.0, 4.0, 1 / 25]])), jnp.asarray([[True, False, False]])
    wanted = (math.log(2) - 0.75**4 * math.log(0.25)) / 3
    np.testing.assert_allclose(loss(task, outputs, {"label": label}).total, [wanted], rtol=1e-6)
    powers = {"gamma_pos": 1.0, "gamma_neg": 2.0, "shift": 0.0}
    wanted = (math.log(2) / 2 - 0.8**2 * math.log(0.2) - (1 / 26) ** 2 * math.log(25 / 26)) / 3
    np.testing.assert_allclose(loss(task, outputs, {"label": label}, **powers).total, [wanted], rtol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_gradients_are_finite_at_certain_predictions(power):
    """A power below 1 has no slope at 0, and a logarithm none."""
    outputs = jnp.asarray([[-60.0, 60.0], [60.0, -60.0], [0.0, 1.0]])
    focal = TASKS.make("classification", loss="focal")
    batch = {"label": jnp.asarray([1, 1, 1])}
    grads = jax.grad(lambda x: loss(focal, x, batch, gamma=power).value())(outputs)
    assert np.isfinite(grads).all() and np.abs(grads[1]).max() > 0.3  # surely wrong: as of plain cross-entropy
    asymmetric = TASKS.make("multilabel", loss="asymmetric")
    batch = {"label": jnp.asarray([[True, False]] * 3)}
    for shift in (0.0, 0.05):
        hparams = {"gamma_pos": power, "gamma_neg": power, "shift": shift}
        grads = jax.grad(lambda x, hparams=hparams: loss(asymmetric, x, batch, **hparams).value())(outputs)
        assert np.isfinite(grads).all()


@pytest.mark.parametrize("loss_name", [None, "focal", "logit_adjusted", "ldam"])
@pytest.mark.parametrize("weights", [None, "balanced", "effective", (1.0, 2.0, 3.0)])
def test_batches_are_as_stated(loss_name, weights):
    """Evaluation reads labels alone and scores the plain loss; a loader's processes get the targets pickled."""
    task, batch = classes(**{"loss": loss_name, "class_weights": weights})
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    assert shapes == task.shapes(3, 3, {})
    split = Split.whole(label=Array(TRAIN, "class"))
    alone = pickle.loads(pickle.dumps(task.targets))(split, np.asarray([0, 16, 19]), {}, None)
    assert set(alone) == {"label"}
    np.testing.assert_allclose(task.scores(LOGITS, alone)["loss"].total, np.log([2, 3, 4]), rtol=1e-6)
    trained, hparams = loss(task, LOGITS, batch), {name: jnp.float32(x) for name, x in task.hparams.items()}
    counted = task.trained(LOGITS, batch, hparams)["loss"].count
    assert (trained.count is None) == (counted is None) == (weights is None)
    if weights is not None:
        np.testing.assert_array_equal(trained.count, counted)


def test_data_without_labels_have_no_weights():
    split = Split.whole(row=Array(np.zeros((2, 3), np.float32), "row"))
    for name, options in (
        ("classification", {"class_weights": "balanced"}),
        ("multilabel", {"pos_weight": "balanced"}),
    ):
        assert TASKS.make(name, **options).targets(split, np.arange(2), {}, DRAW) == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("classification", {"loss": "focul"}, "unknown config.task.loss 'focul'; nearest: 'focal'"),
        ("classification", {"class_weights": "even"}, "unknown config.task.class_weights 'even'"),
        ("classification", {"class_weights": (1.0, -1.0)}, "class_weights: expected weights of at least 0"),
        ("classification", {"class_weights": (0.0, 0.0)}, "class_weights: expected weights of at least 0, not all"),
        ("classification", {"class_weights": (1.0, 2.0)}, "class_weights: expected 3 weights, .* found 2"),
        ("multilabel", {"loss": "ldam"}, "unknown config.task.loss 'ldam'"),
        ("multilabel", {"pos_weight": (1.0,)}, "pos_weight: expected 3 weights, .* found 1"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(InputError, match=message):
        TASKS.make(name, **options).outputs(3)


@pytest.mark.parametrize(
    ("fields", "parallel"), [({"accumulate": 4}, {}), ({}, {"devices": 4, "mode": "pmap"})], ids=["slices", "pmap"]
)
def test_slices_and_devices_divide_by_the_sum_of_weights(fields, parallel):
    """Averaging the slices' means would be another loss. At rate 1 parameters move by the gradient."""
    task = {"name": "classification", "class_weights": "balanced"}
    stages = [
        tiny_stage("vit_cls", method="probe", optimizer="sgd", lr=1.0, momentum=0.0, task=task, **other)
        for other in ({}, fields)
    ]
    batch = {**batches(stages[0], 1)[0], "class_weight": np.float32([1, 100, 7, 0.5, 1, 1, 30, 2])}
    trained = []
    for stage, how in zip(stages, ({}, parallel), strict=True):
        where = placement(ParallelConfig(**{"devices": 1, **how}), [8])
        state = where.place(stage.spec, entered(stage, 0))
        trained.append(continue_training(stage, state, where, [batch]))
    (whole, losses), (parts, found) = trained
    assert found == pytest.approx(losses, rel=1e-6)
    for path, leaf in flatten(whole.params).items():
        np.testing.assert_allclose(leaf, flatten(parts.params)[path], rtol=0, atol=1e-6, err_msg=path)


@pytest.mark.system
def test_a_run_counts_the_labels_it_trains_on(tmp_path, monkeypatch):
    """Stored features and steps on the inputs read the same weights; at rate 0 the first step's loss is by hand."""
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    rng, labels = np.random.default_rng(0), np.repeat([0, 1, 2], [12, 6, 2])
    images = rng.integers(0, 256, (20, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "d.npz", train_image=images, train_label=labels, val_image=images[::5], val_label=labels[::5])
    losses = {}
    for cache in ("auto", "off"):
        config = jaxfer.config.base()
        config.model = dict(name="resnet", stage_sizes=(1,), width=4, stem="cifar", image=(8, 8, 1))
        config.data = dict(source="npz", path=str(tmp_path / "d.npz"))
        config.task = dict(name="classification", loss="logit_adjusted", class_weights="balanced")
        config.parallel.devices = 1
        config.update(method="probe", steps=6, batch_size=10, lr=0.0, log_every=1, cache=cache)
        jaxfer.run(config, tmp_path / cache, quiet=True)
        lines = read_metrics(tmp_path / cache / "metrics.jsonl")
        losses[cache] = [line["loss"] for line in lines if line["split"] == "train"]
    np.testing.assert_allclose(losses["auto"], losses["off"], rtol=0, atol=1e-5)
    run, of = open_run(tmp_path / "off"), batch_indices(0, 0, size=20, batch_size=10)
    port, split = run.stage.spec.port, Split.whole(image=Array(images, "image"))
    fields = Feed(split=split, encodings=port.encodings).bind()(of, None, None)
    outputs = np.asarray(port.apply(run.state.params, run.state.model_state, fields)[0], np.float64)
    odds = np.exp(outputs) * [0.6, 0.3, 0.1]
    nll = -np.log((odds / odds.sum(-1, keepdims=True))[np.arange(10), labels[of]])
    weight = (20 / (3 * np.asarray([12, 6, 2])))[labels[of]]
    assert losses["off"][0] == pytest.approx((weight * nll).sum() / weight.sum(), rel=1e-5)


@pytest.mark.system
def test_a_run_of_sets(tmp_path):
    config = tiny_config("bert_mean", steps=2, batch_size=4)
    rows = "".join(f"a film,{labels}\n" for labels in ("x", "x;y", "y", "x", "x;z", "z") * 4)
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
    config.data = dict(source="table", path=str(tmp_path), target="labels")
    config.task = dict(name="multilabel", loss="asymmetric", pos_weight="balanced", gamma_neg=2)
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    assert math.isfinite(result["metrics"]["val"]["loss"])
    assert open_run(tmp_path / "run").experiment.task_hparams == {"gamma_pos": 0.0, "gamma_neg": 2.0, "shift": 0.05}


def test_powers_of_probabilities():
    np.testing.assert_allclose(imbalance.power(jnp.asarray([0.0, 0.5, 1.0]), 2.0), [1e-16, 0.25, 1.0])
