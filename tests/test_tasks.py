"""Losses and metrics by hand."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics

from jaxfer.conformance import tasks
from jaxfer.errors import InputError
from jaxfer.registry import TASKS

# Softmax of these: (1/2, 1/4, 1/4), (1/6, 1/3, 1/2).
LOGITS = jnp.log(jnp.asarray([[2.0, 1.0, 1.0], [1.0, 2.0, 3.0]]))
LABELS = jnp.asarray([0, 1], jnp.int32)


def smoothing(value: float):
    return {"label_smoothing": jnp.float32(value)}


@pytest.mark.parametrize("name", TASKS.names())
@pytest.mark.parametrize("check", tasks.PROPERTIES, ids=lambda check: check.__name__)
def test_every_task_keeps(check, name):
    assert check(name) is None


def test_cross_entropy():
    task = TASKS.make("classification")
    found = task.loss(LOGITS, {"label": LABELS}, smoothing(0.0))
    np.testing.assert_allclose(found, [math.log(2), math.log(3)], rtol=1e-6)


def test_label_smoothing_by_the_formula():
    # (1 - e) * nll + e / K * the nll of every class: targets 1 - e + e / K and e / K.
    found = TASKS.make("classification").loss(LOGITS, {"label": LABELS}, smoothing(0.3))
    wanted = [
        0.7 * math.log(2) + 0.1 * (math.log(2) + math.log(4) + math.log(4)),
        0.7 * math.log(3) + 0.1 * (math.log(6) + math.log(3) + math.log(2)),
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    targets = optax.smooth_labels(jnp.eye(3)[LABELS], 0.3)
    np.testing.assert_allclose(found, optax.softmax_cross_entropy(LOGITS, targets), rtol=1e-6)


def test_label_smoothing_is_no_part_of_the_metrics():
    scores = TASKS.make("classification").scores(LOGITS, {"label": LABELS})
    np.testing.assert_allclose(scores["loss"], [math.log(2), math.log(3)], rtol=1e-6)
    np.testing.assert_array_equal(scores["accuracy"], [1.0, 0.0])


def test_low_precision_outputs_are_scored_in_float32():
    task, outputs = TASKS.make("classification"), LOGITS.astype(jnp.bfloat16)
    assert task.loss(outputs, {"label": LABELS}, smoothing(0.1)).dtype == jnp.float32
    assert task.scores(outputs, {"label": LABELS})["loss"].dtype == jnp.float32


def test_balanced_accuracy():
    # Class 0: 3 of 4; class 1: 1 of 2; class 2 does not occur. Plain accuracy would be 4 of 6.
    labels = np.asarray([0, 0, 0, 0, 1, 1])
    predicted = np.asarray([0, 0, 0, 1, 1, 2])
    found = TASKS.make("classification").gathered(np.eye(3)[predicted], labels)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # F1 is 2 TP / (2 TP + FP + FN): 6 / 7, 2 / 4 and, of a class only predicted, 0.
    assert found["macro_f1"] == pytest.approx((6 / 7 + 1 / 2 + 0) / 3)


def test_mcc():
    # TP 3, FN 1, FP 1, TN 1: (3 * 1 - 1 * 1) / sqrt(4 * 4 * 2 * 2).
    labels, predicted = np.asarray([1, 1, 1, 1, 0, 0]), np.asarray([1, 1, 1, 0, 1, 0])
    found = TASKS.make("classification").gathered(np.eye(2)[predicted], labels)
    assert found["mcc"] == pytest.approx(2 / 8)


def test_a_majority_guess_is_chance():
    found = TASKS.make("classification").gathered(np.eye(2)[np.zeros(100, int)], np.asarray([0] * 99 + [1]))
    f1 = 2 * 99 / (2 * 99 + 1)
    assert found == {"balanced_accuracy": 0.5, "macro_f1": pytest.approx(f1 / 2), "mcc": 0.0}


def test_squared_error():
    task, batch = TASKS.make("regression"), {"label": jnp.asarray([1.0, -2.0, 0.5])}
    outputs = jnp.asarray([[1.5], [1.0], [0.5]])
    np.testing.assert_allclose(task.loss(outputs, batch, {}), [0.25, 9.0, 0.0])
    scores = task.scores(outputs, batch)
    np.testing.assert_allclose(scores["mse"], [0.25, 9.0, 0.0])
    np.testing.assert_allclose(scores["mae"], [0.5, 3.0, 0.0])
    np.testing.assert_allclose(scores["loss"], scores["mse"])


@pytest.mark.parametrize(
    ("predicted", "labels", "r2"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([2, 2, 2], [1, 2, 3], 0.0),  # the mean
        ([1, 2, 2], [1, 2, 3], 0.5),  # residual 1 of a total of 2
        ([3, 2, 1], [1, 2, 3], -3.0),  # residual 8
        ([1, 1, 1], [5, 5, 5], 0.0),  # nothing to explain
    ],
)
def test_r2(predicted, labels, r2):
    outputs = np.asarray(predicted, np.float32)[:, None]
    found = TASKS.make("regression").gathered(outputs, np.asarray(labels, np.float32))
    assert found["r2"] == pytest.approx(r2)


@pytest.mark.parametrize(
    ("predicted", "pearson", "spearman"),
    [
        ([1, 2, 3, 4], 1.0, 1.0),
        # Deviations (-3, -3, -3, 9) and (-1.5, -0.5, 0.5, 1.5): 18 / sqrt(108 * 5); ranks 2, 2, 2, 4: 3 / sqrt(3 * 5).
        ([0, 0, 0, 12], 18 / 540**0.5, 3 / 15**0.5),
        ([4, 3, 2, 1], -1.0, -1.0),
        ([1, 3, 2, 4], 0.8, 0.8),  # 1 - 6 * (1 + 1) / (4 * 15)
        ([2, 2, 2, 2], 0.0, 0.0),
    ],
)
def test_correlations(predicted, pearson, spearman):
    found = TASKS.make("regression").gathered(np.asarray(predicted, np.float32)[:, None], np.arange(4.0))
    assert found["pearson"] == pytest.approx(pearson)
    assert found["spearman"] == pytest.approx(spearman)


def test_r2_keeps_its_digits_far_from_zero():
    labels = np.asarray([1e4, 1e4 + 1, 1e4 + 2], np.float32)
    found = TASKS.make("regression").gathered(np.asarray([[1e4], [1e4 + 1], [1e4 + 1]], np.float32), labels)
    assert found["r2"] == pytest.approx(0.5)


def test_sigmoid_cross_entropy_is_a_mean_over_labels():
    # Probabilities 1/2, 3/4, 1/5 of labels 1, 1, 0.
    outputs, label = jnp.log(jnp.asarray([[1.0, 3.0, 0.25]])), jnp.asarray([[True, True, False]])
    wanted = (math.log(2) + math.log(4 / 3) + math.log(5 / 4)) / 3
    task = TASKS.make("multilabel")
    np.testing.assert_allclose(task.loss(outputs, {"label": label}, {}), [wanted], rtol=1e-6)
    scores = task.scores(outputs, {"label": label})
    np.testing.assert_allclose(scores["loss"], [wanted], rtol=1e-6)
    np.testing.assert_allclose(scores["label_accuracy"], [2 / 3], rtol=1e-6)  # a logit of 0 is no label


def test_areas_under_the_curves_by_hand():
    # Label 0: positives ranked 1 and 3 of 4: precisions 1 and 2/3; of 4 pairs one is the wrong way round.
    # Label 1: every example has it: precision 1, and no pair to rank. Label 2: none has it.
    outputs = np.asarray([[4.0, 1, 0], [3, 2, 1], [2, 3, 2], [1, 4, -3]])
    labels = np.asarray([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]], bool)
    found = TASKS.make("multilabel").gathered(outputs, labels)
    assert found["macro_auprc"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert found["macro_auroc"] == pytest.approx(3 / 4)
    # Label 0: all four chosen, F1 4 / 6; label 1: all right. Over all: TP 6, FP 2 + 2, no FN.
    assert found["macro_f1"] == pytest.approx((4 / 6 + 1) / 2)
    assert found["micro_f1"] == pytest.approx(12 / 16)
    assert found["labels_left_out"] == 1


def test_multilabel_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(200, 5)), rng.random((200, 5)) < 0.3
    found = TASKS.make("multilabel").gathered(outputs, labels)
    assert found == {
        "macro_auprc": pytest.approx(metrics.average_precision_score(labels, outputs, average="macro")),
        "macro_auroc": pytest.approx(metrics.roc_auc_score(labels, outputs, average="macro")),
        "macro_f1": pytest.approx(metrics.f1_score(labels, outputs > 0, average="macro")),
        "micro_f1": pytest.approx(metrics.f1_score(labels, outputs > 0, average="micro")),
        "labels_left_out": 0.0,
    }


def test_multilabel_metrics_of_a_split_without_labels():
    found = TASKS.make("multilabel").gathered(np.ones((3, 2)), np.zeros((3, 2), bool))
    assert found == dict(macro_auprc=0.0, macro_auroc=0.0, macro_f1=0.0, micro_f1=0.0, labels_left_out=2.0)


@pytest.mark.parametrize(
    ("name", "classes", "outputs"),
    [("classification", 2, 2), ("classification", 10, 10), ("regression", 0, 1), ("multilabel", 1, 1)],
)
def test_width_of_the_head(name, classes, outputs):
    assert TASKS.make(name).outputs(classes) == outputs


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("classification", 0, "needs at least 2 classes, the data has 0.*task.name=regression"),
        ("classification", 1, "needs at least 2 classes, the data has 1"),
        ("multilabel", 0, "needs sets of labels, the data has real targets.*task.name=regression"),
        ("regression", 3, "needs real targets, the data has 3 classes.*task.name=classification"),
    ],
)
def test_data_of_another_kind(name, classes, message):
    with pytest.raises(InputError, match=message):
        TASKS.make(name).outputs(classes)
