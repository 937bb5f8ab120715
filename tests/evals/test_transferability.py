"""Scores of frozen features: known values on data that ships with scikit-learn, and the same by other formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.datasets import load_digits, load_iris

from jaxfer.errors import InputError
from jaxfer.evals import transferability as scores

# Agree with transformer-ranker's own values to 2e-8; computed anew in float64.
ORACLES = {
    "iris": {
        "logme": -0.160060243662,
        "hscore_reg": 1.177842499331,
        "hscore": 1.191898825042,
        "transrate": 0.589405406375,
        "knn": 0.96,
    },
    "digits": {
        "logme": 0.270277455465,
        "hscore_reg": 5.851432997954,
        "hscore": 5.917909336696,
        "transrate": 50.279312261360,
        "knn": 0.988313856428,
    },
}
LOADED = {"iris": load_iris(return_X_y=True), "digits": load_digits(return_X_y=True)}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("data", "name"), [(data, name) for data in ORACLES for name in ORACLES[data]])
def test_published_values(data, name):
    assert scores.SCORES[name].of(*LOADED[data]) == pytest.approx(ORACLES[data][name], abs=1e-9)


def test_the_two_iterations_of_logme_differ_in_the_seventh_digit():
    x, y = LOADED["digits"]
    assert scores.logme(x, y, icml=True) == pytest.approx(0.270277595361, abs=1e-9)


def test_logme_is_the_evidence_where_examples_are_fewer_than_features(rng):
    """Against the determinant of the whole covariance, at the alpha and beta that the iteration ends with."""
    x, y = rng.normal(size=(12, 30)), np.arange(12) % 2
    total = []
    for target in ((y == c).astype(float) for c in range(2)):
        alpha = beta = 1.0
        for _ in range(11):
            ratio = alpha / beta
            a = alpha * np.eye(30) + beta * x.T @ x
            m = beta * np.linalg.solve(a, x.T @ target)
            spectrum = np.linalg.eigvalsh(x @ x.T)
            gamma = (spectrum / (spectrum + ratio)).sum()
            residual = ((target - x @ m) ** 2).sum()
            alpha, beta = gamma / (m @ m + 1e-5), (12 - gamma) / (residual + 1e-5)
            if abs(alpha / beta - ratio) <= 1e-3 * ratio:
                break
        a = alpha * np.eye(30) + beta * x.T @ x
        evidence = 15 * math.log(alpha) + 6 * math.log(beta / (2 * math.pi)) - np.linalg.slogdet(a)[1] / 2
        total.append((evidence - beta * residual / 2 - alpha * (m @ m) / 2) / 12)
    assert scores.logme(x, y) == pytest.approx(np.mean(total), abs=1e-9)


def test_scores_of_what_the_source_says():
    x, y = LOADED["iris"]
    chances = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    assert scores.leep(chances, y) == pytest.approx(-0.985569603659, abs=1e-9)
    assert scores.nce(chances, y) == pytest.approx(-math.log(3), abs=1e-12)


def test_leep_and_nce_by_hand():
    """Two examples of each class; the source's third class is never probable."""
    chances, y = np.array([[0.8, 0.2, 0], [0.6, 0.4, 0], [0.1, 0.9, 0], [0.7, 0.3, 0]]), np.array([0, 0, 1, 1])
    given = {0: (1.4 / 2.2, 0.6 / 1.8), 1: (0.8 / 2.2, 1.2 / 1.8)}
    expected = np.mean(
        [math.log(given[c][0] * row[0] + given[c][1] * row[1]) for row, c in zip(chances, y, strict=True)]
    )
    assert scores.leep(chances, y) == pytest.approx(expected, abs=1e-12)
    # Chosen: 0, 0, 1, 0. Of source class 0 two of three are of class 0; of source class 1 the one is of class 1.
    assert scores.nce(chances, y) == pytest.approx((2 * math.log(2 / 3) + math.log(1 / 3)) / 4, abs=1e-12)
    assert scores.nce(np.eye(2)[y], y) == 0


