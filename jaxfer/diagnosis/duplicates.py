"""Copies within splits and across them: examples that the model reads as the same, and those that are almost the same.

The inputs of the test split are compared with the others'; its labels are not read.
"""

from __future__ import annotations

import itertools
import math
import string
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence

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
SHARED = 0.85  # of the words of two texts: one of 13 is another one
WORDS = 8  # fewest of a text, to compare it so
PUNCTUATION = dict.fromkeys(map(ord, string.punctuation), " ")
FIX = "remove them from the files, or name what they share in data.group and set data.val_by=group"
WITHIN = "remove all but one of each"

Place = tuple[str, int]  # (split, place in it)


def check(opened: Opened) -> Iterator[Finding]:
    """Exact copies, then near ones."""
    exact = _groups(opened.keys)
    yield from _conflicts(opened, exact)
    yield from told(opened, exact, "", "copies of", SHARE)
    near, how = _near(opened)
    yield from told(opened, near, "near_", f"near copies ({how}) of", None)


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


def told(opened: Opened, groups: list[list[Place]], kind: str, what: str, severe: float | None) -> Iterator[Finding]:
    """A finding for each pair of splits, and for each split."""
    for name, other in itertools.combinations(opened.splits, 2):
        if held := _copies(groups, name, other):
            share = len(held) / len(opened.splits[other])
            severity, threshold = graded(share, severe, SHARE if severe is None else 0.0)
            yield Finding(
                severity=severity,
                kind=f"{kind}copies_across_splits",
                message=f"{len(held):,} of {len(opened.splits[other]):,} examples of {other} ({percent(share)}) are "
                f"{what} examples of {name}.",
                fix=FIX,
                value=share,
                threshold=threshold,
                examples=_some(opened, held),
            )
    for name, split in opened.splits.items():
        if held := _copies(groups, name, name):
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
                examples=_some(opened, held),
            )


def _copies(groups: list[list[Place]], name: str, other: str) -> dict[Place, Place]:
    """{each copy in the other split: the first example of this one that it is like}; of one split, all but that."""
    found: dict[Place, Place] = {}
    for places in groups:
        own = _of(places, name)
        for copy in own[1:] if name == other else _of(places, other) if own else ():
            found.setdefault(copy, own[0])
    return found


def _some(opened: Opened, held: Mapping[Place, Place]) -> tuple[Example, ...]:
    return tuple(_example(opened, o, f"as {_example(opened, p)}") for o, p in [*held.items()][:LISTED])


def _of(places: list[Place], name: str) -> list[Place]:
    return [place for place in places if place[0] == name]


def _near(opened: Opened) -> tuple[list[list[Place]], str]:
    """(groups of near copies without the exact ones, how they are known)."""
    if opened.pictures:
        return _alike(opened), f"hashes within {BITS} of 64 bits"
    if all(isinstance(split.columns.get("text"), Texts) for split in opened.splits.values()):
        how = f"but for case, punctuation and spaces, or {percent(SHARED)} of the words of both are the same"
        return _worded(opened), how
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
    return [[places[i], places[j]] for i, j in found]


def normalised(text: str) -> str:
    """Without case, punctuation and spaces that repeat."""
    return " ".join(text.casefold().translate(PUNCTUATION).split())


def _worded(opened: Opened) -> list[list[Place]]:
    """Texts that are equal once they are normalised, or that share most words, one of each set of exact copies."""
    places: list[Place] = []
    firsts: set[Hashable] = set()
    of: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for name, split in opened.splits.items():
        for i, key in enumerate(opened.keys[name]):
            text = split.example("text", i)
            parts = tuple(map(normalised, (text,) if isinstance(text, str) else text))
            if key not in firsts and any(parts):
                firsts.add(key)
                of[parts].append(len(places))
                places.append((name, i))
    words = [frozenset((at, word) for at, part in enumerate(parts) for word in part.split()) for parts in of]
    first = [same[0] for same in of.values()]
    groups = [same for same in of.values() if len(same) > 1]
    groups += sorted([first[i], first[j]] for i, j in sharing(words))
    return [[places[i] for i in group] for group in groups]


def sharing(sets: Sequence[frozenset[Hashable]]) -> Iterator[tuple[int, int]]:
    """Pairs of sets of words whose Jaccard index, words of both over words of either, is at least `SHARED`.

    Such sets share one of the n - ceil(`SHARED` n) + 1 rarest of each one's n words, so only these are looked up
    (prefix filtering: Bayardo et al., 2007, "Scaling Up All Pairs Similarity Search").
    """
    counts = Counter(word for words in sets for word in words)
    having: defaultdict[Hashable, list[int]] = defaultdict(list)
    for i in sorted(range(len(sets)), key=lambda i: len(sets[i])):
        words, n = sets[i], len(sets[i])
        if n < WORDS:
            continue
        rarest = sorted(words, key=lambda word: (counts[word], word))[: n - math.ceil(SHARED * n - 1e-9) + 1]
        for j in sorted({j for word in rarest for j in having[word] if len(sets[j]) >= SHARED * n}):
            both = len(words & sets[j])
            if both >= SHARED * (n + len(sets[j]) - both):
                yield min(i, j), max(i, j)
        for word in rarest:
            having[word].append(i)
