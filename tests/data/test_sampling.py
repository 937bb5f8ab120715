"""Samplers: their epochs by hand and by a slow implementation, through buckets, hosts, streams and stored features."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest

import jaxfer
from jaxfer.config import resolve
from jaxfer.data.loader import Beside, Feed, rows_read, train_batches
from jaxfer.data.order import SAMPLINGS, Repeated, Sampler, batch_indices, bucketed_indices, numbered
from jaxfer.data.prepare import DataConfig, prepare, sampler
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError
from jaxfer.models.port import FEATURES
from jaxfer.runs.metrics import read_metrics
from jaxfer.task import labels
from jaxfer.training import blocks, examples
from jaxfer.training.cut import cut_at
from tests.data.test_loader import ENCODING, assert_same
from tests.experiments import tiny_config, tiny_stage

LABELS = np.array([0, 1, 0, 2, 0, 0, 1, 0], np.int32)  # five, two and one
MADE = {name: Sampler.of(name, LABELS) for name in SAMPLINGS}


def epochs(name, count=4, seed=3):
    return [MADE[name].epoch(seed, epoch) for epoch in range(count)]


def test_oversampling_has_the_largest_class_once_and_repeats_the_others_evenly():
    """Of each class as many as imbalanced-learn's RandomOverSampler: those of the largest."""
    assert (MADE["oversample"].each, MADE["oversample"].length) == (5, 15)
    for epoch in epochs("oversample"):
        assert np.bincount(LABELS[epoch]).tolist() == [5, 5, 5]
        times = np.bincount(epoch, minlength=8)
        assert times[LABELS == 0].tolist() == [1] * 5
        assert sorted(times[LABELS == 1]) == [2, 3] and times[LABELS == 2].tolist() == [5]


def test_undersampling_draws_anew_as_many_as_the_smallest_class_has():
    """Of each class as many as imbalanced-learn's RandomUnderSampler: those of the smallest."""
    assert MADE["undersample"].length == 3
    drawn = epochs("undersample", 40)
    assert all(sorted(LABELS[epoch]) == [0, 1, 2] for epoch in drawn)
    assert set(np.concatenate(drawn)) == set(range(8))


def test_balanced_turns_hold_each_class_once_and_classes_walk_through_their_examples():
    turns = np.concatenate(epochs("balanced")).reshape(-1, 3)
    assert (np.sort(LABELS[turns], axis=1) == [0, 1, 2]).all()
    assert len({tuple(turn) for turn in LABELS[turns]}) == 6  # in every order
    for epoch in epochs("balanced"):
        once, twice = (epoch[LABELS[epoch] == label] for label in (0, 1))
        assert sorted(once) == [0, 2, 4, 5, 7]
        assert sorted(twice[:2]) == sorted(twice[2:4]) == [1, 6]


@pytest.mark.parametrize("batch_size", [3, 4, 6, 7, 30])
def test_balanced_batches_have_equal_counts_where_classes_divide_them(batch_size):
    for step in range(20):
        chosen = batch_indices(1, step, size=8, batch_size=batch_size, sampler=MADE["balanced"])
        counts = np.bincount(LABELS[chosen], minlength=3)
        assert np.ptp(counts) <= (2 if batch_size % 3 else 0)


def test_repeated_examples_come_in_a_row_and_an_epoch_is_no_longer_for_it():
    """Of eight examples three times each an epoch has the first three of its order, the last of them twice."""
    repeated = Repeated(8, 3)
    assert repeated.length == 8
    plain = [batch_indices(5, epoch, size=8, batch_size=8) for epoch in range(30)]
    for epoch, order in enumerate(plain):
        wanted = [order[0]] * 3 + [order[1]] * 3 + [order[2]] * 2
        assert repeated.epoch(5, epoch).tolist() == wanted
        assert batch_indices(5, epoch, size=8, batch_size=8, sampler=repeated).tolist() == wanted
    assert set(np.concatenate([order[:3] for order in plain])) == set(range(8)), "each epoch has others"
    of_sampler = Repeated(8, 2, MADE["balanced"])
    assert of_sampler.length == 15
    assert (of_sampler.epoch(3, 1) == np.repeat(MADE["balanced"].epoch(3, 1)[:8], 2)[:15]).all()


