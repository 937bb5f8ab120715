"""Streams in the loader: their orders and draws, one bucket for all texts of a step, and who reads them."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxfer.data import streams
from jaxfer.data.encodings.augment import applied, augmentations
from jaxfer.data.encodings.image import normalize
from jaxfer.data.encodings.pixels import resize
from jaxfer.data.encodings.text import texts, tokenize
from jaxfer.data.loader import Beside, train_batches
from jaxfer.data.order import Partners, Stream, batch_indices, bits, bucket_of, bucketed_indices, example_rng, numbered
from jaxfer.data.prepare import DataConfig
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError
from tests.data.test_loader import AUGMENT, BUCKETS, ENCODING, PHRASES, PIXELS, SIZE, TEXT, feed

OTHER = Split.whole(
    image=Array(np.random.default_rng(1).integers(0, 256, (7, 6, 10, 1), np.uint8), "image"),
    label=Array(np.arange(7, dtype=np.int32), "class"),
)
OWN = Beside(feed=feed(OTHER), batch_size=3, augment=("flip",))
SAME = Beside(feed=feed(), batch_size=4, augment=AUGMENT, same=True)


def batches(start=0, stop=7, **options):
    given = {"seed": 5, "batch_size": 4, "augment": AUGMENT, **options}
    return list(train_batches(feed(), start=start, stop=stop, **given))


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def main_of(found):
    return [{name: value for name, value in batch.items() if not isinstance(value, dict)} for batch in found]


def test_the_main_batches_do_not_depend_on_streams():
    assert_same(main_of(batches(beside={"other": OWN, "view": SAME})), batches())


def test_the_order_of_a_stream_is_of_its_name_alone():
    alone, both = batches(beside={"other": OWN}), batches(beside={"a": OWN, "other": OWN, "view": SAME})
    assert_same([batch["other"] for batch in alone], [batch["other"] for batch in both])
    number = numbered("other")
    for step, batch in enumerate(alone):
        chosen = batch_indices(5, step, size=7, batch_size=3, number=number)
        assert batch["other"]["image"].shape == (3, 8, 8, 3)
        np.testing.assert_array_equal(batch["other"]["label"], OTHER.labels[chosen])
    seen = np.concatenate([batch["other"]["label"] for batch in alone])
    assert [sorted(epoch) for epoch in seen.reshape(3, 7).tolist()] == [list(range(7))] * 3
    assert [batch["a"]["label"].tolist() for batch in both] != [batch["other"]["label"].tolist() for batch in both]


def test_numbers_of_streams():
    """They are part of every order, and 0 is the main stream's."""
    assert (numbered("target"), numbered("memory")) == (1_181_691_901, 3_933_025_334)
    assert numbered("") == 1


def test_a_second_view_has_the_examples_of_the_batch_under_draws_of_its_own():
    for step, batch in enumerate(batches(beside={"view": SAME})):
        np.testing.assert_array_equal(batch["view"]["label"], batch["label"])
        assert (batch["view"]["image"] != batch["image"]).any()
        expected = []
        for position, row in enumerate(batch_indices(5, step, size=SIZE, batch_size=4)):
            rng = example_rng(5, step, position, number=numbered("view"))
            pixels = resize(np.repeat(PIXELS[row], 3, axis=2), (8, 8), "bilinear")
            for name in AUGMENT:
                pixels = applied(pixels, augmentations((name,)), rng)
            expected.append(normalize(pixels, ENCODING))
        np.testing.assert_array_equal(batch["view"]["image"], expected)
    plain = Beside(feed=feed(), batch_size=4, same=True)
    for batch in batches(augment=(), beside={"view": plain}):
        np.testing.assert_array_equal(batch["view"]["image"], batch["image"])


def test_partners_by_hand():
    """Each of the others of its class, or of other classes, as often as the words say; nobody is its own partner."""
    classes = np.array([1, 0, 1, 2, 0, 1])  # sorted: rows 1, 4 of class 0; 0, 2, 5 of class 1; 3 of class 2
    partners, chosen = Partners.of(classes), np.array([0, 0, 3, 4, 4, 2])
    turns, words = np.split(bits(7, Stream.PARTNER, 3, numbered("partner")).random_raw(12), 2)
    own = {0: [2, 5], 2: [0, 5], 3: [1, 4, 0, 2, 5], 4: [1]}  # 3 is alone in its class
    other = {0: [1, 4, 3], 2: [1, 4, 3], 3: own[3], 4: [0, 2, 5, 3]}
    expected = []
    for row, turn, word in zip(chosen, np.argsort(turns), words, strict=True):
        rows = (own if (turn + 3) % 2 == 0 else other)[row]
        expected.append(rows[int(word) % len(rows)])
    assert partners.drawn(7, 3, chosen, numbered("partner")).tolist() == expected
    assert expected == [4, 2, 4, 5, 2, 0]  # a draw is part of a run, and never changes


