"""Copies within splits and across them: examples that the model reads as the same, and those that are almost the same.

The inputs of the test split are compared with the others'; its labels are not read.
"""

from __future__ import annotations

import itertools
import string
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping

import numpy as np

from jaxfer.data.encodings.text import Texts
from jaxfer.diagnosis.finding import LISTED, SEVERE, WARNING, Example, Finding, graded, percent
from jaxfer.diagnosis.opened import Opened

SHARE = 0.01  # of a split
BITS = 2  # of 64 in which the hashes of near copies may differ
ALIKE = 0.997  # correlation of their thumbnails: strokes on an even ground, such as handwritten ones, agree up to 0.996
BLANK = 2.0  # levels of spread below which an image has no hash to speak of
BLOCK = 1024  # images that are compared with all at once
PAIRS = 2**17  # of thumbnails at once
PUNCTUATION = dict.fromkeys(map(ord, string.punctuation), " ")
FIX = "remove them from the files, or name what they share in data.group and set data.val_by=group"
WITHIN = "remove all but one of each"

Place = tuple[str, int]  # (split, place in it)


def check(opened: Opened) -> Iterator[Finding]:
    """Exact copies, then near ones."""
    exact = _groups(opened.keys)
    yield from _conflicts(opened, exact)
    yield from _told(opened, exact, "", "copies of", SHARE)
    near, how = _near(opened)
    yield from _told(opened, near, "near_", f"near copies ({how}) of", None)


def _groups(keys: Mapping[str, tuple[Hashable, ...]]) -> list[list[Place]]:
    """Places of the same key, of more than one."""
    found: defaultdict[Hashable, list[Place]] = defaultdict(list)
    for name, own in keys.items():
        for i, key in enumerate(own):
            found[key].append((name, i))
    return [places for places in found.values() if len(places) > 1]


def _conflicts(opened: Opened, groups: list[list[Place]]) -> Iterator[Finding]:
    """Copies under different labels; values that differ are the noise of what was measured."""
    labels = {name: opened.labels(name) for name in opened.splits}
    wrong, count = [], 0
    for places in groups:
        known = [(name, i) for name, i in places if labels[name] is not None]
        if len({labels[name][i] for name, i in known}) > 1:
            count, wrong = count + len(known), [*wrong, known]
    if not wrong:
        return
    examples = [
        _example(
            opened, place, f"{_label(opened, place)}, {_label(opened, _other(opened, place, known, labels))} there"
        )
        for known in wrong
        for place in known[:1]
    ]
    total = sum(len(opened.splits[name]) for name, own in labels.items() if own is not None)
    yield Finding(
        severity=SEVERE if opened.data.classes else WARNING,
        kind="copies_with_other_labels",
        message=f"{count:,} of {total:,} examples are the same for the model and have different labels.",
        fix="correct these labels in the files, or remove the examples",
        value=count,
        threshold=1,
        examples=tuple(examples[:LISTED]),
    )


def _other(opened: Opened, place: Place, known: list[Place], labels: Mapping[str, list[Hashable]]) -> Place:
    """A place of another label."""
    return next(other for other in known if labels[other[0]][other[1]] != labels[place[0]][place[1]])


def _label(opened: Opened, place: Place) -> str:
    name, i = place
    label, classes = opened.splits[name].labels[i], opened.data.classes
    at = f"{name} {int(opened.splits[name].rows[i])} is "
    if np.ndim(label):
        return at + (" + ".join(classes[k] for k in np.flatnonzero(label)) or "none")
    return at + (classes[int(label)] if classes else f"{label:.4g}")


def _example(opened: Opened, place: Place, says: str = "") -> Example:
    return opened.example(*place, says)