def test_repeated_texts_stay_together_and_what_is_read_is_counted():
    lengths, repeated = np.array([3, 9, 3, 9, 3, 9, 3, 9]), Repeated(8, 4)
    for step in range(8):
        chosen, bucket = bucketed_indices(1, step, lengths=lengths, buckets=(4, 9), batch_size=4, sampler=repeated)
        assert len(set(chosen)) == 1 and bucket == {3: 4, 9: 9}[lengths[chosen[0]]]
    feed = Feed(
        split=Split.whole(image=Array(np.zeros((8, 6, 9, 3), np.uint8), "image")),
        encodings=(ENCODING,),
        sampler=repeated,
    )
    read = rows_read(feed, seed=1, batch_size=4, start=0, stop=8)
    assert read.tolist() == sorted(set(np.concatenate([repeated.epoch(1, epoch) for epoch in range(4)])))


@pytest.mark.parametrize(("repeats", "augment"), [(1, ("flip",)), (-1, ("flip",)), (3, ())])
def test_repeats_that_repeat_nothing(repeats, augment):
    config = DataConfig(repeats=repeats, augment=augment)
    data = Dataset(
        splits={
            "train": Split.whole(image=Array(np.zeros((8, 2, 2, 1), np.uint8), "image"), label=Array(LABELS, "class"))
        },
        classes=("a", "b", "c"),
        fingerprint="",
    )
    with pytest.raises(InputError, match="data.repeats: expected at least 2, or 0, for examples that are augmented"):
        prepare(data, config, seed=0, with_test=False)


@pytest.mark.system
def test_show_says_what_an_epoch_has_of_repeated_examples():
    config = tiny_config("resnet_basic")
    config.data.augment, config.data.repeats = ("flip",), 3
    assert "repeats: an example comes 3 times in a row, an epoch ends after 1/3 of its" in str(jaxfer.show(config))


def slow_epoch(name, seed, epoch, number=()):
    """By sorting in Python."""

    def words(stream, *key):
        return np.random.Philox(np.random.SeedSequence(seed, spawn_key=(stream, *key, *number)))

    def sort(raw):
        return sorted(range(len(raw)), key=lambda i: raw[i])

    each, drawn = 1 if name == "undersample" else 5, []
    for label in range(3):
        rows, source, found = np.flatnonzero(label == LABELS).tolist(), words(10, epoch, label), []
        while len(found) < each:
            found += [rows[i] for i in sort(source.random_raw(len(rows)).tolist())]
        drawn.append(found[:each])
    if name == "balanced":
        source = words(11, epoch)
        return [drawn[label][turn] for turn in range(each) for label in sort(source.random_raw(3).tolist())]
    together = [row for rows in drawn for row in rows]
    return [together[i] for i in sort(words(0, epoch).random_raw(len(together)).tolist())]


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("number", [0, numbered("other")])
def test_batches_equal_a_slow_implementation_in_any_order_of_steps(name, number):
    slow = [row for epoch in range(40) for row in slow_epoch(name, 7, epoch, (number,) if number else ())]
    for step in reversed(range(24)):
        chosen = batch_indices(7, step, size=8, batch_size=5, number=number, sampler=MADE[name])
        assert chosen.tolist() == slow[step * 5 : step * 5 + 5] and chosen.dtype == np.int64


def test_sampled_orders_never_change():
    # Written down from the first version: a change here changes every run's order and breaks every resume.
    assert {name: MADE[name].epoch(0, 1).tolist()[:6] for name in SAMPLINGS} == {
        "oversample": [3, 7, 3, 3, 6, 3],
        "undersample": [3, 6, 2],
        "balanced": [3, 6, 2, 4, 1, 3],
    }


def test_strings_are_classes_too_and_epochs_are_read_only():
    named = Sampler.of("oversample", np.array(["cat", "dog", "cat", "newt", "cat", "cat", "dog", "cat"]))
    assert named.epoch(3, 2).tolist() == MADE["oversample"].epoch(3, 2).tolist()
    with pytest.raises(ValueError, match="read-only"):
        named.epoch(3, 2)[0] = 1