def test_half_of_all_partners_are_of_the_same_class_wherever_an_example_stands():
    classes = np.repeat([0, 1], 20)
    partners, chosen = Partners.of(classes), np.arange(0, 40, 8)
    drawn = np.stack([partners.drawn(0, step, chosen, 1) for step in range(4000)])
    same = classes[drawn] == classes[chosen]
    assert np.abs(same.mean(0) - 0.5).max() < 0.03  # at each place
    assert {*same.sum(1)} == {2, 3} and same.sum() == 4000 * 5 / 2  # of five, by turns
    counts = np.bincount(drawn[:, 0], minlength=40)
    assert counts[0] == 0 and np.abs(counts[1:20] / 4000 - 0.5 / 19).max() < 0.01
    assert np.abs(counts[20:] / 4000 - 0.5 / 20).max() < 0.01


def test_partners_come_with_their_classes_and_follow_the_batch():
    """Each process reads the partners of its own examples, and a run that resumes those that were due."""
    beside = Beside(feed=feed(), batch_size=4, augment=AUGMENT, pairs=True)
    whole = batches(beside={"partner": beside})
    assert_same(main_of(whole), batches())
    partners = Partners.of(feed().split.labels)
    for step, batch in enumerate(whole):
        rows = partners.drawn(5, step, batch_indices(5, step, size=SIZE, batch_size=4), numbered("partner"))
        np.testing.assert_array_equal(batch["partner"]["label"], feed().split.labels[rows])
    assert_same(batches(start=4, beside={"partner": beside}), whole[4:])
    part = dataclasses.replace(beside, rows=[2, 3])
    for batch, own in zip(whole, batches(rows=[2, 3], beside={"partner": part}), strict=True):
        assert_same(own["partner"], {name: x[2:] for name, x in batch["partner"].items()})


def test_a_view_of_a_stream_has_its_examples_under_draws_of_its_own():
    strong = Beside(feed=feed(OTHER), batch_size=3, augment=("flip",), follows="other")
    plain = {name: Beside(feed=feed(OTHER), batch_size=3, follows=own) for name, own in (("a", ""), ("b", "a"))}
    alone, found = batches(beside={"other": OWN}), batches(beside={"strong": strong, "other": OWN})
    assert_same([batch["other"] for batch in alone], [batch["other"] for batch in found])
    for batch in found:
        np.testing.assert_array_equal(batch["strong"]["label"], batch["other"]["label"])
    assert any((batch["strong"]["image"] != batch["other"]["image"]).any() for batch in found)
    for batch in batches(beside=plain):
        np.testing.assert_array_equal(batch["a"]["image"], batch["b"]["image"])


LONG = Split.whole(
    text=texts(("good bad plain film plot song",) + ("a",) * 8), label=Array(np.arange(9, dtype=np.int32), "class")
)
WORDS = {"long": Beside(feed=feed(LONG, TEXT), batch_size=2), "view": Beside(feed=feed(PHRASES, TEXT), batch_size=4)}


def text_batches(start=0, stop=18, beside=WORDS, **options):
    options = {"seed": 5, "batch_size": 4, **options}
    return list(train_batches(feed(PHRASES, TEXT), start=start, stop=stop, beside=beside, **options))


def test_texts_of_a_step_are_padded_to_one_bucket():
    tokens = {"": tokenize(PHRASES, TEXT), "long": tokenize(LONG, TEXT), "view": tokenize(PHRASES, TEXT)}
    lengths, widest = [], set()
    for step, batch in enumerate(text_batches()):
        parts, sizes = {"": batch, **{name: batch[name] for name in WORDS}}, {"": 4, "long": 2, "view": 4}
        order = {
            name: bucketed_indices(
                5,
                step,
                lengths=own.lengths,
                buckets=BUCKETS,
                batch_size=sizes[name],
                number=numbered(name) if name else 0,
            )
            for name, own in tokens.items()
        }
        length = max(bucket for _, bucket in order.values())
        for name, (chosen, _) in order.items():
            assert length >= bucket_of(tokens[name].lengths[chosen], BUCKETS)
            for field, value in tokens[name](chosen, length).items():
                np.testing.assert_array_equal(parts[name][field], value)
        lengths.append(tuple(bucket for _, bucket in order.values()))
        widest.add(length)
    assert len(widest) > 1 and any(len(set(each)) > 1 for each in lengths)


