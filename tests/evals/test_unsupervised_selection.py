"""Scores without the target's labels: by hand, at their extremes, and where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.evals import unsupervised_selection as selection


def test_entropy():
    assert selection.entropy(np.eye(3)) == 0
    assert selection.entropy(np.full((5, 4), 0.25)) == pytest.approx(math.log(4), abs=1e-12)
    rows = [[0.5, 0.5], [0.9, 0.1]]
    wanted = (math.log(2) - 0.9 * math.log(0.9) - 0.1 * math.log(0.1)) / 2
    assert selection.entropy(np.array(rows)) == pytest.approx(wanted, abs=1e-12)


def test_soft_neighborhood_density_by_hand():
    """Pair by pair, without vectors; in pieces as at once."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], size=7)
    total = 0.0
    for i in range(7):
        cosine = [p[i] @ p[j] / np.sqrt((p[i] @ p[i]) * (p[j] @ p[j])) for j in range(7) if j != i]
        weights = [math.exp(c / 0.05) for c in cosine]
        total += -sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)
    assert selection.soft_neighborhood_density(p) == pytest.approx(total / 7, abs=1e-10)
    assert selection.soft_neighborhood_density(p, rows=3) == pytest.approx(total / 7, abs=1e-10)


def test_dense_neighborhoods():
    """All alike: each has n - 1 equal neighbours. Two sure classes of k: each has k - 1, and nearly none beyond."""
    assert selection.soft_neighborhood_density(np.full((9, 3), 1 / 3)) == pytest.approx(math.log(8), abs=1e-12)
    two = np.repeat(np.eye(2), 5, axis=0)
    assert selection.soft_neighborhood_density(two) == pytest.approx(math.log(4), abs=1e-6)


def test_weighted_risk_and_dev_by_hand():
    w, loss = np.array([0.5, 1.5, 2.0, 0.4]), np.array([1.0, 0.2, 0.1, 2.0])
    wl = w * loss
    assert selection.weighted_risk(w, loss) == pytest.approx(sum(wl) / 4, abs=1e-12)
    cov = sum((wl - wl.mean()) * (w - w.mean())) / 3
    eta = -cov / (sum((w - w.mean()) ** 2) / 3)
    assert selection.deep_embedded_validation(w, loss) == pytest.approx(wl.mean() + eta * (w.mean() - 1), abs=1e-12)
    assert selection.deep_embedded_validation(np.ones(4), loss) == pytest.approx(loss.mean(), abs=1e-12)
    constant = selection.deep_embedded_validation(w, np.full(4, 0.3))  # a loss that is the same everywhere has no error
    assert constant == pytest.approx(0.3, abs=1e-12)


def test_weights_of_two_gaussians():
    """N(0, 1) and N(1, 1): the ratio of densities is exp(x - 1/2), and the weighted mean of x is the target's."""
    rng = np.random.default_rng(0)
    source, target, held_out = rng.normal(size=(4000, 1)), rng.normal(size=(2000, 1)) + 1, rng.normal(size=(4000, 1))
    weights = selection.importance_weights(source, target, held_out)
    np.testing.assert_allclose(np.log(weights), held_out[:, 0] - 0.5, atol=0.25)
    assert weights.mean() == pytest.approx(1, abs=0.05)
    assert selection.weighted_risk(weights, held_out[:, 0]) == pytest.approx(1, abs=0.15)


def test_dev_varies_less_than_the_plain_risk():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        x = rng.normal(size=100)
        found.append(
            [f(np.exp(x - 0.5), 1 + 0.1 * x) for f in (selection.weighted_risk, selection.deep_embedded_validation)]
        )
    risk, dev = np.std(found, axis=0)
    assert dev < 0.5 * risk


def test_what_is_refused():
    with pytest.raises(InputError, match="expected at least 2 examples, found 1"):
        selection.soft_neighborhood_density(np.eye(3)[:1])
    with pytest.raises(
        InputError, match=r"expected predictions \[n, classes\] of at least one example, found \[0, 3\]"
    ):
        selection.entropy(np.zeros((0, 3)))
    with pytest.raises(InputError, match=r"a weight and a loss for each of at least 2 examples, found \[3\] and \[2\]"):
        selection.weighted_risk(np.ones(3), np.ones(2))