def test_nleep_is_leep_of_its_clusters(rng):
    """Far clusters, five for each class: the mixture finds classes as they are, and two starts agree."""
    centres = rng.normal(size=(2, 3)) * 100
    y = np.repeat([0, 1], 40)
    x = centres[y] + rng.normal(size=(80, 3))
    assert scores.nleep(x, y) == pytest.approx(0, abs=1e-6)
    noisy = y.copy()
    noisy[::8] = 1 - noisy[::8]
    assert scores.nleep(x, noisy) < -0.1 and scores.nleep(x, noisy, seed=1) == scores.nleep(x, noisy, seed=1)
    with pytest.raises(InputError, match="10 Gaussians of 2 classes need as many examples, found 8"):
        scores.nleep(x[::10], y[::10])


def test_gbc_by_hand():
    """In one dimension: means 0 and 4, variances 1 and 4."""
    x, y = np.array([[-1.0], [1.0], [2.0], [6.0]]), np.array([0, 0, 1, 1])
    distance = 16 / 2.5 / 8 + math.log(2.5 / 2) / 2
    assert scores.gbc(x, y) == pytest.approx(-2 * math.exp(-distance), abs=1e-12)
    with pytest.raises(InputError, match="gbc: a variance needs 2 examples of a class, found 1"):
        scores.gbc(x[:3], y[:3])


def test_parc_by_another_formula(rng):
    x, y = rng.normal(size=(20, 5)), np.arange(20) % 3
    standard = (x - x.mean(0)) / x.std(0)
    pairs = np.tril_indices(20, -1)
    ranks = [rankdata((1 - np.corrcoef(rows))[pairs].round(12)) for rows in (standard, np.eye(3)[y])]
    assert scores.parc(x, y) == pytest.approx(100 * np.corrcoef(ranks)[0, 1], abs=1e-9)
    x, y = LOADED["digits"]
    assert scores.parc(x, y, seed=1) == scores.parc(x, y, seed=1) != scores.parc(x, y)


def test_ridge_leaves_each_example_out(rng, monkeypatch):
    """Against fits that lack one example each, at a penalty that does not depend on the examples."""
    x, y = rng.normal(size=(24, 4)), rng.integers(3, size=24)
    x[:, 0] += y
    mean_eigenvalue = (np.linalg.svd(x - x.mean(0))[1] ** 2).mean()
    monkeypatch.setattr(scores, "PENALTIES", (3.0 / mean_eigenvalue,))
    right = 0
    for i in range(24):
        kept = np.arange(24) != i
        targets = 2 * np.eye(3)[y[kept]] - 1
        mean, bias = x[kept].mean(0), targets.mean(0)
        centred = x[kept] - mean
        weights = np.linalg.solve(centred.T @ centred + 3 * np.eye(4), centred.T @ (targets - bias))
        right += ((x[i] - mean) @ weights + bias).argmax() == y[i]
    assert scores.ridge(x, y) == right / 24


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((4, 2)), [0, 0, 1, 1], "features that vary, found the same for all examples"),
        (np.eye(4), [1, 1, 1, 1], "2 classes or more, found 1"),
        (np.full((4, 2), np.nan), [0, 0, 1, 1], "finite features"),
        (np.eye(4), [0.5, 1, 1, 1], "a vector and a class for each example"),
        (np.eye(4), [0, 1], "a vector and a class for each example"),
    ],
)
def test_nonsense(x, y, message):
    for score in scores.SCORES.values():
        if not score.chances:
            with pytest.raises(InputError, match=message):
                score.of(x, np.array(y))


def test_fewer_examples_than_features(rng):
    x, y = rng.normal(size=(10, 40)), np.arange(10) % 2
    with pytest.raises(InputError, match="10 examples of 40 features say nothing; hscore_reg does"):
        scores.h_score(x, y)
    for name in ("hscore_reg", "logme", "transrate", "gbc", "knn", "ridge", "parc", "nleep"):
        assert np.isfinite(scores.SCORES[name].of(x, y)), name


def test_a_label_that_does_not_occur_counts_as_none():
    x, y = LOADED["iris"]
    for name, score in scores.SCORES.items():
        if not score.chances:
            assert score.of(x, y * 3) == score.of(x, y), name
    with pytest.raises(InputError, match="probabilities of source classes"):
        scores.leep(x, y)