def _told(opened: Opened, groups: list[list[Place]], kind: str, what: str, severe: float | None) -> Iterator[Finding]:
    """A finding for each pair of splits, and for each split."""
    for name, other in itertools.combinations(opened.splits, 2):
        held = [(p[0], o) for places in groups if (p := _of(places, name)) for o in _of(places, other)]
        if held:
            share = len(held) / len(opened.splits[other])
            severity, threshold = graded(share, severe, SHARE if severe is None else 0.0)
            some = [_example(opened, o, f"as {_example(opened, p)}") for p, o in held[:LISTED]]
            yield Finding(
                severity=severity,
                kind=f"{kind}copies_across_splits",
                message=f"{len(held):,} of {len(opened.splits[other]):,} examples of {other} ({percent(share)}) are "
                f"{what} examples of {name}.",
                fix=FIX,
                value=share,
                threshold=threshold,
                examples=tuple(some),
            )
    for name, split in opened.splits.items():
        held = [(own[0], later) for places in groups if (own := _of(places, name)) for later in own[1:]]
        if held:
            share = len(held) / len(split)
            severity, threshold = graded(share, None, SHARE)
            yield Finding(
                severity=severity,
                kind=f"{kind}copies_within_split",
                message=f"{len(held):,} of {len(split):,} examples of {name} ({percent(share)}) are {what} "
                "others there.",
                fix=WITHIN,
                value=share,
                threshold=threshold,
                examples=tuple(
                    _example(opened, later, f"as {_example(opened, first)}") for first, later in held[:LISTED]
                ),
            )


def _of(places: list[Place], name: str) -> list[Place]:
    return [place for place in places if place[0] == name]


def _near(opened: Opened) -> tuple[list[list[Place]], str]:
    """(groups of near copies without the exact ones, how they are known)."""
    if opened.pictures:
        return _alike(opened), f"hashes within {BITS} of 64 bits"
    if all(isinstance(split.columns.get("text"), Texts) for split in opened.splits.values()):
        return _normalised(opened), "but for case, punctuation and spaces"
    return [], ""


def _alike(opened: Opened) -> list[list[Place]]:
    """Pairs of images with hashes and thumbnails that almost agree, one of each set of exact copies."""
    places, firsts = [], set()
    for name, pictures in opened.pictures.items():
        for i, key in enumerate(opened.keys[name]):
            if pictures.spread[i] >= BLANK and key not in firsts:
                firsts.add(key)
                places.append((name, i))
    if not places:
        return []
    hashes = np.array([opened.pictures[name].hashes[i] for name, i in places])
    thumbnails = np.array([opened.pictures[name].thumbnails[i] for name, i in places])
    found: list[tuple[int, int]] = []
    for begin in range(0, len(places), BLOCK):
        apart = np.bitwise_count(hashes[begin : begin + BLOCK, None] ^ hashes[None, begin:])
        i, j = (at + begin for at in np.nonzero(np.triu(apart <= BITS, 1)))
        for part in range(0, len(i), PAIRS):
            first, second = i[part : part + PAIRS], j[part : part + PAIRS]
            alike = np.einsum("nd,nd->n", thumbnails[first], thumbnails[second]) >= ALIKE
            found += zip(first[alike].tolist(), second[alike].tolist(), strict=True)
    return [[places[i] for i in group] for group in _joined(found)]


def _joined(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Sets of what pairs connect, in order."""
    of: dict[int, int] = {}

    def root(i: int) -> int:
        while of.setdefault(i, i) != i:
            i = of[i]
        return i

    for i, j in pairs:
        first, second = sorted((root(i), root(j)))
        of[second] = first
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i in sorted(of):
        groups[root(i)].append(i)
    return list(groups.values())


def normalised(text: str) -> str:
    """Without case, punctuation and spaces that repeat."""
    return " ".join(text.casefold().translate(PUNCTUATION).split())


def _normalised(opened: Opened) -> list[list[Place]]:
    keys: dict[str, tuple[Hashable, ...]] = {}
    for name, split in opened.splits.items():
        column = split.columns["text"]
        parts = [column[int(row)] for row in split.rows]
        keys[name] = tuple(tuple(map(normalised, (part,) if isinstance(part, str) else part)) for part in parts)
    groups = []
    for places in _groups(keys):
        first: dict[Hashable, Place] = {}
        for name, i in places:
            first.setdefault(opened.keys[name][i], (name, i))
        if len(first) > 1 and any(keys[places[0][0]][places[0][1]]):
            groups.append(list(first.values()))
    return groups
