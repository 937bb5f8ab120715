"""Baselines against hand computation and a NumPy reference; their score is the models' own."""

from __future__ import annotations

import math
import warnings

import jax
import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.linear_model import Ridge

from jaxfer.config.experiment import ParallelConfig
from jaxfer.data.encodings.image import ImageEncoding, preprocess
from jaxfer.data.encodings.text import TextEncoding, texts
from jaxfer.data.prepare import DataConfig, build
from jaxfer.data.sources import digits
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.evals.baselines import baselines
from jaxfer.parallel.placement import placement
from jaxfer.registry import MODELS, TASKS
from jaxfer.task import score
from jaxfer.training.evaluation import evaluate_split
from tests.experiments import CLASSES, backbone, tiny_stage

SIZE_8 = ImageEncoding(size=(8, 8, 1))
TWO_TOKENS = TextEncoding(tokenizer="", tokenizer_sha256="", vocab=9, types=2, max_length=2, buckets=(2,))


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def strings(*found: str) -> np.ndarray:
    return np.array(found, object)


def split(pictures: np.ndarray, labels=None) -> Split:
    labels = np.zeros(len(pictures), np.int32) if labels is None else labels
    kind = {"i": "class", "b": "classes"}[labels.dtype.kind]
    return Split.whole(image=Array(pictures, "image"), label=Array(labels, kind))


def of_labels(labels) -> Split:
    labels = np.asarray(labels)
    kind = {"i": "class", "b": "classes", "f": "value"}[labels.dtype.kind]
    return Split.whole(label=Array(labels, kind))


