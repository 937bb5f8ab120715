"""Classifiers of few labelled examples on frozen features, and n-way k-shot episodes.

Features are [n, d] float64. A classifier reads a support set and gives scores of queries; whichever is largest wins.
Vinyals et al., 2016, "Matching Networks for One Shot Learning", arXiv:1606.04080, section 4, define the episodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.errors import InputError
from jaxfer.linear import Plain, Problem, prototypes

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of k-nearest neighbours, as DINO evaluates
ALPHA, BETA = 1.0, 5.5  # of Tip-Adapter: the weight of the memory, and its sharpness
EPOCHS, BATCH, RATE = 20, 256, 1e-3  # of the training of its memory


class Support(NamedTuple):
    """Labelled examples.

    Attributes:
      x: [s, d].
      labels: [s], in 0..classes-1.
      classes: how many.
      logits: the model's own, [s, classes]; None where no classifier reads them.
    """

    x: np.ndarray
    labels: np.ndarray
    classes: int
    logits: np.ndarray | None = None


def nearest_mean(support: Support, queries: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Prototypes, as `jaxfer.linear.prototypes` has them."""
    inputs = Plain.of(support.x)
    problem = Problem(x=support.x, inputs=inputs, labels=support.labels, outputs=support.classes)
    return next(prototypes.solve(problem)).outputs(queries)


