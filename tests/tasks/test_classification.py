"""Metrics of probabilities against scikit-learn and by hand; the report and the groups by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics

from jaxfer.data.split import Array, Split
from jaxfer.registry import TASKS
from jaxfer.tasks import _probabilities
from jaxfer.tasks._probabilities import of_logits


def example(classes: int, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits float32, labels, probabilities float64); the last of more than two classes never occurs."""
    rng = np.random.default_rng(classes)
    labels, logits = rng.integers(0, max(2, classes - 1), n), rng.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += 0.7
    return logits, labels, softmax(logits.astype(np.float64), -1)


def test_two_classes_are_scored_as_by_scikit_learn():
    logits, labels, chances = example(2)
    assert of_logits(logits, labels) == {
        "auroc": pytest.approx(metrics.roc_auc_score(labels, chances[:, 1]), abs=1e-12),
        "auprc": pytest.approx(metrics.average_precision_score(labels, chances[:, 1]), abs=1e-12),
        "brier": pytest.approx(2 * metrics.brier_score_loss(labels, chances[:, 1]), abs=1e-12),
        "ece": pytest.approx(reference_ece(labels, chances), abs=1e-12),
    }


@pytest.mark.parametrize("classes", [3, 6, 40])
def test_more_classes_are_scored_as_by_scikit_learn(classes, monkeypatch):
    """In one block and in many: of examples, and of classes."""
    logits, labels, chances = example(classes)
    occur, hot = np.unique(labels), np.eye(classes)[labels]
    wanted = {
        "macro_auroc": np.mean([metrics.roc_auc_score(hot[:, c], chances[:, c]) for c in occur]),
        "macro_auprc": np.mean([metrics.average_precision_score(hot[:, c], chances[:, c]) for c in occur]),
        "brier": metrics.brier_score_loss(labels, chances, labels=range(classes), scale_by_half=False),
        "ece": reference_ece(labels, chances),
    }
    if classes > 5:
        wanted["top5_accuracy"] = metrics.top_k_accuracy_score(labels, chances, k=5, labels=range(classes))
    assert of_logits(logits, labels) == pytest.approx(wanted, abs=1e-12)
    monkeypatch.setattr(_probabilities, "BLOCK", 700)
    assert of_logits(logits, labels) == pytest.approx(wanted, abs=1e-12)


def reference_ece(labels: np.ndarray, chances: np.ndarray) -> float:
    confidence, right = chances.max(-1), chances.argmax(-1) == labels
    error = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def test_calibration_by_hand():
    """Confidences 3/4 (right) and 3/4 (wrong) in one bin, 1 (right, as 100 nats are) in the last."""
    logits = np.asarray([[math.log(3), 0], [math.log(3), 0], [0, 100]], np.float32)
    found = of_logits(logits, np.asarray([0, 1, 1]))
    assert found["ece"] == pytest.approx(2 / 3 * (3 / 4 - 1 / 2), abs=1e-7)
    assert found["brier"] == pytest.approx((2 * 0.25**2 + 2 * 0.75**2 + 0) / 3, abs=1e-7)
    # The positives' scores -1.1 and 100, the negative's -1.1: one pair is won and one is level.
    assert found["auroc"] == 0.75
    assert found["auprc"] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_a_sure_model_is_ranked_by_its_logits():
    """Both probabilities are 1 in float64."""
    found = of_logits(np.asarray([[0, 400], [0, 500]], np.float32), np.asarray([0, 1]))
    assert (found["auroc"], found["auprc"], found["brier"]) == (1.0, 1.0, 1.0)


def test_of_equal_logits_the_first_five_classes_come_first():
    found = of_logits(np.zeros((7, 7), np.float32), np.arange(7))
    assert (found["top5_accuracy"], found["macro_auroc"]) == (5 / 7, 0.5)


def test_what_can_not_be_ranked_and_what_is_no_number():
    found = of_logits(np.zeros((4, 2), np.float32), np.zeros(4, np.int32))
    assert (found["auroc"], found["auprc"]) == (0.0, 0.0)
    found = of_logits(np.asarray([[np.nan, 0], [0, 1]], np.float32), np.asarray([0, 1]))
    assert len(found) == 4 and all(map(math.isnan, found.values()))


LABELS, PREDICTED = np.asarray([0, 0, 0, 1, 1, 1], np.int32), np.asarray([0, 0, 1, 1, 1, 0])


def counted(**columns):
    """(task, metrics, counts) of `PREDICTED` among three classes, of which the last never occurs."""
    task, outputs = TASKS.make("classification"), np.eye(3, dtype=np.float32)[PREDICTED]
    split = Split.whole(label=Array(LABELS, "class"), **columns)
    return task, task.gathered(outputs, split), task.counts(outputs, split)


def test_the_report_by_hand():
    task, found, counts = counted()
    assert "worst_group_accuracy" not in found
    assert counts == {"confusion": [[0, 0, 2], [0, 1, 1], [1, 0, 1], [1, 1, 2]]}
    third = pytest.approx(2 / 3)
    assert task.report(counts, ("cat", "dog", "owl")) == {
        "classes": {
            "cat": {"precision": third, "recall": third, "f1": third, "support": 3},
            "dog": {"precision": third, "recall": third, "f1": third, "support": 3},
            "owl": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
        },
        "confusion": {"cat": {"cat": 2, "dog": 1}, "dog": {"cat": 1, "dog": 2}},
    }


def test_groups_by_hand():
    """Dark: the first four rows, three right; light: two, one right."""
    groups = np.asarray(["dark"] * 4 + ["light"] * 2)
    task, found, counts = counted(group=Array(groups, "group"))
    assert found["worst_group_accuracy"] == 0.5
    assert counts["groups"] == {"dark": [4, 3], "light": [2, 1]}
    assert task.report(counts, ("cat", "dog", "owl"))["groups"] == {
        "dark": {"accuracy": 0.75, "support": 4},
        "light": {"accuracy": 0.5, "support": 2},
    }


def test_the_report_is_that_of_scikit_learn():
    logits, labels, _ = example(6)
    task, predicted = TASKS.make("classification"), logits.argmax(-1)
    split = Split.whole(label=Array(labels.astype(np.int32), "class"))
    found = task.report(task.counts(logits, split), [f"c{i}" for i in range(6)])
    wanted = metrics.precision_recall_fscore_support(labels, predicted, labels=range(6), zero_division=0)
    for score, values in zip(("precision", "recall", "f1", "support"), wanted, strict=True):
        assert [scores[score] for scores in found["classes"].values()] == pytest.approx(values)
    matrix = metrics.confusion_matrix(labels, predicted, labels=range(6))
    for i, row in enumerate(matrix):
        wanted = {f"c{j}": count for j, count in enumerate(row.tolist()) if count}
        assert found["confusion"].get(f"c{i}", {}) == wanted
