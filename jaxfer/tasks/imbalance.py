"""Losses for classes of unequal size: their options, and what they read of the training labels.

What depends on the training split reaches a step as fields of its batch, a row for each example: runs on other labels
share one program. Evaluation reads none of these fields, and its `loss` stays the plain negative log-likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.split import Split
from jaxfer.errors import InputError, nearest
from jaxfer.task import Batch, Hparams, labels

# {value of an option: {hparam that it reads: (default, least, below)}}
Known = Mapping[str, Mapping[str, tuple[float, float, float]]]
SMALLEST = 1e-8  # where x ** gamma would have no gradient at 0


def settings(hparams: Mapping[str, float], **options: tuple[Any, Known]) -> dict[str, Any]:
    """`hparams`, `limits` and `unread` of a `Task` with these options; None stands for the plain loss.

    Args:
      hparams: of the plain loss.
      options: {option: (its value, the values it may have)}; a tuple is not looked up.

    Raises:
      InputError: an unknown value.
    """
    limits, unread = {}, {}
    for option, (value, known) in options.items():
        if isinstance(value, str) and value not in known:
            raise InputError(f"unknown config.task.{option} {value!r}{nearest(value, known)}; none is the plain loss")
        for name, reads in known.items():
            for hparam, (default, least, below) in reads.items():
                if name == value:
                    hparams, limits[hparam] = {**hparams, hparam: default}, (least, below)
                else:
                    unread[hparam] = f"{option}={name}"
    return {"hparams": hparams, "limits": limits, "unread": unread}


def check_weights(option: str, weights: Any) -> None:
    """`InputError` for given weights that are no weights."""
    if isinstance(weights, tuple) and (min(weights, default=0.0) < 0 or not any(weights)):
        raise InputError(f"config.task.{option}: expected weights of at least 0, not all of them 0, found {weights!r}")


def check_number(option: str, weights: Any, classes: int) -> None:
    """`InputError` unless there is a given weight for each class."""
    if isinstance(weights, tuple) and len(weights) != classes:
        expected = f"expected {classes} weights, in the order of the classes"
        raise InputError(f"config.task.{option}: {expected}, found {len(weights)}; correct it")


def class_fields(loss: str | None, class_weights: Any) -> tuple[str, ...]:
    """Names of the fields that a loss of classes reads, as `class_targets` makes them."""
    of_loss = {"logit_adjusted": ("log_prior",), "ldam": ("margin",)}.get(loss, ())
    of_weights = "class_count" if class_weights == "effective" else "class_weight"
    return of_loss if class_weights is None else (*of_loss, of_weights)


def class_targets(
    split: Split, rows: np.ndarray, encoded: Fields, draw: Draw | None, *, fields: tuple[str, ...], given: Any
) -> Fields:
    """The label, and in training the fields of this example's class y, of n_y of the split's N examples.

    `class_count` [b]: n_y. `class_weight` [b]: the given one, or N / (k n_y), scikit-learn's `balanced`. `margin` [b]:
    (n_min / n_y)^(1/4). `log_prior` [b, k]: log(n_c / N) of every class. All are float32. `prepare` refuses data with a
    class that has no training example.
    """
    targets = labels(split, rows, encoded, draw)
    if draw is None or not targets:
        return targets
    counts, of = split.class_counts, targets["label"]
    tables = {
        "class_count": lambda: counts[of],
        "class_weight": lambda: np.asarray(given)[of] if given else counts.sum() / (len(counts) * counts[of]),
        "margin": lambda: (counts.min() / counts[of]) ** 0.25,
        "log_prior": lambda: np.tile(np.log(counts / counts.sum()), (len(of), 1)),
    }
    return {**targets, **{name: tables[name]().astype(np.float32) for name in fields}}


def example_weights(batch: Batch, hparams: Hparams) -> jax.Array:
    """[batch]: the weight of each example's class, or (1 - beta) / (1 - beta^n) of a class of n examples."""
    if "class_weight" in batch:
        return batch["class_weight"]
    # beta is near 1: 1 - beta^n itself would lose the digits of a small class.
    below = hparams["class_beta"] - 1
    return below / jnp.expm1(batch["class_count"] * jnp.log1p(below))


def label_targets(split: Split, rows: np.ndarray, encoded: Fields, draw: Draw | None, *, given: Any) -> Fields:
    """The sets of labels, and in training `pos_weight`, float32 [b, k]: the given ones, or (N - n) / n.

    n of the split's N examples have a label. Neither number counts as less than 1: one that all have keeps a weight.
    """
    targets = labels(split, rows, encoded, draw)
    if draw is None or not targets:
        return targets
    counts = split.class_counts
    weight = np.asarray(given) if given else np.maximum(len(split) - counts, 1) / np.maximum(counts, 1)
    return {**targets, "pos_weight": np.tile(weight.astype(np.float32), (len(rows), 1))}


def power(base: jax.Array, exponent: jax.Array) -> jax.Array:
    """base ** exponent of probabilities, with a finite gradient at 0 whatever the exponent."""
    return jnp.power(jnp.maximum(base, SMALLEST), exponent)
