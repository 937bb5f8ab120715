"""Whether one fact of an example gives its class away: a small tree of it, out of sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from jaxfer.diagnosis.finding import Example, Finding, percent, reached

FOLDS = 5
ROWS = 20  # fewest


def shortcut(
    what: str,
    x: np.ndarray,
    labels: np.ndarray,
    thresholds: Mapping[str, float],
    fix: str,
    some: Callable[[np.ndarray], tuple[Example, ...]] = lambda rows: (),
) -> Iterator[Finding]:
    """A finding where the tree's balanced accuracy reaches one of {severity: threshold}, the highest first.

    Args:
      what: begins the sentence.
      x: [n, columns], what is known of it.
      labels: int [n].
      thresholds: of the mean recall over the classes of five examples or more.
      fix: what to do.
      some: rows -> examples, of one row of each class that the tree tells.
    """
    classes = np.flatnonzero(np.bincount(labels) >= FOLDS)
    kept = np.isin(labels, classes)
    if len(classes) < 2 or kept.sum() < ROWS:
        return
    tree = DecisionTreeClassifier(max_leaf_nodes=4 * len(classes), class_weight="balanced", random_state=0)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    found, given = cross_val_predict(tree, x[kept], labels[kept], cv=folds), labels[kept]
    balanced = float(np.mean([np.mean(found[given == c] == c) for c in classes]))
    if reaching := reached(balanced, thresholds):
        severity, threshold = reaching
        yield Finding(
            severity=severity,
            kind="shortcut",
            message=f"{what} alone gives the label: a small tree of it has {percent(balanced)} balanced accuracy.",
            fix=fix,
            value=balanced,
            threshold=threshold,
            examples=some(_told(np.flatnonzero(kept), found, given)),
        )


def _told(rows: np.ndarray, found: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The first row of each class whose answer is right."""
    right = np.flatnonzero(found == given)
    return rows[right[np.sort(np.unique(given[right], return_index=True)[1])]]