def test_texts_of_a_second_view_have_the_length_of_the_batch():
    view = Beside(feed=feed(PHRASES, TEXT), batch_size=4, same=True)
    for batch, alone in zip(text_batches(beside={"view": view}), text_batches(beside=None), strict=True):
        assert_same(batch["view"], alone)
        assert_same(main_of([batch]), [alone])


def test_worker_processes_and_later_starts_give_the_same():
    beside = {"other": OWN, "view": SAME}
    assert_same(batches(2, 5, workers=2, beside=beside), batches(2, 5, beside=beside))
    assert_same(batches(2, 5, beside=beside), batches(beside=beside)[2:5])


@pytest.mark.parametrize("read", [batches, text_batches])
def test_processes_read_their_rows_of_every_stream(read):
    """Two processes that hold rows 0 and 3, 1 and 2 of the main batch, of others as many as they have."""
    held = {4: ([0, 3], [1, 2]), 2: ([1], [0])}
    beside = {"other": Beside(feed=feed(OTHER), batch_size=2), "view": SAME} if read is batches else WORDS

    def rows(i):
        own = {
            name: Beside(
                feed=s.feed, batch_size=s.batch_size, augment=s.augment, rows=held[s.batch_size][i], same=s.same
            )
            for name, s in beside.items()
        }
        return read(rows=held[4][i], beside=own)

    back = {4: [0, 2, 3, 1], 2: [1, 0]}
    for first, second, whole in zip(rows(0), rows(1), read(beside=beside), strict=True):
        joined = jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)
        assert_same(jax.tree.map(lambda v: v[back[len(v)]], joined), whole)


def test_a_stream_that_can_not_be_read_is_refused_at_once():
    with pytest.raises(InputError, match="the model reads texts, the data source has images"):
        batches(beside={"other": Beside(feed=feed(OTHER, TEXT), batch_size=2)})
    with pytest.raises(InputError, match="expected batch_size to be positive, found 0"):
        batches(beside={"other": Beside(feed=feed(OTHER), batch_size=0)})


SYNTHETIC = {"image": (4, 4, 3), "examples": 40, "classes_count": 3}


def main_data(classes=("class_2", "class_0", "class_1"), kind="class"):
    split = Split.whole(image=Array(PIXELS, "image"), label=Array(np.zeros(SIZE, np.int32), kind))
    return Dataset(splits={"train": split, "val": split}, classes=classes, fingerprint="main")


def unlabelled(main, with_test, **options):
    config = DataConfig(source="synthetic", **options.pop("config", {}))
    return streams.unlabelled(config, {**SYNTHETIC, **options}, main, with_test=with_test)


def test_labels_of_a_stream_without_a_task_are_sealed():
    sealed = unlabelled(main_data(), False)
    assert set(sealed.splits) == {"train"}
    assert set(sealed.splits["train"].columns) == {"image"} and sealed.splits["train"].labels is None
    assert set(sealed.sealed.columns) == {"image"}
    opened, own = unlabelled(main_data(), True), unlabelled(main_data(("class_0", "class_1", "class_2")), True)
    assert set(opened.splits) == {"train", "test"} and opened.sealed is None
    assert set(opened.splits["train"].columns) == {"image"}
    # The main data's order: its class 0 is the source's class 2.
    names = [opened.classes[label] for label in opened.splits["test"].labels]
    assert opened.classes == ("class_2", "class_0", "class_1")
    assert names == [own.classes[label] for label in own.splits["test"].labels] and len(set(names)) == 3


@pytest.mark.parametrize(
    "main",
    [main_data(("class_0", "class_1")), main_data(kind="classes")],
    ids=["other classes", "another kind of label"],
)
def test_a_test_split_that_the_main_task_can_not_score_stays_sealed(main):
    found = unlabelled(main, True)
    assert set(found.splits) == {"train"} and set(found.sealed.columns) == {"image"}


def test_a_second_view_keeps_labels_for_a_task_alone():
    for labelled in (True, False):
        found = streams.second_view(main_data(), labelled=labelled)
        assert set(found.splits) == {"train"} and (found.splits["train"].labels is not None) == labelled
