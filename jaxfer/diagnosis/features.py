"""Checks by the vectors of examples: probable label errors, outliers, splits and domains told apart, a pilot.

The vectors of at most 4,096 training examples and 500 of every other set are computed once for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxfer.data.loader import Feed
from jaxfer.data.prepare import build
from jaxfer.data.split import Split
from jaxfer.diagnosis import drift, labels, outliers, pilot
from jaxfer.diagnosis.finding import NOTE, Finding
from jaxfer.diagnosis.opened import Opened
from jaxfer.diagnosis.vectors import FOLDS, SEED, chances, vectors
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
    shown, x = dataclasses.replace(opened, splits=sets), read.of["train"]
    yield from outliers.check(x, read.reads, lambda rows, says: shown.some("train", rows, says))
    yield from drift.splits(read.of, read.reads)
    yield from drift.domains(read.of, read.reads)
    if opened.one_class:
        yield from _classes(shown, x, read.reads)
    elif opened.data.multilabel:
        yield from _sets_of_labels(shown, x, read.reads)


def _classes(opened: Opened, x: np.ndarray, reads: str) -> Iterator[Finding]:
    """What logistic regression on the vectors says, of the classes of five examples and more."""
    split = opened.splits["train"]
    kept = np.flatnonzero(np.bincount(split.labels)[split.labels] >= FOLDS)
    classes, given = np.unique(split.labels[kept], return_inverse=True)
    if len(classes) < 2:
        yield _unchecked(f"{FOLDS} training examples of two classes or more", "raise data.labels_per_class")
        return
    opened, x = dataclasses.replace(opened, splits={"train": split.take(kept)}), x[kept]
    probabilities, names = chances(x, given), [opened.data.classes[c] for c in classes]
    yield from labels.check(opened, given, probabilities, names, reads)
    yield from pilot.check(opened, x, given, reads)


def _sets_of_labels(opened: Opened, x: np.ndarray, reads: str) -> Iterator[Finding]:
    """Likewise of each label that five examples have and five lack."""
    given = opened.splits["train"].labels.astype(int)
    enough = np.flatnonzero(np.minimum(given.sum(0), (1 - given).sum(0)) >= FOLDS)
    if not len(enough):
        yield _unchecked(f"a label that {FOLDS} training examples have and {FOLDS} lack", "add examples")
        return
    yield from labels.check_sets(opened, given, {int(c): chances(x, given[:, c]) for c in enough}, reads)


def _unchecked(expected: str, fix: str) -> Finding:
    message = f"Labels were not checked: expected {expected}."
    return Finding(severity=NOTE, kind="labels_unchecked", message=message, fix=fix)


def _unread(name: str, why: str) -> Finding:
    return Finding(
        severity=NOTE,
        kind="domain_unread",
        message=f"The gap to {name} was not measured: {why.rstrip('.')}.",
        fix="restore it if it is to be compared; training does without",
        value=1,
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
