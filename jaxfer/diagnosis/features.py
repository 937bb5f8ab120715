"""Checks by the vectors of examples: near copies, label errors, outliers, splits and domains told apart, a pilot.

The vectors of at most 4,096 training examples and 500 of every other set are computed once for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxfer.data.loader import Feed
from jaxfer.data.prepare import build
from jaxfer.data.split import Split
from jaxfer.diagnosis import classes as counted
from jaxfer.diagnosis import drift, labels, near, outliers, pilot
from jaxfer.diagnosis.finding import NOTE, Finding
from jaxfer.diagnosis.opened import Opened
from jaxfer.diagnosis.out_of_sample import FOLDS, chances_beside, of_sets
from jaxfer.diagnosis.vectors import SEED, Vectors, vectors
from jaxfer.errors import InputError
from jaxfer.pretrained import foreign, starting
from jaxfer.runs.folder import stored_experiment

TRAIN = 4096  # examples
SOURCE = "the source's data"


def check(opened: Opened) -> Iterator[Finding]:
    """All of them, or a note that says why there are none."""
    sets, left_out = _sets(opened)
    yield from (_unread(name, why) for name, why in left_out.items())
    try:
        read = vectors(opened, sets)
    except InputError as error:
        yield Finding(
            severity=NOTE,
            kind="features_unread",
            message=f"Labels, outliers and drift were not checked: {str(error).rstrip('.')}.",
            fix="see `jaxfer show`; train or download what config.init names first",
        )
        return
    opened.say(f"{read.reads} of {sum(map(len, sets.values())):,} examples: labels, outliers, drift, a pilot")
    shown = dataclasses.replace(opened, splits=sets)
    yield from near.check(shown, read.of, read.reads)
    yield from outliers.check(read.of, read.reads, shown.some)
    yield from drift.splits(read.of, read.reads, shown.some)
    yield from drift.domains(read.of, read.reads, shown.some)
    if opened.one_class:
        yield from _classes(shown, read)
    elif opened.data.multilabel:
        yield from _sets_of_labels(shown, read)
    elif opened.values:
        yield from pilot.of_values(shown, read.of["train"], shown.splits["train"].labels, read.reads)


def _classes(opened: Opened, read: Vectors) -> Iterator[Finding]:
    """What logistic regression on the vectors says, of the classes of five training examples and more."""
    counts = np.bincount(opened.splits["train"].labels, minlength=len(opened.data.classes))
    classes = np.flatnonzero(counts >= FOLDS)
    if len(classes) < 2:
        yield _unchecked(opened, len(classes), 2, counts, f"two classes of {FOLDS} training examples or more")
        return
    kept = {name: np.flatnonzero(np.isin(opened.splits[name].labels, classes)) for name in _labelled(opened)}
    opened = dataclasses.replace(opened, splits={name: opened.splits[name].take(rows) for name, rows in kept.items()})
    given = {name: np.searchsorted(classes, opened.splits[name].labels) for name in kept}
    x = {name: read.of[name][rows] for name, rows in kept.items()}
    names = [opened.data.classes[c] for c in classes]
    found = chances_beside(x["train"], given["train"], x.get("val", x["train"][:0]))
    for name, probabilities in zip(kept, found, strict=False):
        yield from labels.check(opened, name, given[name], probabilities, names, read.reads)
    yield from pilot.check(opened, x["train"], given["train"], names, read.reads)


def _sets_of_labels(opened: Opened, read: Vectors) -> Iterator[Finding]:
    """Likewise of each label that five training examples have and five lack."""
    given = {name: opened.splits[name].labels.astype(int) for name in _labelled(opened)}
    counts = np.minimum(given["train"].sum(0), (1 - given["train"]).sum(0))
    enough = np.flatnonzero(counts >= FOLDS)
    if not len(enough):
        expected = f"a label that {FOLDS} training examples have and {FOLDS} lack"
        yield _unchecked(opened, 0, 1, given["train"].sum(0), expected)
        return
    x, others = read.of["train"], read.of["val"] if "val" in given else read.of["train"][:0]
    found = dict(zip(enough.tolist(), of_sets(x, given["train"][:, enough], others), strict=True))
    for at, name in enumerate(given):
        yield from labels.check_sets(opened, name, given[name], {c: own[at] for c, own in found.items()}, read.reads)
    yield from pilot.of_sets(opened, x, given["train"], opened.data.classes, read.reads)


def _labelled(opened: Opened) -> list[str]:
    """Train, and val where it has examples with labels."""
    val = opened.splits.get("val")
    return ["train", *(["val"] if val is not None and len(val) and val.labels is not None else [])]


def _unchecked(opened: Opened, found: int, least: int, counts: np.ndarray, expected: str) -> Finding:
    return Finding(
        severity=NOTE,
        kind="labels_unchecked",
        message=f"Labels were not checked: expected {expected}, found {found}.",
        fix="add examples, or raise data.labels_per_class where it is set",
        value=found,
        threshold=least,
        examples=counted.rarest(opened.data.classes, "train", counts),
    )


def _unread(name: str, why: str) -> Finding:
    return Finding(
        severity=NOTE,
        kind="domain_unread",
        message=f"The gap to {name} was not measured: {why.rstrip('.')}.",
        fix="restore it if it is to be compared; training does without",
    )


def _sets(opened: Opened) -> tuple[dict[str, Split], dict[str, str]]:
    """({name: examples}: train first, then val and the inputs of test, streams, and what the source was trained on;
    {name: why it can't be read}, of the last two)."""
    found = {"train": _some(opened.data.splits["train"], TRAIN)}
    found |= {name: _some(split, drift.MOST) for name, split in opened.splits.items() if name != "train"}
    streams = [name for name, stream in opened.ready.experiment.streams if stream.source is not None]
    others, left_out = {f"stream {name}": opened.data.streams[name].splits["train"] for name in streams}, {}
    try:
        others |= _source(opened)
    except InputError as error:
        left_out[SOURCE] = str(error)
    for name, split in others.items():
        try:
            Feed(split=split, encodings=opened.encodings).check()
        except InputError as error:  # of another task
            left_out[name] = str(error)
        else:
            found[name] = _some(split, drift.MOST)
    return found, left_out


def _some(split: Split, most: int) -> Split:
    rows = np.random.default_rng(SEED).permutation(len(split))[:most]
    return split.take(np.sort(rows))


def _source(opened: Opened) -> dict[str, Split]:
    """What a run that `config.init` names was trained on; `InputError` where its data is not there any more."""
    init = opened.config.init
    if init == "scratch" or foreign.is_foreign(init):
        return {}
    run = stored_experiment(starting.locate(init, opened.place))
    data = build(run.data, dict(run.source.options), seed=run.run.seed, with_test=False)
    return {SOURCE: data.splits["train"]}
