"""The report on a classification of a split: the confusion matrix, scores by class and by group.

Evaluations keep counts alone, since every checkpoint holds those of two; the report is made of them at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.data.split import Split


def counts(predicted: np.ndarray, split: Split) -> dict[str, Any]:
    """Counts of predicted classes int [n], as JSON.

    Returns:
      `confusion`: [true class, predicted class, examples] of each pair that occurs; `groups`, where the split has such:
      {group: [examples, right ones]}.
    """
    stride = int(predicted.max()) + 1
    pairs, examples = np.unique(split.labels.astype(np.int64) * stride + predicted, return_counts=True)
    found: dict[str, Any] = {"confusion": np.stack([*divmod(pairs, stride), examples], 1).tolist()}
    if split.groups is not None:
        found["groups"] = by_group(predicted, split)
    return found


def by_group(predicted: np.ndarray, split: Split) -> dict[str, list[int]]:
    """{group: [examples, right ones]}, by name."""
    names, places = np.unique(split.groups, return_inverse=True)
    support = np.bincount(places)
    right = np.bincount(places[predicted == split.labels], minlength=len(names))
    return {str(name): [int(n), int(hits)] for name, n, hits in zip(names, support, right, strict=True)}


def report(found: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What result.json says of these counts.

    Returns:
      `classes`: {class: precision, recall, f1, support}; 0 where a score would divide by 0, as of a class that is never
      predicted. `confusion`: {true class: {predicted class: examples}}, without the pairs that don't occur.
      `groups`, where there are such: {group: accuracy, support}.
    """
    matrix = confusion(found, len(classes))
    hits, support, claimed = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    scores = {
        "precision": hits / np.maximum(claimed, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + claimed, 1),
        "support": support,
    }
    by_class = {name: {score: values[i].item() for score, values in scores.items()} for i, name in enumerate(classes)}
    rows: dict[str, dict[str, int]] = {}
    for true, predicted, examples in found["confusion"]:
        rows.setdefault(classes[true], {})[classes[predicted]] = examples
    groups = {name: {"accuracy": hits / n, "support": n} for name, (n, hits) in found.get("groups", {}).items()}
    return {"classes": by_class, "confusion": rows, **({"groups": groups} if groups else {})}


def confusion(found: Mapping[str, Any], classes: int) -> np.ndarray:
    """int64 [true classes, predicted classes]: examples of each pair."""
    matrix = np.zeros((classes, classes), np.int64)
    true, predicted, examples = np.asarray(found["confusion"], np.int64).T
    matrix[true, predicted] = examples
    return matrix
