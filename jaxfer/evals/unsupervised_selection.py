"""Scores of a classifier on an unlabelled target, to select on where nothing is labelled: of arrays, in float64.

None of them is the target's accuracy, and each is wrong on some pairs of domains: choosing on the target's labels is
another, easier problem, and is to be reported as such.
"""

from __future__ import annotations

import numpy as np

from jaxfer.errors import InputError

# {score: whether more of it is better}
SCORES = {"entropy": False, "snd": True, "weighted_risk": False, "dev": False}


def entropy(chances: np.ndarray) -> float:
    """The mean entropy of predictions [n, classes], in nats; least for a model that is sure of one class for all."""
    return float(-_xlogx(_chances(chances)).sum(1).mean())


def soft_neighborhood_density(chances: np.ndarray, temperature: float = 0.05, rows: int = 1024) -> float:
    """How many others each example is like, as an entropy: the more, the better.

    Saito et al., 2021, "Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood
    Density", arXiv:2108.10860, section 3: the mean entropy of the softmax, over the others, of the cosines of
    predictions, divided by the temperature.

    Args:
      chances: [n, classes], n >= 2.
      temperature: of the paper.
      rows: that are compared with all others at once.
    """
    chances = _chances(chances)
    if len(chances) < 2:
        raise InputError(f"soft neighborhood density: expected at least 2 examples, found {len(chances)}")
    unit, total = chances / np.linalg.norm(chances, axis=1, keepdims=True), 0.0
    for begin in range(0, len(unit), rows):
        alike = unit[begin : begin + rows] @ unit.T / temperature
        own = np.arange(len(alike))
        alike[own, begin + own] = -np.inf
        weights = np.exp(alike - alike.max(1, keepdims=True))
        total -= _xlogx(weights / weights.sum(1, keepdims=True)).sum()
    return float(total / len(unit))


def importance_weights(
    training: np.ndarray, target: np.ndarray, held_out: np.ndarray, penalty: float = 1.0
) -> np.ndarray:
    """How much likelier features are in the target than in the source: [held out].

    The odds of a logistic regression that tells the domains apart, times the ratio of their examples. It is fitted to
    other examples of the source than those that are weighed.

    Args:
      training: [n, width], of the source.
      target: [m, width].
      held_out: [k, width], of the source: those to weigh.
      penalty: of the regression on standardised features, scikit-learn's 1 / C.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    both = np.concatenate([training, target]).astype(np.float64)
    mean, scale = both.mean(0), np.maximum(both.std(0), 1e-12)
    domain = np.repeat([0, 1], [len(training), len(target)])
    model = LogisticRegression(C=1 / penalty, max_iter=1000).fit((both - mean) / scale, domain)
    odds = model.decision_function((held_out - mean) / scale)
    return np.exp(np.clip(odds, -50, 50)) * len(training) / len(target)


def weighted_risk(weights: np.ndarray, losses: np.ndarray) -> float:
    """The target's risk as the source's examples tell it: the mean of weight * loss.

    Sugiyama et al., 2007, "Covariate Shift Adaptation by Importance Weighted Cross Validation", JMLR 8.

    Args:
      weights: [n], as `importance_weights` gives them.
      losses: [n], of labelled examples of the source that were not trained on.
    """
    weights, losses = _pair(weights, losses)
    return float((weights * losses).mean())


def deep_embedded_validation(weights: np.ndarray, losses: np.ndarray) -> float:
    """`weighted_risk` with less variance: the weights, whose mean is known to be 1, are its control variate.

    You et al., 2019, "Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation" (ICML):
    mean(w l) + eta mean(w) - eta with eta = -cov(w l, w) / var(w).
    """
    weights, losses = _pair(weights, losses)
    spread = weights.var(ddof=1)
    eta = -np.cov(weights * losses, weights)[0, 1] / spread if spread > 0 else 0.0
    return float((weights * losses).mean() + eta * weights.mean() - eta)


def _chances(chances: np.ndarray) -> np.ndarray:
    chances = np.asarray(chances, np.float64)
    if chances.ndim != 2 or not len(chances):
        raise InputError(f"expected predictions [n, classes] of at least one example, found {list(chances.shape)}")
    return chances


def _pair(weights: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights, losses = np.asarray(weights, np.float64), np.asarray(losses, np.float64)
    if weights.shape != losses.shape or weights.ndim != 1 or len(weights) < 2:
        found = f"{list(weights.shape)} and {list(losses.shape)}"
        raise InputError(f"expected a weight and a loss for each of at least 2 examples, found {found}")
    return weights, losses


def _xlogx(x: np.ndarray) -> np.ndarray:
    return x * np.log(np.where(x > 0, x, 1.0))