BUCKETS, LENGTHS = (2, 4, 8), np.array([1, 8, 3, 2, 5, 2, 4, 7])


@pytest.mark.parametrize("name", SAMPLINGS)
def test_buckets_hold_the_same_epochs(name):
    made, size = MADE[name], {"batch_size": 3, "sampler": MADE[name]}
    steps = [bucketed_indices(5, step, lengths=LENGTHS, buckets=BUCKETS, **size) for step in range(20)]
    for chosen, length in steps:
        assert length == min(bucket for bucket in BUCKETS if bucket >= LENGTHS[chosen].max())
    flat, per = np.concatenate([chosen for chosen, _ in steps]), made.length
    for epoch, rows in enumerate(flat.reshape(-1, per)):
        assert sorted(rows) == sorted(made.epoch(5, epoch))
    if name == "balanced":  # batches keep their balance
        assert all(sorted(LABELS[chosen]) == [0, 1, 2] for chosen, _ in steps)
    if name == "oversample":
        plain = [LENGTHS[batch_indices(5, step, size=8, **size)].max() for step in range(20)]
        assert sum(length for _, length in steps) < sum(BUCKETS[np.searchsorted(BUCKETS, longest)] for longest in plain)


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1), np.uint8)
SPLIT = Split.whole(image=Array(PIXELS, "image"), label=Array(LABELS, "class"))


def feed(name):
    return Feed(split=SPLIT, encodings=(ENCODING,), targets=labels, sampler=MADE[name])


def batches(name, start=0, stop=6, **options):
    return list(train_batches(feed(name), seed=5, batch_size=4, start=start, stop=stop, **options))


@pytest.mark.parametrize("name", SAMPLINGS)
def test_loaded_batches_are_those_of_the_order_on_any_number_of_hosts_and_resume(name):
    whole = batches(name, augment=("flip",))
    for step, batch in enumerate(whole):
        chosen = batch_indices(5, step, size=8, batch_size=4, sampler=MADE[name])
        np.testing.assert_array_equal(batch["label"], LABELS[chosen])
    halves = [batches(name, rows=rows, augment=("flip",)) for rows in ([0, 3], [1, 2])]
    joined = [{k: np.concatenate([a[k], b[k]])[[0, 2, 3, 1]] for k in a} for a, b in zip(*halves, strict=True)]
    assert_same(joined, whole)
    assert_same(batches(name, 4, augment=("flip",)), whole[4:])


def test_a_stream_has_epochs_of_its_own():
    other = Beside(feed=feed("balanced"), batch_size=3)
    (batch,) = train_batches(feed("oversample"), seed=5, batch_size=4, start=2, stop=3, beside={"other": other})
    chosen = batch_indices(5, 2, size=8, batch_size=3, number=numbered("other"), sampler=MADE["balanced"])
    np.testing.assert_array_equal(batch["other"]["label"], LABELS[chosen])


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 5), (2, 30)])
def test_rows_read_are_those_of_the_batches(name, start, stop):
    steps = [batch_indices(5, step, size=8, batch_size=2, sampler=MADE[name]) for step in range(start, stop)]
    read = rows_read(feed(name), seed=5, batch_size=2, start=start, stop=stop)
    seen = np.unique(np.concatenate(steps))
    assert set(seen) <= set(read) and (stop == 30 or seen.tolist() == read.tolist())


