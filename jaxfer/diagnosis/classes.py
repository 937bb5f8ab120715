"""Classes: how many examples of each, which are missing, whether they come in order. Test labels are not read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxfer.data.split import Split
from jaxfer.diagnosis.finding import LISTED, NOTE, SEVERE, WARNING, Example, Finding, listed
from jaxfer.diagnosis.opened import Opened

RATIO, MANY = 10, 100  # of the largest class to the smallest
FEW = 5  # examples of a class
SIGMAS = 5  # deviations of the number of runs from that of a random order
VAL = 100  # examples of val
CLASSES = "set data.sampling=balanced or config.task.class_weights=balanced; config.monitor=balanced_accuracy"
SETS = "set config.task.pos_weight=balanced, and look at config.monitor=macro_auprc"


def check(opened: Opened) -> Iterator[Finding]:
    """Of all labels of train and val, not only of the examples that other checks look at."""
    data = opened.data
    train, val = data.splits["train"], data.splits.get("val")
    if val is not None and len(val) < VAL and data.classes:
        half = 98 / np.sqrt(len(val))
        yield Finding(
            severity=NOTE,
            kind="small_val",
            message=f"val has {len(val):,} examples, so an accuracy on it is known to ± {half:.0f} points at worst.",
            fix="raise data.val_fraction or data.val_per_class, or use data.folds",
            value=len(val),
            threshold=VAL,
            examples=rarest(data.classes, "val", _counts(val, len(data.classes))) if val.labels is not None else (),
        )
    if not data.classes or train.labels is None:
        return
    counts = {name: _counts(split, len(data.classes)) for name, split in data.splits.items() if name != "test"}
    yield from _sizes(data.classes, counts, SETS if data.multilabel else CLASSES)
    if opened.one_class:
        yield from _order(opened)


def _counts(split: Split, classes: int) -> np.ndarray:
    labels = split.labels
    return np.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(0)


def rarest(classes: tuple[str, ...], split: str, counts: np.ndarray, most: int | None = None) -> tuple[Example, ...]:
    """Classes of a split as examples, the rarest first: those of fewer than `most` examples, of one at least."""
    order = [c for c in np.argsort(counts, kind="stable") if counts[c] and (most is None or counts[c] < most)]
    says = {c: f"{counts[c]:,} example{'' if counts[c] == 1 else 's'}" for c in order[:LISTED]}
    return tuple(Example(split=split, name=classes[c], says=said) for c, said in says.items())


def _sizes(classes: tuple[str, ...], counts: dict[str, np.ndarray], fix: str) -> Iterator[Finding]:
    for name, own in counts.items():
        missing = [classes[c] for c in np.flatnonzero(own == 0)]
        if missing:
            yield Finding(
                severity=SEVERE if name == "train" else WARNING,
                kind="absent_class",
                message=f"{name} has no example of {len(missing):,} of {len(classes):,} classes: {listed(missing)}.",
                fix="set data.classes to those that all splits have, add examples, or draw val by data.val_per_class",
                value=len(missing),
                threshold=1,
                examples=tuple(Example(split=name, name=c, says="no example") for c in missing[:LISTED]),
            )
    own = counts["train"]
    few = [f"{classes[c]} ({own[c]})" for c in np.argsort(own, kind="stable") if 0 < own[c] < FEW]
    if few:
        yield Finding(
            severity=WARNING,
            kind="few_examples",
            message=f"{len(few):,} of {len(classes):,} classes have fewer than {FEW} training examples: {listed(few)}.",
            fix="add examples, or raise data.labels_per_class where it is set",
            value=int(own[own > 0].min()),
            threshold=FEW,
            examples=rarest(classes, "train", own, FEW),
        )
    most, least = int(own.max()), int(own[own > 0].min()) if own.any() else 0
    if least and most / least >= RATIO:
        large, small = classes[int(own.argmax())], classes[int(np.where(own > 0, own, most + 1).argmin())]
        yield Finding(
            severity=WARNING,
            kind="imbalance",
            message=f"{large} has {most:,} training examples, {small} {least:,}: {most / least:.0f} times as many.",
            fix=fix,
            value=most / least,
            threshold=RATIO,
            examples=rarest(classes, "train", own, most // RATIO + 1),
        )


def runs_z(labels: np.ndarray) -> float:
    """How many standard deviations the number of runs of equal labels is above that of a random order.

    Wald and Wolfowitz's test for more than two classes (Barton and David, 1957): of n labels, n_i of each class,
    E = n + 1 - S2 / n and Var = (S2 (S2 + n (n + 1)) - 2 n S3 - n^3) / (n^2 (n - 1)), where Sk is the sum of n_i^k.
    """
    n, counts = len(labels), np.bincount(labels).astype(np.float64)
    s2, s3 = np.square(counts).sum(), (counts**3).sum()
    if n < 2 or counts.max() == n:
        return 0.0
    variance = (s2 * (s2 + n * (n + 1)) - 2 * n * s3 - n**3) / (n**2 * (n - 1))
    runs = 1 + np.count_nonzero(labels[1:] != labels[:-1])
    return float((runs - (n + 1 - s2 / n)) / np.sqrt(variance)) if variance > 0 else 0.0


def _order(opened: Opened) -> Iterator[Finding]:
    train = opened.data.splits["train"]
    order = np.argsort(train.rows, kind="stable")
    labels, rows = train.labels[order], train.rows[order]
    z = runs_z(labels)
    if z > -SIGMAS:
        return
    begins = np.flatnonzero(np.diff(labels, prepend=-1))
    lengths = np.diff(begins, append=len(labels))
    longest = np.argsort(-lengths, kind="stable")[:LISTED]
    classes = opened.data.classes
    by_time = opened.config.data.get("val_by", "") == "time"
    yield Finding(
        severity=WARNING if by_time else NOTE,
        kind="order",
        message=f"Labels come in order: runs of one class are {-z:.0f} standard deviations fewer than in a random order"
        + (
            ", and val is the last in time." if by_time else "; training shuffles every epoch, so it does no harm here."
        ),
        fix="set data.val_by=group or leave it out" if by_time else "nothing, unless the file is read in parts",
        value=z,
        threshold=-SIGMAS,
        examples=tuple(
            Example(
                split="train",
                row=int(rows[begins[run]]),
                says=f"the first of {lengths[run]:,} of {classes[labels[begins[run]]]}",
            )
            for run in longest
        ),
    )
