"""Scores of frozen features on a labelled set, to choose a pretrained checkpoint by: of arrays, in float64.

More of each is better. None is the accuracy that fine-tuning will reach: they correlate with it on sets of medium size,
and less the longer the fine-tuning is. Features are [n, d], those that the first layer to be made anew reads; labels
are integers [n]. Classes without an example do not count.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxfer.errors import InputError

STEPS = 11  # of LogME's iteration at most, as in its code
DISTORTION = 1e-4  # of TransRate: epsilon^2 / d
FLOOR = 1e-4  # of GBC's variances
GAUSSIANS = 5  # of NLEEP, for each class
ENERGY = 0.8  # of NLEEP: the share of the variance that is kept
COMPONENTS = 64  # of GBC
PROBES = 500  # of PARC
PENALTIES = tuple(10.0**power for power in range(-6, 4))  # of the ridge probe, times the mean eigenvalue


def logme(x: np.ndarray, labels: np.ndarray, *, icml: bool = False) -> float:
    """The log evidence of a Bayesian linear model of each class against the rest, over n, averaged over the classes.

    You et al., 2021, "LogME", arXiv:2102.11005: with the eigenvalues s of X^T X, alpha and beta are found
    in turn, alpha = gamma / m^T m and beta = (n - gamma) / |y - X m|^2 with gamma = sum s / (s + alpha / beta).

    There are two published iterations. The default is the fixed point of the journal's version (You et al., 2022,
    arXiv:2110.10545): it stops when alpha / beta moves by 1e-3, and adds 1e-5 to both denominators. The
    determinant counts all d features, those without variance too; so it is the evidence for n < d as well. Each class
    starts from alpha = beta = 1.

    Args:
      x: [n, d].
      labels: [n].
      icml: the conference's iteration: it stops at 1e-2 and adds nothing. They differ in the seventh digit or later.
    """
    x, labels, classes = _checked(x, labels)
    u, s, _ = _svd(x)
    within, added = (1e-2, 0.0) if icml else (1e-3, 1e-5)
    return float(np.mean([_evidence(u, s**2, labels == c, within, added) for c in range(classes)]))


def _evidence(u: np.ndarray, spectrum: np.ndarray, target: np.ndarray, within: float, added: float) -> float:
    """The log evidence over n of one class; what is of features without variance cancels."""
    n, y = len(u), target.astype(np.float64)
    along = (u.T @ y) ** 2
    beyond = max(y @ y - along.sum(), 0.0)  # of y that no feature reaches
    alpha = beta = 1.0
    for _ in range(STEPS):
        ratio = alpha / beta
        gamma = (spectrum / (spectrum + ratio)).sum()
        weights = (spectrum * along / (ratio + spectrum) ** 2).sum()
        residual = (along / (1 + spectrum / ratio) ** 2).sum() + beyond
        with np.errstate(divide="ignore", invalid="ignore"):
            alpha, beta = gamma / (weights + added), (n - gamma) / (residual + added)
        if not (np.isfinite(alpha) and np.isfinite(beta) and alpha > 0 and beta > 0):
            raise InputError("logme: the features fit a class exactly, or say nothing of it; use more examples")
        if abs(alpha / beta - ratio) <= within * ratio:
            break
    total = len(spectrum) * np.log(alpha) - np.log(alpha + beta * spectrum).sum() + n * np.log(beta / (2 * np.pi))
    return float((total - beta * residual - alpha * weights) / (2 * n))


def h_score(x: np.ndarray, labels: np.ndarray) -> float:
    """How much of the features' variance lies between classes: tr(cov(f)^+ cov(E[f | y])).

    Bao et al., 2019, "An Information-Theoretic Approach to Transferability in Task Transfer Learning" (ICIP).
    With fewer examples than features it is classes - 1 whatever the features are, and is refused.

    Args:
      x: [n, d].
      labels: [n].
    """
    x, labels, classes = _checked(x, labels)
    centred = x - x.mean(0)
    _, s, axes = _svd(centred)
    if len(s) >= len(x) - 1:
        raise InputError(f"hscore: {len(x)} examples of {x.shape[1]} features say nothing; hscore_reg does")
    between = _means(centred, labels, classes)[labels]
    return float(((between @ axes.T / s) ** 2).sum())


def h_score_regularised(x: np.ndarray, labels: np.ndarray) -> float:
    """`h_score` with a covariance that is invertible: (1 - a) tr(cov_a(f)^-1 cov(E[f | y])), a of Ledoit and Wolf.

    Ibrahim et al., 2021, "Newer is not always better", arXiv:2110.06893. As in TLlib's code the covariance of
    the class means divides by n - 1, that of the features by n.

    Args:
      x: [n, d].
      labels: [n].
    """
    from sklearn.covariance import ledoit_wolf  # slow to import

    x, labels, classes = _checked(x, labels)
    centred = x - x.mean(0)
    covariance, shrinkage = ledoit_wolf(centred)
    between = np.sqrt(np.bincount(labels))[:, None] * _means(centred, labels, classes)
    try:
        solved = np.linalg.solve(covariance, between.T)
    except np.linalg.LinAlgError:  # constant features, and nothing to shrink
        solved = np.linalg.lstsq(covariance, between.T, rcond=None)[0]
    return float((1 - shrinkage) * (between.T * solved).sum() / (len(x) - 1))


def leep(chances: np.ndarray, labels: np.ndarray) -> float:
    """The mean log likelihood of the labels given what the source's head says: log sum_z P(y | z) theta_z.

    Nguyen et al., 2020, "LEEP", arXiv:2002.12462, eq. 2; P(y | z) = sum_i theta_iz [y_i = y] / sum_i theta_iz. A source
    class without mass has no P(y | z) (0 / 0); its theta_z is 0 for every example, so it adds nothing and is left out.

    Args:
      chances: theta [n, source classes], rows that sum to 1.
      labels: [n].
    """
    chances, labels, classes = _checked_chances(chances, labels)
    chances = chances[:, chances.sum(0) > 0]
    joint = np.stack([chances[labels == c].sum(0) for c in range(classes)])
    given = joint / joint.sum(0)
    return float(np.log((given[labels] * chances).sum(1)).mean())


def nce(chances: np.ndarray, labels: np.ndarray) -> float:
    """-H(Y | Z) of the labels given the source class that is likeliest, in nats.

    Tran et al., 2019, "Transferability and Hardness of Supervised Classification Tasks", arXiv:1908.08142.
    0 log 0 is 0: nothing is smoothed, unlike in published code, which adds 1e-20 or 1e-5.

    Args:
      chances: [n, source classes].
      labels: [n].
    """
    chances, labels, classes = _checked_chances(chances, labels)
    joint = np.zeros((classes, chances.shape[1]))
    np.add.at(joint, (labels, chances.argmax(1)), 1 / len(labels))
    total = joint.sum(0, keepdims=True)
    given = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)
    return float((joint * np.log(np.where(given > 0, given, 1))).sum())


def nleep(x: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> float:
    """`leep` for a source without a head: z is the component of a mixture of Gaussians fitted to the features.

    Li et al., 2021, "Ranking Neural Checkpoints", arXiv:2011.11200: principal components with 80 % of the
    variance, five Gaussians a class. The logarithm is the paper's; SFDA's code drops it. The mixture starts at random,
    so scores that are near each other may change places with the seed.

    Args:
      x: [n, d], n >= 5 * classes.
      labels: [n].
      seed: of the mixture's start.
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x, labels, classes = _checked(x, labels)
    if len(x) < GAUSSIANS * classes:
        raise InputError(
            f"nleep: {GAUSSIANS * classes} Gaussians of {classes} classes need as many examples, found {len(x)}"
        )
    reduced = PCA(ENERGY, svd_solver="full").fit_transform(x)
    mixture = GaussianMixture(GAUSSIANS * classes, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            mixture.fit(reduced)
        except ValueError as error:
            raise InputError(f"nleep: the mixture can't be fitted ({str(error).splitlines()[0]})") from None
    return leep(mixture.predict_proba(reduced), labels)


def transrate(x: np.ndarray, labels: np.ndarray) -> float:
    """The rate of the features less that of each class: R(Z) - mean_c R(Z_c), R(Z) = log det(I + Z^T Z / (n e)) / 2.

    Huang et al., 2022, "Frustratingly Easy Transferability Estimation", arXiv:2106.09207, with the
    reference code's e = 1e-4. As there, features are centred as a whole and not again in each class, and every class
    weighs alike. The score depends on the features' scale.

    Args:
      x: [n, d].
      labels: [n].
    """
    x, labels, classes = _checked(x, labels)
    centred = x - x.mean(0)
    return _rate(centred) - float(np.mean([_rate(centred[labels == c]) for c in range(classes)]))


def _rate(z: np.ndarray) -> float:
    gram = z.T @ z if len(z) > z.shape[1] else z @ z.T  # of the same determinant
    return float(np.linalg.slogdet(np.eye(len(gram)) + gram / (len(z) * DISTORTION))[1]) / 2


def gbc(x: np.ndarray, labels: np.ndarray) -> float:
    """How little classes overlap as Gaussians with diagonal covariance: - sum_{i != j} exp(-Bhattacharyya distance).

    Pandy et al., 2022, "Transferability Estimation using Bhattacharyya Class Separability", arXiv:2111.12780,
    on at most 64 principal components. Variances divide by the class's count, and are at least 1e-4.

    Args:
      x: [n, d], two examples of each class or more.
      labels: [n].
    """
    x, labels, classes = _checked(x, labels)
    if (fewest := np.bincount(labels).min()) < 2:
        raise InputError(f"gbc: a variance needs 2 examples of a class, found {fewest}")
    centred = x - x.mean(0)
    _, _, axes = _svd(centred)
    reduced = centred @ axes[:COMPONENTS].T
    mean = _means(reduced, labels, classes)
    variance = np.stack([np.maximum(reduced[labels == c].var(0), FLOOR) for c in range(classes)])
    total = 0.0
    for c in range(classes):
        both = (variance[c] + variance) / 2
        apart = ((mean[c] - mean) ** 2 / both).sum(1) / 8
        shape = (np.log(both) - (np.log(variance[c]) + np.log(variance)) / 2).sum(1) / 2
        total += np.exp(-(apart + shape)).sum() - 1  # its distance to itself is 0
    return -float(total)


def parc(x: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> float:
    """100 times the rank correlation of how unlike two examples are in features and in labels.

    Bolya et al., 2021, "Scalable Diverse Model Selection for Accessible Transfer Learning", arXiv:2111.06977:
    Spearman's correlation over pairs, of 1 - Pearson's between standardised features and 1 - Pearson's between
    one-hot labels. Pairs grow with the square, so 500 examples are drawn. The paper's heuristic for depth is not added.

    Args:
      x: [n, d].
      labels: [n].
      seed: of the draw.
    """
    from scipy.stats import spearmanr

    x, labels, classes = _checked(x, labels)
    if len(x) > PROBES:
        drawn = np.sort(np.random.default_rng(seed).choice(len(x), PROBES, replace=False))
        x, labels, classes = _checked(x[drawn], labels[drawn])
    spread = x.std(0)
    pairs = np.tril_indices(len(x), -1)
    unlike = _unlike((x - x.mean(0)) / np.where(spread > 0, spread, 1))[pairs]
    return 100 * float(spearmanr(unlike, _unlike(np.eye(classes)[labels])[pairs]).statistic)


def _unlike(rows: np.ndarray) -> np.ndarray:
    """1 - Pearson's correlation of each two rows [n, n]; that with a constant row counts as 0."""
    centred = rows - rows.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(length > 0, length, 1)
    return np.round(1 - unit @ unit.T, 12)  # equal pairs stay tied


def nearest_neighbour(x: np.ndarray, labels: np.ndarray, rows: int = 1024) -> float:
    """Accuracy of the label of the nearest other example, by Euclidean distance; of equal distances, the first one's.

    Args:
      x: [n, d].
      labels: [n].
      rows: that are compared with all others at once.
    """
    x, labels, _ = _checked(x, labels)
    x = x - x.mean(0)  # smaller numbers, less rounding
    square, right = (x**2).sum(1), 0
    for begin in range(0, len(x), rows):
        part = x[begin : begin + rows]
        distance = square - 2 * part @ x.T
        own = np.arange(len(part))
        distance[own, begin + own] = np.inf
        right += int((labels[distance.argmin(1)] == labels[begin : begin + rows]).sum())
    return right / len(x)


def ridge(x: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of a ridge probe of +-1 targets on each example when it is left out, in closed form.

    The residual of example i without it is its residual divided by 1 - h_ii, h being the hat matrix (Allen, 1974,
    "The Relationship between Variable Selection and Data Augmentation", PRESS). The bias is not penalised. Of ten
    penalties the one of the least squared error, left out likewise, is taken: so the accuracy is a little optimistic.

    Args:
      x: [n, d].
      labels: [n].
    """
    x, labels, classes = _checked(x, labels)
    targets = 2 * np.eye(classes)[labels] - 1
    u, s, _ = _svd(x - x.mean(0))
    bias, spectrum = targets.mean(0), s**2
    along, best = u.T @ (targets - bias), (np.inf, 0.0)
    for penalty in PENALTIES:
        kept = spectrum / (spectrum + penalty * spectrum.mean())
        own = 1 / len(x) + (u**2 @ kept)
        if own.max() > 1 - 1e-9:  # an example that no other one helps to predict
            continue
        fitted = bias + u @ (kept[:, None] * along)
        left_out = targets - (targets - fitted) / (1 - own)[:, None]
        error = float(((targets - left_out) ** 2).mean())
        best = min(best, (error, -float((left_out.argmax(1) == labels).mean())))
    return abs(best[1])


class Score(NamedTuple):
    """A score.

    Attributes:
      of: (features or chances, labels) -> value, more being better.
      chances: whether it reads what the source's own head says, and not features.
      seeded: whether it draws at random, by the argument `seed`.
    """

    of: Callable[..., float]
    chances: bool = False
    seeded: bool = False


SCORES = {
    "logme": Score(logme),
    "hscore": Score(h_score),
    "hscore_reg": Score(h_score_regularised),
    "leep": Score(leep, chances=True),
    "nce": Score(nce, chances=True),
    "nleep": Score(nleep, seeded=True),
    "transrate": Score(transrate),
    "gbc": Score(gbc),
    "parc": Score(parc, seeded=True),
    "knn": Score(nearest_neighbour),
    "ridge": Score(ridge),
}


def _checked(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(features float64, labels in 0..classes-1 of which each occurs, classes)."""
    x, labels = np.asarray(x, np.float64), np.asarray(labels)
    if x.ndim != 2 or labels.shape != x.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        found = f"{list(x.shape)} and {labels.dtype} {list(labels.shape)}"
        raise InputError(f"expected a vector and a class for each example, found {found}")
    if not np.isfinite(x).all():
        raise InputError("expected finite features, found NaN or infinity; check the checkpoint")
    present, labels = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise InputError(f"expected examples of 2 classes or more, found {len(present)}; choose other data.classes")
    if not np.ptp(x, axis=0).any():
        raise InputError("expected features that vary, found the same for all examples")
    return x, labels, len(present)


def _checked_chances(chances: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The same of probabilities, which may be alike for all examples."""
    chances = np.asarray(chances, np.float64)
    if chances.ndim != 2 or (chances < 0).any() or not np.allclose(chances.sum(1), 1, atol=1e-6):
        raise InputError("expected probabilities of source classes [n, classes], rows that sum to 1, found others")
    _, labels, classes = _checked(np.arange(len(chances), dtype=np.float64)[:, None], labels)
    return chances, labels, classes


def _svd(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(u [n, r], s [r], axes [r, d]) without what is zero up to rounding."""
    u, s, axes = np.linalg.svd(x, full_matrices=False)
    rank = int((s > s[0] * max(x.shape) * np.finfo(np.float64).eps).sum())
    return u[:, :rank], s[:rank], axes[:rank]


def _means(x: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    return np.stack([x[labels == c].mean(0) for c in range(classes)])
