"""Validation by group, by time and by fold, against the properties that define it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxfer.data.order import Stream, permutation
from jaxfer.data.prepare import DataConfig, prepare
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError

LABELS = np.array([0, 1] * 10, np.int32)
GROUPS = np.array(["a"] * 8 + ["b"] * 5 + ["c"] * 4 + ["d"] * 3)
TIMES = np.array([5, 3, 9, 9, 1] * 4, np.float64)


def data(labels=LABELS, **columns):
    kind = {"i": "class", "b": "classes", "f": "value"}[labels.dtype.kind]
    images = Array(np.zeros((len(labels), 1, 1, 1), np.uint8), "image")
    about = {name: Array(values, name) for name, values in columns.items()}
    split = Split.whole(image=images, label=Array(labels, kind), **about)
    return Dataset(splits={"train": split}, classes=("x", "y") if kind != "value" else (), fingerprint="f")


def held(dataset, **options):
    """Rows of val, sorted; the others must be train."""
    made = prepare(dataset, DataConfig(**options), seed=3, with_test=False)
    val, train = (made.splits[name].rows.tolist() for name in ("val", "train"))
    assert sorted(val + train) == list(range(len(dataset.splits["train"])))
    return sorted(val), made


def test_groups_are_kept_whole():
    val, made = held(data(group=GROUPS), val_by="group", val_fraction=0.3)
    # The groups in the order of the seed's permutation, until six of the twenty examples are val.
    wanted, taken = [], 0
    for group in np.array(["a", "b", "c", "d"])[permutation(4, 0, Stream.VAL)]:
        if taken < 6:
            wanted, taken = [*wanted, *np.flatnonzero(group == GROUPS).tolist()], taken + int(np.sum(group == GROUPS))
    assert val == sorted(wanted)
    assert made.provenance["val"] == "drawn from train: data.val_fraction=0.3, data.val_by=group"
    assert not any("groups" in note for note in made.notes)


def test_a_random_draw_says_how_many_groups_it_splits():
    _, made = held(data(group=GROUPS), val_fraction=0.5)
    assert "4 of 4 groups of val are also in train; data.val_by=group keeps groups whole" in made.notes


def test_named_groups():
    val, made = held(data(group=GROUPS), val_groups=("d", "b"))
    assert val == [8, 9, 10, 11, 12, 17, 18, 19]
    assert made.provenance["val"] == "drawn from train: data.val_groups=d,b"


def test_the_last_in_time_and_equal_times_together():
    assert held(data(time=TIMES), val_by="time", val_fraction=0.1)[0] == [2, 3, 7, 8, 12, 13, 17, 18]
    assert held(data(time=np.arange(20.0)[::-1]), val_by="time", val_fraction=0.15)[0] == [0, 1, 2]


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.float32), np.eye(2, dtype=bool)[LABELS]])
def test_folds_are_a_partition_of_equal_shares(labels):
    folds = [held(data(labels), folds=3, fold=i)[0] for i in range(3)]
    assert sorted(row for fold in folds for row in fold) == list(range(20))
    assert sorted(map(len, folds)) == [6, 7, 7]
    if labels.dtype == np.int32:
        assert all(np.bincount(LABELS[fold]).min() >= 3 for fold in folds)
    assert held(data(labels), folds=3, fold=1)[1].provenance["val"] == "drawn from train: data.fold=1 of data.folds=3"


def test_folds_of_groups():
    folds = [held(data(group=GROUPS), folds=2, fold=i, val_by="group")[0] for i in range(2)]
    # 8, then 5 and 4 into the other, then 3 into the smaller: 11 and 9.
    assert sorted(map(len, folds)) == [9, 11]
    assert [set(GROUPS[fold]) for fold in sorted(folds, key=len)] == [{"b", "c"}, {"a", "d"}]


def test_classes_that_val_lacks_are_noted():
    _, made = held(data(np.sort(LABELS), group=GROUPS), val_groups=("c", "d"))
    assert made.notes == ("val has no example of class 'x': data.val_groups=c,d",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(val_by="groups"), "unknown data.val_by 'groups'; nearest: 'group'"),
        (dict(val_by="time"), "data.val_by='time' needs the time of each example, but this data has none"),
        (dict(val_groups=("e",)), "unknown group 'e' in data.val_groups; known: a, b, c, d"),
        (dict(val_groups=("a", "b", "c", "d")), "data.val_groups=a,b,c,d makes every example val; choose others"),
        (dict(folds=1), "expected data.folds of 2 or more, and data.fold from 0 to data.folds - 1, found data.folds=1"),
        (dict(folds=3, fold=3), "found data.folds=3 and data.fold=3"),
        (dict(fold=1), "data.fold=1 has no effect without data.folds"),
        (dict(folds=5, val_by="group"), "expected at least data.folds=5 groups, found 4; lower it"),
        (dict(folds=5, val_by="time"), "data.folds would train on what comes after validation"),
        (dict(folds=5, val_fraction=0.3), "data.val_fraction=0.3 has no effect beside data.fold=0 of data.folds=5"),
        (dict(val_by="group", val_per_class=2), "data.val_per_class=2 has no effect beside data.val_fraction=0.1"),
        (dict(val_groups=("a",), folds=2), "data.val_groups says which examples are val, and so does data.folds=2"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError) as error:
        held(data(group=GROUPS), **options)
    assert message in str(error.value)


def test_no_effect_where_the_source_has_val():
    dataset = data(group=GROUPS)
    dataset = dataclasses.replace(dataset, splits={**dataset.splits, "val": dataset.splits["train"]})
    with pytest.raises(InputError, match="data.val_by=group has no effect: the source has a val split; set it to ''"):
        prepare(dataset, DataConfig(val_by="group"), seed=0, with_test=False)