def simple_shot(support: Support, queries: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The nearest mean of features that are centred by the support's mean and of length 1 (CL2N).

    Wang et al., 2019, "SimpleShot", arXiv:1911.04623, section 3; the paper centres by the mean of its base classes,
    which a checkpoint does not come with.
    """
    centre = support.x.mean(0)
    near = support._replace(x=unit(support.x - centre))
    return nearest_mean(near, unit(queries - centre), logits)


def neighbours(support: Support, queries: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Votes of the 20 nearest by cosine, or of all where they are fewer, each weighing exp(cosine / 0.07).

    Wu et al., 2018, arXiv:1805.01978, section 3.4; 20 neighbours as in Caron et al., 2021, "DINO", arXiv:2104.14294.
    """
    cosines, votes = unit(queries) @ unit(support.x).T, np.eye(support.classes)[support.labels]
    k = min(NEIGHBOURS, len(support.x))
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    weights = np.exp((np.take_along_axis(cosines, nearest, 1) - 1) / TEMPERATURE)
    return np.einsum("qk,qkc->qc", weights, votes[nearest])


def logistic(support: Support, queries: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Logistic regression (C = 1) on features of length 1: Tian et al., 2020, arXiv:2003.11539, section 3.3."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=1000).fit(unit(support.x), support.labels)
    found = fitted.decision_function(unit(queries))
    found = np.stack([-found, found], 1) if found.ndim == 1 else found
    scores = np.full((len(queries), support.classes), -np.inf)  # a class without an example is never chosen
    scores[:, fitted.classes_] = found
    return scores


def tip(
    support: Support, queries: np.ndarray, logits: np.ndarray, *, alpha: float = ALPHA, beta: float = BETA
) -> np.ndarray:
    """Tip-Adapter without training: the model's own logits, and the labels of what is near in a memory.

    Zhang et al., 2022, arXiv:2207.09519, eqs. 3 to 5: alpha exp(-beta (1 - q K^T)) L + logits, of features of length 1.
    """
    return _with_memory(unit(support.x), support, queries, logits, alpha, beta)


def _with_memory(
    keys: np.ndarray, support: Support, queries: np.ndarray, logits: np.ndarray, alpha: float, beta: float
) -> np.ndarray:
    affinity = np.exp(-beta * (1 - unit(queries) @ keys.T))
    return logits + alpha * affinity @ np.eye(support.classes)[support.labels]


def tip_trained(
    support: Support, queries: np.ndarray, logits: np.ndarray, *, alpha: float = ALPHA, beta: float = BETA
) -> np.ndarray:
    """Tip-Adapter-F: the memory's keys K start as the support's features and are trained on the support.

    Zhang et al., 2022, arXiv:2207.09519, section 3.3, with the authors' 20 epochs of batches of 256 under AdamW, from a
    rate of 1e-3 to 0 along a cosine. They train on random crops, and then search alpha and beta on val. Here an example
    meets its own key, since features are computed once, and both are given: 1 and 5.5, or what did best on val.
    """
    size = min(BATCH, len(support.x))
    batches = -(-len(support.x) // size)
    rng = np.random.default_rng(0)
    # The last batch of an epoch is filled from its beginning.
    rows = np.stack([np.resize(rng.permutation(len(support.x)), (batches, size)) for _ in range(EPOCHS)])
    x = unit(support.x)
    keys = _trained(x, np.eye(support.classes)[support.labels], support.logits, rows.reshape(-1, size), alpha, beta)
    return _with_memory(np.asarray(keys, float), support, queries, logits, alpha, beta)


@functools.partial(jax.jit, static_argnames=("alpha", "beta"))
def _trained(x, votes, logits, rows, alpha, beta):
    """Keys [s, d] after a step for each of `rows` [steps, batch]."""
    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, len(rows)), eps=1e-4, weight_decay=0.01)

    def loss(keys, batch):
        memory = alpha * jnp.exp(-beta * (1 - x[batch] @ keys.T)) @ votes
        return optax.softmax_cross_entropy(logits[batch] + memory, votes[batch]).mean()

    def step(carried, batch):
        keys, state = carried
        updates, state = optimizer.update(jax.grad(loss)(keys, batch), state, keys)
        return (optax.apply_updates(keys, updates), state), None

    return jax.lax.scan(step, (x, optimizer.init(x)), rows)[0][0]


def own(support: Support, queries: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The model's own logits: no label is read."""
    return logits


CLASSIFIERS = {
    "prototypes": nearest_mean,
    "simpleshot": simple_shot,
    "knn": neighbours,
    "logistic": logistic,
}
# Those that also read what the model's output layer says of the classes.
OF_MEMORY = {"tip": tip, "tip-f": tip_trained}
OF_LOGITS = {"zero-shot": own, **OF_MEMORY}


def classifier(name: str, *, alpha: float = ALPHA, beta: float = BETA) -> Callable[..., np.ndarray]:
    """(support, queries, logits) -> scores, by a key of CLASSIFIERS or OF_LOGITS; `alpha`, `beta` are Tip-Adapter's."""
    found = (CLASSIFIERS | OF_LOGITS)[name]
    return functools.partial(found, alpha=alpha, beta=beta) if name in OF_MEMORY else found


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


class Draw(NamedTuple):
    """Rows of an episode; example i of the support is of class `classes[i // shot]`, of the queries likewise."""

    classes: np.ndarray
    support: np.ndarray
    queries: np.ndarray


def episodes(labels: np.ndarray, *, way: int, shot: int, queries: int, count: int, seed: int) -> Iterator[Draw]:
    """Draws `way` classes, and of each `shot` examples and `queries` others, without replacement within an episode.

    Args:
      labels: [n].
      way: classes of an episode.
      shot: labelled examples a class.
      queries: examples a class to tell.
      count: how many episodes.
      seed: the same draws for the same seed and labels.

    Raises:
      InputError: fewer classes than `way` have `shot + queries` examples.
    """
    rows = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    able = np.array([label for label, of in rows.items() if len(of) >= shot + queries])
    if len(able) < way:
        raise InputError(
            f"expected {way} classes with {shot + queries} examples each, found {len(able)} of {len(rows)} classes; "
            "lower --way, --shot or --queries, or choose another split"
        )
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        classes = rng.permutation(able)[:way]
        drawn = np.stack([rng.permutation(rows[int(label)])[: shot + queries] for label in classes])
        yield Draw(classes, drawn[:, :shot].ravel(), drawn[:, shot:].ravel())


def accuracies(
    x: np.ndarray,
    logits: np.ndarray | None,
    draws: Iterator[Draw],
    names: tuple[str, ...],
    **memory: float,
) -> Mapping[str, list[float]]:
    """{classifier: its accuracy in each episode}; all see the same episodes.

    Args:
      x: features [n, d].
      logits: of the model's own head, [n, classes]; None where no classifier reads them.
      draws: of `episodes`.
      names: keys of CLASSIFIERS or OF_LOGITS.
      **memory: `alpha` and `beta`, as of `classifier`.
    """
    found: dict[str, list[float]] = {name: [] for name in names}
    for draw in draws:
        way = len(draw.classes)
        labels = np.repeat(np.arange(way), len(draw.support) // way)
        truth = np.repeat(np.arange(way), len(draw.queries) // way)
        asked, told = (None if logits is None else logits[of][:, draw.classes] for of in (draw.queries, draw.support))
        support = Support(x[draw.support], labels, way, told)
        for name in names:
            scores = classifier(name, **memory)(support, x[draw.queries], asked)
            found[name].append(float((scores.argmax(1) == truth).mean()))
    return found