def test_pixels_are_the_models_input_in_order():
    pictures = images(70, 10, 6, 3)  # more than two batches, the last one padded
    encoding = ImageEncoding(size=(8, 8, 3), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    found = encoding.flat(split(pictures))
    assert (found.shape, found.dtype) == ((70, 192), np.float32)
    np.testing.assert_array_equal(found, [preprocess(picture, encoding).reshape(-1) for picture in pictures])


def test_large_images_are_averaged_down():
    """3,072 values are left alone; beyond, each new pixel is the mean over its area."""
    assert ImageEncoding(size=(32, 32, 3)).flat(split(images(2, 32, 32, 3))).shape == (2, 3072)
    assert ImageEncoding(size=(8, 100, 3)).flat(split(images(2, 8, 100, 3))).shape == (2, 2400)
    picture = images(1, 64, 96, 3)
    found = ImageEncoding(size=(64, 96, 3)).flat(split(picture)).reshape(32, 32, 3)
    normalised = (picture[0] / 255.0 - 0.5) / 0.5
    np.testing.assert_allclose(found, normalised.reshape(32, 2, 32, 3, 3).mean((1, 3)), atol=1e-6)
    # 48 -> 32: the first new pixel of a row covers one and a half old ones, the second the other half and the next.
    picture = images(1, 48, 48, 3)
    found = ImageEncoding(size=(48, 48, 3)).flat(split(picture)).reshape(32, 32, 3)
    row = ((picture[0] / 255.0 - 0.5) / 0.5)[:3]
    columns = np.stack([row[:, 0] + row[:, 1] / 2, row[:, 1] / 2 + row[:, 2]], axis=1) / 1.5
    expected = np.stack([columns[0] + columns[1] / 2, columns[1] / 2 + columns[2]]) / 1.5
    np.testing.assert_allclose(found[:2, :2], expected, atol=1e-6)


def test_texts_are_whole_and_pairs_joined_in_order():
    single = Split.whole(text=texts(("a film, and more", "b", "a film, and more")))
    found = TWO_TOKENS.flat(single.take(np.array([1, 0])))  # no tokenizer is read, nothing is cut at two tokens
    assert found.dtype == object and found.tolist() == ["b", "a film, and more"]
    pairs = Split.whole(text=texts(("a", "b", "c"), ("x", "y", "z")))
    assert TWO_TOKENS.flat(pairs).tolist() == ["a ||| x", "b ||| y", "c ||| z"]


def test_what_a_model_reads_decides_what_a_baseline_reads():
    pictures = images(3, 8, 8, 1)
    port = MODELS.make(
        "resnet", outputs=2, stage_sizes=(1,), width=4, stem="cifar", image=(8, 8, 1), mean=(0.5,), std=(0.5,)
    )
    np.testing.assert_array_equal(port.encoding.flat(split(pictures)), SIZE_8.flat(split(pictures)))
    expected = (pictures.reshape(3, 64).astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    np.testing.assert_array_equal(SIZE_8.flat(split(pictures)), expected)


def test_logistic_regression_on_digits():
    data = digits.source()
    train, test = data.splits["train"], data.splits["test"]
    baseline = baselines("classification", 10)[1]
    assert baseline.name == "logistic regression on pixels" and baseline.settings[0] == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict = baseline.fit(SIZE_8.flat(train), train.labels, baseline.settings[0])
    found = score(TASKS.make("classification"), predict(SIZE_8.flat(test)), test)
    assert found["accuracy"] > 0.93 and found["loss"] < 0.3
    # 50 of each class: recall weighs every class alike already.
    assert found["balanced_accuracy"] == pytest.approx(found["accuracy"], abs=1e-6)


def test_logistic_regression_with_two_classes_is_at_its_optimum():
    """One feature, -1 and 1 once standardised: w^2 / 2 + 2 log(1 + exp(-w)) is least where w = 2 / (1 + exp(w))."""
    x, labels = np.array([[2.0], [6.0]], np.float32), np.array([0, 1], np.int32)
    outputs = baselines("classification", 2)[1].fit(x, labels, 1.0)(x)
    assert outputs.dtype == np.float32 and outputs.shape == (2, 2)
    w = outputs[1, 1] - outputs[1, 0]
    assert w == pytest.approx(2 / (1 + math.exp(w)), abs=1e-3)
    assert outputs[0, 1] - outputs[0, 0] == pytest.approx(-w, abs=1e-3)


def test_a_certain_prediction_has_a_finite_loss():
    x, labels = np.array([[-1.0], [1.0]] * 3, np.float32), np.array([0, 1] * 3, np.int32)
    third = np.concatenate([x, [[0.0]]]), np.concatenate([labels, [2]])
    for classes, train in ((2, (x, labels)), (3, third)):
        fitted = baselines("classification", classes)[1].fit(*train, 10.0)
        outputs = fitted(np.array([[1e6]], np.float32))
        assert math.isfinite(score(TASKS.make("classification"), outputs, of_labels([0]))["loss"])


def test_majority_is_the_share_of_the_largest_class():
    majority, task = baselines("classification", 3)[0], TASKS.make("classification")
    assert majority.name == "majority class" and len(majority.settings) == 1
    predict = majority.fit(np.zeros((5, 2)), np.array([0, 1, 1, 2, 1]), 0.0)
    labels = np.array([1, 0, 1, 1, 2, 1, 1, 0])
    found = score(task, predict(np.zeros((8, 2))), of_labels(labels))
    assert found["accuracy"] == 5 / 8 and found["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["loss"] == pytest.approx(-(5 * math.log(3 / 5) + 3 * math.log(1 / 5)) / 8, rel=1e-6)
    tied = majority.fit(np.zeros((5, 2)), np.array([2, 1, 2, 1, 0]), 0.0)
    assert tied(np.zeros((1, 2))).argmax() == 1


def test_majority_of_a_prepared_dataset():
    data = build(DataConfig(source="synthetic"), {"examples": 50, "classes_count": 4}, seed=0, with_test=False)
    train, val = data.splits["train"], data.splits["val"]
    assert np.bincount(train.labels).tolist() == [13, 13, 12, 12]  # a tie, so label 0
    predict = baselines("classification", len(data.classes))[0].fit(np.zeros((50, 1)), train.labels, 0.0)
    found = score(TASKS.make("classification"), predict(np.zeros((len(val), 1))), val)
    assert found["accuracy"] == np.mean(val.labels == 0)


def test_ridge_is_the_normal_equations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (12, 4)).astype(np.float32), rng.normal(5, 1, 12).astype(np.float32)
    fresh = rng.normal(3, 2, (6, 4)).astype(np.float32)
    ridge = baselines("regression", 0)[1]
    assert ridge.name == "ridge on pixels"
    for alpha in ridge.settings:
        mean, std = x.astype(np.float64).mean(0), x.astype(np.float64).std(0)
        z, target = (x - mean) / std, y.astype(np.float64)
        weights = np.linalg.solve(z.T @ z + alpha * np.eye(4), z.T @ (target - target.mean()))
        found = ridge.fit(x, y, alpha)(fresh)
        assert (found.shape, found.dtype) == ((6, 1), np.float32)
        np.testing.assert_allclose(found[:, 0], (fresh - mean) / std @ weights + target.mean(), rtol=1e-6)
        reference = Ridge(alpha=alpha).fit(z, target).predict((fresh - mean) / std)
        np.testing.assert_allclose(found[:, 0], reference, rtol=1e-6)


def test_ridge_on_tf_idf_is_the_normal_equations():
    """Vocabulary and document frequencies of train alone; `new` and `old new` are no column."""
    train = strings("old film", "Old old plot!", "film ||| plot", "a film")
    counts = {  # of each text; last the held-out one, `film film new old`
        "old": (1, 2, 0, 0, 1), "film": (1, 0, 1, 1, 2), "plot": (0, 1, 1, 0, 0), "!": (0, 1, 0, 0, 0),
        "|||": (0, 0, 1, 0, 0), "a": (0, 0, 0, 1, 0), "old film": (1, 0, 0, 0, 0), "old old": (0, 1, 0, 0, 0),
        "old plot": (0, 1, 0, 0, 0), "plot !": (0, 1, 0, 0, 0), "film |||": (0, 0, 1, 0, 0),
        "||| plot": (0, 0, 1, 0, 0), "a film": (0, 0, 0, 1, 0),
    }  # fmt: skip
    count = np.array(list(counts.values()), np.float64).T
    idf = 1 + np.log(5 / (1 + (count[:4] > 0).sum(0)))
    rows = np.where(count > 0, 1 + np.log(np.maximum(count, 1)), 0) * idf
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    y = np.array([1, 4, 2, 9], np.float32)
    centred = rows[:4] - rows[:4].mean(0)
    ridge = baselines("regression", 0, text=True)[1]
    assert ridge.name == "ridge on TF-IDF"
    for alpha in ridge.settings:
        weights = np.linalg.solve(centred.T @ centred + alpha * np.eye(13), centred.T @ (y - y.mean()))
        expected = (rows - rows[:4].mean(0)) @ weights + y.mean()
        found = ridge.fit(train, y, alpha)(np.append(train, "film film new old"))
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)


def test_logistic_regression_on_tf_idf_is_at_its_optimum():
    """Unit rows (1, 0) and (0, 1), weights (-w, w): w^2 + 2 C log(1 + exp(-w)) is least where w = C / (1 + exp(w))."""
    x, labels = strings("one", "two"), np.array([0, 1], np.int32)
    baseline = baselines("classification", 2, text=True)[1]
    assert baseline.name == "logistic regression on TF-IDF"
    for c in baseline.settings:
        outputs = baseline.fit(x, labels, c)(np.append(x, "unheard of"))
        w = outputs[1, 1] - outputs[1, 0]
        assert w == pytest.approx(brentq(lambda w, c=c: w - c / (1 + math.exp(w)), 0, 20), rel=2e-3)
        np.testing.assert_allclose(outputs[:, 1] - outputs[:, 0], [-w, w, 0], atol=1e-3)


def test_label_prevalence_by_hand():
    """Labels that 1, 4 and 0 of four examples have; a constant's AUPRC is the share of positives where it is judged."""
    train = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]], bool)
    prevalence, task = baselines("multilabel", 3)[0], TASKS.make("multilabel")
    assert prevalence.name == "label prevalence" and len(prevalence.settings) == 1
    outputs = prevalence.fit(np.zeros((4, 1)), train, 0.0)(np.zeros((4, 1)))
    np.testing.assert_allclose(outputs, [np.log([1.5 / 3.5, 4.5 / 0.5, 0.5 / 4.5])] * 4, rtol=1e-6)
    found = score(task, outputs, of_labels(np.array([[1, 1, 0], [1, 1, 1], [0, 1, 0], [0, 0, 0]], bool)))
    assert found["macro_auprc"] == pytest.approx((2 / 4 + 3 / 4 + 1 / 4) / 3)
    assert found["label_accuracy"] == pytest.approx((2 + 3 + 3) / 12) and found["macro_auroc"] == 0.5
    odds = np.array([1.5 / 3.5, 4.5 / 0.5, 0.5 / 4.5])
    # A label's cross-entropy is log(1 + odds), less the log odds where it is there.
    loss = (4 * np.log1p(odds).sum() - (np.array([2, 3, 1]) * np.log(odds)).sum()) / 12
    assert found["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("text", [False, True])
def test_each_label_has_its_own_logistic_regression(text):
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["good", "bad", "film", "plot", "!"], 4)) for _ in range(12)]
    x = strings(*words) if text else rng.normal(size=(12, 3)).astype(np.float32)
    labels = np.stack([np.arange(12) % 3 == 0, np.ones(12, bool), np.zeros(12, bool), np.arange(12) < 5], axis=1)
    constant, logistic = baselines("multilabel", 4, text=text)
    assert logistic.name == f"logistic regression on {'TF-IDF' if text else 'pixels'}"
    binary = baselines("classification", 2, text=text)[1]
    for strength in logistic.settings:
        found = logistic.fit(x, labels, strength)(x[:5])
        assert (found.shape, found.dtype) == ((5, 4), np.float32)
        for c in (0, 3):
            expected = binary.fit(x, labels[:, c].astype(np.int32), strength)(x[:5])
            np.testing.assert_array_equal(found[:, c], expected[:, 1])
        np.testing.assert_array_equal(found[:, 1:3], constant.fit(x, labels, 0.0)(x[:5])[:, 1:3])
    np.testing.assert_allclose(found[0, 1:3], np.log([12.5 / 0.5, 0.5 / 12.5]), rtol=1e-6)


