from __future__ import annotations

import numpy as np
import pytest

from jaxfer.data.order import (
    Stream,
    batch_indices,
    bits,
    bucket_of,
    bucketed_indices,
    draw,
    example_rng,
    permutation,
)


def slow_order(seed, size, count):
    """The first `count` indices of a run, epoch by epoch, by sorting in Python."""
    indices, epoch = [], 0
    while len(indices) < count:
        words = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(0, epoch))).random_raw(size).tolist()
        indices += sorted(range(size), key=lambda i: words[i])
        epoch += 1
    return indices[:count]


@pytest.mark.parametrize(("size", "batch_size"), [(12, 4), (10, 4), (7, 7), (5, 13), (1, 3)])
def test_order_equals_a_slow_implementation(size, batch_size):
    steps = [batch_indices(3, step, size=size, batch_size=batch_size) for step in range(9)]
    assert np.concatenate(steps).tolist() == slow_order(3, size, 9 * batch_size)
    assert all(step.dtype == np.int64 and step.shape == (batch_size,) for step in steps)


def test_every_epoch_is_a_permutation_even_where_batches_span_epochs():
    flat = np.concatenate([batch_indices(0, step, size=10, batch_size=4) for step in range(10)])
    epochs = flat.reshape(4, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_step_is_asked_for_in_any_order():
    forward = [batch_indices(1, step, size=9, batch_size=4) for step in range(6)]
    backward = [batch_indices(1, step, size=9, batch_size=4) for step in reversed(range(6))]
    np.testing.assert_array_equal(forward, backward[::-1])


def test_orders_never_change():
    # Written down from the first version: a change here changes every run's order and breaks every resume.
    assert batch_indices(0, 0, size=10, batch_size=10).tolist() == [7, 6, 8, 3, 2, 4, 1, 5, 0, 9]
    assert batch_indices(2**40, 1, size=10, batch_size=10).tolist() == [8, 3, 4, 0, 5, 6, 2, 9, 7, 1]


def test_seeds_and_streams_differ():
    orders = {tuple(permutation(20, seed, stream, key)) for seed in (0, 1) for stream in Stream for key in (0, 1)}
    assert len(orders) == 2 * len(Stream) * 2
    # Plain SeedSequence entropy is zero-padded and would make these two one stream.
    assert bits(0, Stream.AUGMENT, 3).random_raw() != bits(0, Stream.AUGMENT, 3, 0).random_raw()


def test_permutations_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        permutation(5, 0, Stream.EPOCH, 0)[0] = 1


def test_example_rng_is_a_function_of_seed_step_and_position():
    values = {(s, t, p): example_rng(s, t, p).random() for s in (0, 1) for t in (0, 5) for p in (0, 3)}
    assert len(set(values.values())) == 8
    assert all(example_rng(*key).random() == value for key, value in reversed(values.items()))


def test_draw_is_stratified_disjoint_and_nested():
    labels = np.array([0, 1] * 10 + [2] * 4, np.int32)
    five, rest = draw(labels, seed=7, stream=Stream.LABELS, per_class=3)
    one, _ = draw(labels, seed=7, stream=Stream.LABELS, per_class=1)
    assert np.bincount(labels[five]).tolist() == [3, 3, 3]
    assert np.bincount(labels[one]).tolist() == [1, 1, 1]
    assert set(one) < set(five)
    assert sorted([*five, *rest]) == list(range(24))
    by_hand = [np.flatnonzero(labels == c)[permutation(n, 7, Stream.LABELS, c)[:3]] for c, n in enumerate((10, 10, 4))]
    assert five.tolist() == sorted(np.concatenate(by_hand).tolist())


def test_draw_of_a_fraction_rounds_and_takes_at_least_one():
    labels = np.repeat(np.arange(3, dtype=np.int32), [2, 10, 26])
    drawn, _ = draw(labels, seed=0, stream=Stream.VAL, fraction=0.1)
    assert np.bincount(labels[drawn]).tolist() == [1, 1, 3]
    drawn, rest = draw(np.linspace(0, 1, 30, dtype=np.float32), seed=0, stream=Stream.VAL, fraction=0.2)
    assert (len(drawn), len(rest)) == (6, 24)


LENGTHS = np.random.default_rng(0).integers(1, 17, 103)
BUCKETS = (4, 8, 16)


def bucketed(step, seed=3, lengths=LENGTHS, buckets=BUCKETS, batch_size=4):
    return bucketed_indices(seed, step, lengths=lengths, buckets=buckets, batch_size=batch_size)


def slow_buckets(seed, step, lengths, buckets, batch_size):
    """The same, one window after the other in plain Python."""
    size, at = len(lengths), 0
    while True:
        epoch = at * batch_size // size
        count, inside = 1, ((at + 1) * batch_size - 1) // size == epoch
        if inside:
            while count < 32 and ((at + count + 1) * batch_size - 1) // size == epoch:
                count += 1
        if step < at + count:
            break
        at += count
    rows = slow_order(seed, size, (at + count) * batch_size)[at * batch_size :]
    if inside:
        rows = sorted(rows, key=lambda row: min(b for b in buckets if b >= lengths[row]))
    place = permutation(count, seed, Stream.BUCKET, at)[step - at]
    chosen = rows[place * batch_size : (place + 1) * batch_size]
    return chosen, min(b for b in buckets if b >= max(lengths[row] for row in chosen))


@pytest.mark.parametrize(("size", "batch_size"), [(103, 4), (103, 1), (100, 10), (9, 4), (5, 13), (1, 3)])
def test_bucketed_order_equals_a_slow_implementation(size, batch_size):
    for step in range(90):
        chosen, length = bucketed(step, lengths=LENGTHS[:size], batch_size=batch_size)
        expected = slow_buckets(3, step, LENGTHS[:size].tolist(), BUCKETS, batch_size)
        assert (chosen.tolist(), length) == expected
        assert chosen.dtype == np.int64


def test_every_epoch_of_buckets_has_every_example_once():
    flat = np.concatenate([bucketed(step)[0] for step in range(103)])
    assert (np.sort(flat.reshape(4, 103), axis=1) == np.arange(103)).all()
    assert sorted(flat[:103]) == sorted(batch_indices(3, 0, size=103, batch_size=103))


def test_batches_hold_texts_of_like_lengths():
    lengths = np.random.default_rng(0).integers(1, 17, 4096)
    padded = sum(bucketed(step, lengths=lengths, batch_size=32)[1] for step in range(128))
    plain = sum(bucket_of(lengths[batch_indices(3, step, size=4096, batch_size=32)], BUCKETS) for step in range(128))
    # At best: a quarter each of 4 and 8, a half of 16, and a few batches in between.
    assert plain == 128 * 16
    assert 128 * 11 <= padded <= 128 * 12


def test_one_bucket_is_the_plain_order():
    for step in range(60):
        chosen, length = bucketed(step, buckets=(16,))
        np.testing.assert_array_equal(chosen, batch_indices(3, step, size=103, batch_size=4))
        assert length == 16


def test_bucketed_orders_never_change():
    # Written down from the first version, as above.
    assert [bucketed(step)[0].tolist() for step in (0, 7, 25)] == [
        [54, 14, 84, 78],
        [34, 76, 43, 87],
        [86, 67, 19, 39],
    ]
    assert [bucketed(step)[1] for step in range(8)] == [16, 4, 8, 8, 16, 16, 4, 8]
