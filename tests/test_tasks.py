"""Losses and metrics by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics

from jaxfer.conformance import tasks
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.registry import TASKS
from jaxfer.task import Mean

# Softmax of these: (1/2, 1/4, 1/4), (1/6, 1/3, 1/2).
LOGITS = jnp.log(jnp.asarray([[2.0, 1.0, 1.0], [1.0, 2.0, 3.0]]))
LABELS = jnp.asarray([0, 1], jnp.int32)


def smoothing(value: float):
    return {"label_smoothing": jnp.float32(value)}


def gathered(name: str, outputs: np.ndarray, labels: np.ndarray):
    task = TASKS.make(name)
    return task.gathered(outputs, Split.whole(label=Array(labels, task.target)))


@pytest.mark.parametrize("name", TASKS.names())
@pytest.mark.parametrize("check", tasks.PROPERTIES, ids=lambda check: check.__name__)
def test_every_task_keeps(check, name):
    assert check(name) is None


def test_a_mean_over_examples():
    mean = Mean(jnp.asarray([1.0, 2.0, 6.0]))
    assert (float(mean.value()), mean.parts()) == (3.0, None)
    assert Mean.of([mean, Mean(jnp.asarray([7.0]))]) == 4.0  # not (3 + 7) / 2


def test_a_mean_over_parts_of_examples():
    """Three values of the first example count, none of the second, one of the third."""
    values = jnp.asarray([[1.0, 2.0, 3.0], [np.pi, np.pi, np.pi], [9.0, 10.0, 9.0]])
    kept = jnp.asarray([[1, 1, 1], [0, 0, 0], [0, 1, 0]], bool)
    mean = Mean.over(values, kept)
    assert (mean.total.tolist(), mean.count.tolist()) == ([6.0, 0.0, 10.0], [3.0, 0.0, 1.0])
    assert (mean.total.dtype, mean.count.dtype) == (jnp.float32, jnp.float32)
    assert (float(mean.parts()), float(mean.value())) == (4.0, 4.0)  # the mean of the means would be (2 + 10) / 2
    halves = [Mean(mean.total[:2], mean.count[:2]), Mean(mean.total[2:], mean.count[2:])]
    assert Mean.of(halves) == 4.0
    alone = Mean(values[:, 0], jnp.ones(3))
    assert float(alone.value()) == pytest.approx(float(Mean(values[:, 0]).value()), rel=1e-6)


def test_a_mean_of_nothing_is_0_and_so_is_its_gradient():
    nothing = Mean.over(jnp.ones((2, 3)), jnp.zeros((2, 3), bool))
    assert (float(nothing.value()), float(nothing.parts()), Mean.of([nothing, nothing])) == (0.0, 0.0, 0.0)
    gradient = jax.grad(lambda values: Mean.over(values, jnp.zeros((2, 3), bool)).value())(jnp.ones((2, 3)))
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def test_batches_on_the_host_are_summed_in_float64():
    """2^24 ones and one more: float32 can't hold the sum."""
    counts = [np.full(2**12, 2**12, np.float32), np.ones(1, np.float32)]
    means = [Mean(count, count) for count in counts]
    assert Mean.of(means) == 1.0
    assert Mean.of([Mean(counts[0], counts[0]), Mean(np.zeros(1, np.float32), counts[1])]) == 2**24 / (2**24 + 1)


def test_cross_entropy():
    task = TASKS.make("classification")
    found = task.loss(LOGITS, {"label": LABELS}, smoothing(0.0))
    assert found.count is None
    np.testing.assert_allclose(found.total, [math.log(2), math.log(3)], rtol=1e-6)