def test_groups_take_the_place_of_classes():
    group = Array(np.array(list("aabbbbbb")), "group")
    numbers = Array(np.linspace(0, 1, 8, dtype=np.float32), "value")
    values = SPLIT.with_column("label", numbers).with_column("place", group)
    made = sampler(DataConfig(sampling="undersample", sampling_by="place"), values)
    assert made.length == 4 and sorted(group.values[made.epoch(0, 0)]) == ["a", "a", "b", "b"]
    assert sampler(DataConfig(), values) is None


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"sampling": "balance"}, "class", "unknown data.sampling 'balance'; nearest: 'balanced'"),
        ({"sampling_by": "label"}, "class", "data.sampling_by=label has no effect without data.sampling; set that to"),
        ({"sampling": "balanced", "sampling_by": "gruop"}, "class", "no column 'gruop' beside its inputs; nearest"),
        ({"sampling": "balanced", "sampling_by": "image"}, "class", "no column 'image' beside its inputs; known:"),
        ({"sampling": "balanced", "sampling_by": "label"}, "classes", "one value per example, found 'label', classes"),
        ({"sampling": "balanced"}, "classes", "this data's targets are classes and group; remove it"),
        ({"sampling": "oversample"}, "value", "this data's targets are value and group; remove it"),
    ],
)
def test_what_has_no_one_class_per_example_is_refused(fields, kind, message):
    values = {"class": LABELS, "classes": np.eye(3, dtype=bool)[LABELS], "value": LABELS.astype(np.float32)}[kind]
    split = SPLIT.with_column("label", Array(values, kind)).with_column("group", Array(np.zeros(8), "group"))
    classes = () if kind == "value" else ("a", "b", "c")
    data = Dataset(splits={"train": split, "val": split}, classes=classes, fingerprint="")
    with pytest.raises(InputError) as caught:
        prepare(data, DataConfig(**fields), seed=0, with_test=False)
    assert message in str(caught.value)


def test_an_experiment_without_a_sampler_is_what_it_was():
    plain, sampled = (resolve(tiny_config("vit_cls")) for _ in range(2))
    sampled = dataclasses.replace(sampled, data=dataclasses.replace(sampled.data, sampling="balanced"))
    assert not [name for name in (*plain.to_dict()["data"], *plain.identity()) if "sampling" in name]
    assert sampled.to_dict()["data"]["sampling"] == sampled.identity()["data.sampling"] == "balanced"


def test_a_stage_reads_by_the_sampler_of_its_config():
    """What trains in blocks on stored features reads rows of them."""
    stage = tiny_stage("resnet_basic", method="probe", batch_size=5)
    config = tiny_config("resnet_basic")
    config.data.sampling = "oversample"
    ran = cut_at(stage, FEATURES)
    split = SPLIT.with_column(FEATURES, Array(np.zeros((8, 4), np.float32), FEATURES))
    session = types.SimpleNamespace(experiment=resolve(config))
    read = blocks._reader(types.SimpleNamespace(session=session, stage=stage, ran=ran, split=split))
    for step in range(4):
        chosen = batch_indices(0, step, size=8, batch_size=5, sampler=MADE["oversample"])
        assert read(step)["features"].tolist() == chosen.tolist()
    unlabelled = dataclasses.replace(stage.config, task="masked_lm")
    assert examples.sampler(session.experiment, unlabelled, split) is None


@pytest.mark.system
def test_stored_features_are_read_by_the_same_batches(tmp_path, monkeypatch):
    """Many steps in one call on the device, and step by step on images; only what the steps read is computed."""
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    images = {"train_image": PIXELS.repeat(3, axis=-1), "val_image": PIXELS[:4].repeat(3, axis=-1)}
    np.savez(tmp_path / "few.npz", **images, train_label=LABELS, val_label=LABELS[:4])
    found = {}
    for cache in ("off", "auto"):
        config = tiny_config("resnet_basic", method="probe", steps=2, batch_size=3, log_every=1, cache=cache, lr=1e-2)
        config.data = dict(source="npz", path=str(tmp_path / "few.npz"), sampling="undersample")
        config.parallel.devices = 1
        result = jaxfer.run(config, tmp_path / cache, quiet=True)
        lines = read_metrics(tmp_path / cache / "metrics.jsonl")
        found[cache] = [line["loss"] for line in lines if line["split"] == "train"]
    np.testing.assert_allclose(found["auto"], found["off"], rtol=1e-5)
    read = np.unique([MADE["undersample"].epoch(0, epoch) for epoch in range(2)])
    assert result["cost"]["features"]["computed"] == len(read) + 4 < 12