def test_texts_without_a_word_of_two_letters():
    x, labels = strings("a", "?!", "b", "?"), np.array([0, 1, 0, 1], np.int32)
    for baseline in baselines("classification", 2, text=True):
        assert np.isfinite(baseline.fit(x, labels, 1.0)(strings("¿", "a"))).all()


def test_training_mean_has_no_r2():
    mean = baselines("regression", 0)[0]
    predict = mean.fit(np.zeros((4, 1)), np.array([1, 2, 3, 6], np.float32), 0.0)
    found = score(TASKS.make("regression"), predict(np.zeros((2, 1))), of_labels(np.array([1.0, 5.0], np.float32)))
    # Predicts 3: errors 2 and 2; the targets' own mean is 3 too. A constant correlates with nothing.
    assert found == {"loss": 4.0, "mse": 4.0, "mae": 2.0, "r2": 0.0, "pearson": 0.0, "spearman": 0.0}


def test_score_of_classification_by_hand():
    """Probabilities of the labels 1/2, 1/4, 1/2, 3/8; hits 1, 0, 1, 1; recall 2/3 of label 2, 1 of label 0."""
    p = np.array([[1 / 4, 1 / 4, 1 / 2], [1 / 4, 1 / 2, 1 / 4], [1 / 4, 1 / 4, 1 / 2], [6 / 16, 5 / 16, 5 / 16]])
    found = score(TASKS.make("classification"), np.log(p) + 7, of_labels([2, 2, 2, 0]))  # logits, not yet logs of p
    assert found["loss"] == pytest.approx((2 * math.log(2) + math.log(4) + math.log(8 / 3)) / 4, rel=1e-6)
    assert found["accuracy"] == 0.75 and found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_score_is_what_evaluation_gives(task):
    """The outputs of a real model over real batches, judged here and by `evaluate_split`."""
    stage = tiny_stage("resnet_basic", task={"name": task})
    params, model_state = backbone(stage)
    spec, rng = stage.spec, np.random.default_rng(0)
    labels = {
        "classification": rng.integers(0, CLASSES, 21).astype(np.int32),
        "multilabel": rng.integers(0, 2, (21, CLASSES)).astype(bool),
    }[task]
    height, width, channels = spec.port.encoding.size
    held_out = split(images(21, height, width, channels), labels)
    inputs = spec.port.encoding.flat(held_out).reshape(21, height, width, channels)
    where = placement(ParallelConfig(devices=1))
    state = jax.device_put(stage.enter(params, model_state, 0), where.replicated)
    expected = evaluate_split(spec, state, held_out, where, 8).metrics
    outputs = spec.port.apply(*stage.leave(state), {"image": inputs})[0]
    assert score(spec.task, outputs, held_out) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("text", [False, True])
