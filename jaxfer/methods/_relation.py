"""Co-Tuning's reverse approach: p(y_s | y_t) from a classifier of target classes that reads the source's predictions.

You et al., 2020, "Co-Tuning for Transfer Learning", section 3.2. Logistic regression without an intercept learns target
labels from the source's probabilities; the softmax of its coefficients is p(y_t | y_s), and Bayes' rule with the mean
of the source's probabilities turns it round. Its strength is the best of the 17 of the authors' code on examples held
out: theirs are of the validation split, here every fifth training example, since val chooses between runs. The last fit
is on all of them.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

# 1 / penalty, strongest data first: the first of equals is taken.
STRENGTHS = tuple(factor * 10.0**power for power in range(4, -5, -1) for factor in (3.0, 1.0))[1:]
HELD_OUT = 5


def reverse(chances: np.ndarray, labels: np.ndarray, targets: int) -> np.ndarray:
    """The relation p(y_s | y_t), float64 [targets, source classes].

    Args:
      chances: of the source's classes, [examples, source classes].
      labels: target classes, int [examples].
      targets: how many there are.
    """
    chances = chances.astype(np.float64)
    held = np.arange(len(labels)) % HELD_OUT == 0
    right = [
        (chances[held] @ fitted(chances[~held], labels[~held], targets, strength)).argmax(1) == labels[held]
        for strength in STRENGTHS
    ]
    best = STRENGTHS[int(np.argmax([hits.mean() for hits in right]))]
    of_target = softmax(fitted(chances, labels, targets, best), axis=1)  # p(y_t | y_s)
    joint = of_target.T * chances.mean(0)
    return joint / joint.sum(1, keepdims=True)


def fitted(x: np.ndarray, labels: np.ndarray, targets: int, strength: float) -> np.ndarray:
    """Coefficients [width, targets] of multinomial logistic regression without an intercept.

    They minimise strength * (sum of cross-entropies) + |W|^2 / 2, scikit-learn's objective with C = strength.
    """
    of_class = np.eye(targets)[labels]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(x.shape[1], targets)
        logs = log_softmax(x @ weights, axis=1)
        value = -(logs * of_class).sum() + np.square(weights).sum() / (2 * strength)
        return value, (x.T @ (np.exp(logs) - of_class) + weights / strength).ravel()

    start = np.zeros(x.shape[1] * targets)
    limits = {"maxiter": 1000, "maxfun": 10_000, "gtol": 1e-6, "ftol": 0.0}
    return minimize(objective, start, jac=True, method="L-BFGS-B", options=limits).x.reshape(-1, targets)