def test_label_smoothing_by_the_formula():
    # (1 - e) * nll + e / K * the nll of every class: targets 1 - e + e / K and e / K.
    found = TASKS.make("classification").loss(LOGITS, {"label": LABELS}, smoothing(0.3)).total
    wanted = [
        0.7 * math.log(2) + 0.1 * (math.log(2) + math.log(4) + math.log(4)),
        0.7 * math.log(3) + 0.1 * (math.log(6) + math.log(3) + math.log(2)),
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    targets = optax.smooth_labels(jnp.eye(3)[LABELS], 0.3)
    np.testing.assert_allclose(found, optax.softmax_cross_entropy(LOGITS, targets), rtol=1e-6)


def test_label_smoothing_is_no_part_of_the_metrics():
    scores = TASKS.make("classification").scores(LOGITS, {"label": LABELS})
    np.testing.assert_allclose(scores["loss"].total, [math.log(2), math.log(3)], rtol=1e-6)
    np.testing.assert_array_equal(scores["accuracy"].total, [1.0, 0.0])


def test_low_precision_outputs_are_scored_in_float32():
    task, outputs = TASKS.make("classification"), LOGITS.astype(jnp.bfloat16)
    assert task.loss(outputs, {"label": LABELS}, smoothing(0.1)).total.dtype == jnp.float32
    assert task.scores(outputs, {"label": LABELS})["loss"].total.dtype == jnp.float32


def test_balanced_accuracy():
    # Class 0: 3 of 4; class 1: 1 of 2; class 2 does not occur. Plain accuracy would be 4 of 6.
    labels = np.asarray([0, 0, 0, 0, 1, 1])
    predicted = np.asarray([0, 0, 0, 1, 1, 2])
    found = gathered("classification", np.eye(3)[predicted], labels)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # F1 is 2 TP / (2 TP + FP + FN): 6 / 7, 2 / 4 and, of a class only predicted, 0.
    assert found["macro_f1"] == pytest.approx((6 / 7 + 1 / 2 + 0) / 3)


def test_mcc():
    # TP 3, FN 1, FP 1, TN 1: (3 * 1 - 1 * 1) / sqrt(4 * 4 * 2 * 2).
    labels, predicted = np.asarray([1, 1, 1, 1, 0, 0]), np.asarray([1, 1, 1, 0, 1, 0])
    found = gathered("classification", np.eye(2)[predicted], labels)
    assert found["mcc"] == pytest.approx(2 / 8)


def test_a_majority_guess_is_chance():
    found = gathered("classification", np.eye(2)[np.zeros(100, int)], np.asarray([0] * 99 + [1]))
    f1 = 2 * 99 / (2 * 99 + 1)
    assert (found["balanced_accuracy"], found["macro_f1"], found["mcc"]) == (0.5, pytest.approx(f1 / 2), 0.0)
    assert (found["auroc"], found["auprc"]) == (0.5, 0.01)  # all are level: half are won, one of 100 is a positive


@pytest.mark.parametrize("classes", [2, 3, 40])
def test_scores_of_counts_are_those_of_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    labels, outputs = rng.integers(0, classes, 50), rng.normal(size=(50, classes))
    outputs[np.arange(50), labels] += 0.7
    predicted = outputs.argmax(-1)
    wanted = {
        "balanced_accuracy": metrics.recall_score(labels, predicted, average="macro", labels=[*{*labels}]),
        "macro_f1": metrics.f1_score(labels, predicted, average="macro"),
        "mcc": metrics.matthews_corrcoef(labels, predicted),
    }
    found = gathered("classification", outputs, labels)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


def test_squared_error():
    task, batch = TASKS.make("regression"), {"label": jnp.asarray([1.0, -2.0, 0.5])}
    outputs = jnp.asarray([[1.5], [1.0], [0.5]])
    np.testing.assert_allclose(task.loss(outputs, batch, {}).total, [0.25, 9.0, 0.0])
    scores = task.scores(outputs, batch)
    np.testing.assert_allclose(scores["mse"].total, [0.25, 9.0, 0.0])
    np.testing.assert_allclose(scores["mae"].total, [0.5, 3.0, 0.0])
    np.testing.assert_allclose(scores["loss"].total, scores["mse"].total)


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
    found = gathered("regression", outputs, np.asarray(labels, np.float32))
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
    found = gathered("regression", np.asarray(predicted, np.float32)[:, None], np.arange(4.0))
    assert found["pearson"] == pytest.approx(pearson)
    assert found["spearman"] == pytest.approx(spearman)


def test_r2_keeps_its_digits_far_from_zero():
    labels = np.asarray([1e4, 1e4 + 1, 1e4 + 2], np.float32)
    found = gathered("regression", np.asarray([[1e4], [1e4 + 1], [1e4 + 1]], np.float32), labels)
    assert found["r2"] == pytest.approx(0.5)


def test_sigmoid_cross_entropy_is_a_mean_over_labels():
    # Probabilities 1/2, 3/4, 1/5 of labels 1, 1, 0.
    outputs, label = jnp.log(jnp.asarray([[1.0, 3.0, 0.25]])), jnp.asarray([[True, True, False]])
    wanted = (math.log(2) + math.log(4 / 3) + math.log(5 / 4)) / 3
    task = TASKS.make("multilabel")
    np.testing.assert_allclose(task.loss(outputs, {"label": label}, {}).total, [wanted], rtol=1e-6)
    scores = task.scores(outputs, {"label": label})
    np.testing.assert_allclose(scores["loss"].total, [wanted], rtol=1e-6)
    np.testing.assert_allclose(scores["label_accuracy"].total, [2 / 3], rtol=1e-6)  # a logit of 0 is no label


def test_areas_under_the_curves_by_hand():
    # Label 0: positives ranked 1 and 3 of 4: precisions 1 and 2/3; of 4 pairs one is the wrong way round.
    # Label 1: every example has it: precision 1, and no pair to rank. Label 2: none has it.
    outputs = np.asarray([[4.0, 1, 0], [3, 2, 1], [2, 3, 2], [1, 4, -3]])
    labels = np.asarray([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]], bool)
    found = gathered("multilabel", outputs, labels)
    assert found["macro_auprc"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert found["macro_auroc"] == pytest.approx(3 / 4)
    # Label 0: all four chosen, F1 4 / 6; label 1: all right. Over all: TP 6, FP 2 + 2, no FN.
    assert found["macro_f1"] == pytest.approx((4 / 6 + 1) / 2)
    assert found["micro_f1"] == pytest.approx(12 / 16)
    assert found["labels_left_out"] == 1


def test_multilabel_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(200, 5)), rng.random((200, 5)) < 0.3
    found = gathered("multilabel", outputs, labels)
    assert found == {
        "macro_auprc": pytest.approx(metrics.average_precision_score(labels, outputs, average="macro")),
        "macro_auroc": pytest.approx(metrics.roc_auc_score(labels, outputs, average="macro")),
        "macro_f1": pytest.approx(metrics.f1_score(labels, outputs > 0, average="macro")),
        "micro_f1": pytest.approx(metrics.f1_score(labels, outputs > 0, average="micro")),
        "labels_left_out": 0.0,
    }


def test_multilabel_metrics_of_a_split_without_labels():
    found = gathered("multilabel", np.ones((3, 2)), np.zeros((3, 2), bool))
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