def test_every_baseline_fits_with_every_setting_and_repeats_itself(text):
    rng = np.random.default_rng(0)
    x, fresh = rng.normal(size=(9, 5)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    x[:, 0] = 1.0  # a pixel that never varies
    if text:
        x, fresh = (strings(*(" ".join(f"w{round(value)}" for value in row) for row in rows)) for rows in (x, fresh))
    for task, classes, labels in (
        ("classification", 3, np.arange(9, dtype=np.int32) % 3),
        ("multilabel", 3, np.eye(3, dtype=bool)[np.arange(9) % 3]),
        ("regression", 0, rng.normal(size=9).astype(np.float32)),
    ):
        for baseline in baselines(task, classes, text=text):
            for setting in baseline.settings:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    outputs = baseline.fit(x, labels, setting)(fresh)
                assert outputs.shape == (4, classes or 1) and np.isfinite(outputs).all()
                np.testing.assert_array_equal(outputs, baseline.fit(x, labels, setting)(fresh))


def test_what_is_refused():
    with pytest.raises(
        InputError, match="no simple baseline for task 'tagging'; known: classification, multilabel, regression"
    ):
        baselines("tagging", 3)
    for baseline in baselines("classification", 3):
        with pytest.raises(InputError, match=r"training examples of labels 0..2, found \[0, 2\]"):
            baseline.fit(np.zeros((2, 1)), np.array([0, 2]), 1.0)
