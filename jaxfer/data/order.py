"""Index order: which examples a step trains on, as a pure function of (seed, step).

The loader, the samplers and the feature cache all call `batch_indices`, so a run resumes from its step number alone and
every host computes the same order. Only the raw bits of Philox are used (whose streams NumPy guarantees across
versions, unlike those of `Generator.permutation`), so an order outlives an upgrade. Texts have `bucketed_indices`: the
same order, regrouped a little, so that batches hold texts of like lengths. A `Sampler` gives other epochs to both: of
as many examples of each class; `Repeated` those of an example several times in a row. `Partners` has another example
for each of a batch.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import zlib

import numpy as np


class Stream(enum.IntEnum):
    """Independent random streams of one seed; the values are part of every order and never change."""

    EPOCH = 0
    AUGMENT = 1
    LABELS = 2
    VAL = 3
    TEST = 4
    SYNTHETIC = 5
    TRIALS = 6
    BUCKET = 7
    MASK = 8
    VIEW = 9
    SAMPLE = 10
    TURN = 11
    AUGMENT_SECOND = 12
    PARTNER = 13


def bits(seed: int, stream: Stream, *key: int) -> np.random.Philox:
    """The bit generator of one (seed, stream, key)."""
    # As spawn key and not as entropy: entropy is padded with zeros, so (seed, 1) and (seed, 1, 0) would be one stream.
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=(int(stream), *key)))


def numbered(name: str) -> int:
    """The number of a stream of data (`config.stream.NAME`), which its orders and draws fold in.

    It follows from the name, so that another stream beside it changes nothing. The main stream's is 0: nothing is
    folded in, and its orders are those of a run without streams.
    """
    return zlib.crc32(name.encode()) + 1


def _folded(*key: int, number: int) -> tuple[int, ...]:
    return (*key, number) if number else key


# Steps among which texts are regrouped by length: enough for batches of one bucket, few enough to stay random.
WINDOW = 32


# 64 entries: two epochs each for a group of sweep members that train in lockstep under their own seeds.
@functools.lru_cache(maxsize=64)
def permutation(size: int, seed: int, stream: Stream, *key: int) -> np.ndarray:
    """A uniformly random permutation of 0..size-1, int64 [size], read-only: the argsort of `size` raw 64-bit words."""
    order = np.argsort(bits(seed, stream, *key).random_raw(size), kind="stable")
    order.flags.writeable = False
    return order


SAMPLINGS = ("oversample", "undersample", "balanced")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sampler:
    """Epochs with as many examples of each class: `each`, drawn anew for every epoch.

    A class gives its examples in one permutation after the other until there are `each`, so that within an epoch it
    repeats none before all have occurred. Per class that is what imbalanced-learn's RandomOverSampler and
    RandomUnderSampler count; those repeat at random, and draw once for all epochs.

    - `oversample`: `each` is the size of the largest class, whose examples occur once; the epoch is shuffled.
    - `undersample`: `each` is the size of the smallest class; the epoch is shuffled.
    - `balanced`: the examples of `oversample` in turns, which hold one of each class in an order of their own. A batch
      that the number of classes divides has equal counts; in any other they differ by two at most.

    Attributes:
      name: one of `SAMPLINGS`.
      members: the examples of each class, int64, ascending.
    """

    name: str
    members: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, name: str, strata: np.ndarray) -> Sampler:
        """The sampler of examples with these classes [n], of any type that sorts; classes without any are left out."""
        _, places, counts = np.unique(strata, return_inverse=True, return_counts=True)
        return cls(name, tuple(np.split(np.argsort(places, kind="stable"), np.cumsum(counts)[:-1])))

    @property
    def each(self) -> int:
        """Examples of each class in an epoch."""
        sizes = [len(members) for members in self.members]
        return min(sizes) if self.name == "undersample" else max(sizes)

    @property
    def length(self) -> int:
        """Examples of an epoch."""
        return len(self.members) * self.each

    @property
    def together(self) -> bool:
        """Whether batches are as they are for a reason, and texts not regrouped by length."""
        return self.name == "balanced"

    def epoch(self, seed: int, epoch: int, number: int = 0) -> np.ndarray:
        """The examples of an epoch in their order, int64 [length], read-only."""
        return _sampled(self, seed, epoch, number)


@dataclasses.dataclass(frozen=True, repr=False)
class Repeated:
    """Epochs that have an example `times` times in a row, each time augmented anew: repeated augmentation.

    Hoffer et al., 2019, "Augment your batch", arXiv:1901.09335. As in timm's `RepeatAugSampler` an epoch is no longer
    for it: it ends with the first `length / times` examples of the order, which is another in each epoch.

    Attributes:
      size: number of examples.
      times: of each.
      sampler: whose order this is; None: that of epochs in which each occurs once.
    """

    size: int
    times: int
    sampler: Sampler | None = None

    together = True  # as of `Sampler`: an example's repetitions

    @property
    def length(self) -> int:
        """Examples of an epoch, repetitions counted."""
        return self.size if self.sampler is None else self.sampler.length

    def epoch(self, seed: int, epoch: int, number: int = 0) -> np.ndarray:
        """The examples of an epoch in their order, int64 [length], read-only."""
        return _repeated(self, seed, epoch, number)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Partners:
    """Another example for each of a batch: for half of them, at random places, one of its class, else of another class.

    Each is drawn uniformly from all training examples but itself; one that is alone in its class has another class's.
    Of an odd batch the half is rounded up at even steps.

    Attributes:
      order: the examples sorted by class, int64 [n].
      places: of each example in `order`, int64 [n].
      begins: of each example, where its class begins in `order`, int64 [n].
      sizes: of each example, how many are of its class, int64 [n].
    """

    order: np.ndarray
    places: np.ndarray
    begins: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, classes: np.ndarray) -> Partners:
        """Partners among examples of these classes, int [n]; there must be two classes at least."""
        _, which, counts = np.unique(classes, return_inverse=True, return_counts=True)
        order, begins = np.argsort(which, kind="stable"), np.cumsum(counts) - counts
        return cls(order=order, places=np.argsort(order), begins=begins[which], sizes=counts[which])

    def drawn(self, seed: int, step: int, chosen: np.ndarray, number: int) -> np.ndarray:
        """A partner of each example of a batch, int64 [batch_size].

        Args:
          seed: the run's.
          step: counted from 0.
          chosen: the examples of the whole batch, as `batch_indices` gives them.
          number: of the stream that the partners are, as `numbered` gives it.
        """
        turns, words = (
            bits(seed, Stream.PARTNER, *_folded(step, number=number)).random_raw(2 * len(chosen)).reshape(2, -1)
        )
        place, begin, size = self.places[chosen], self.begins[chosen], self.sizes[chosen]
        # At random places: batches of texts are sorted by length, and slices of a batch take every nth example.
        same = ((np.argsort(turns, kind="stable") + step) % 2 == 0) & (size > 1)
        among = np.where(same, size - 1, len(self.order) - size)  # how many there are to choose from
        at = (words % among.astype(np.uint64)).astype(np.int64)
        own = begin + at + (begin + at >= place)  # of its class without itself
        other = at + np.where(at >= begin, size, 0)  # of all without its class
        return self.order[np.where(same, own, other)]


@functools.lru_cache(maxsize=64)  # as above
def _repeated(repeated: Repeated, seed: int, epoch: int, number: int) -> np.ndarray:
    first = _epoch(repeated.size, seed, epoch, number, repeated.sampler)[: -(-repeated.length // repeated.times)]
    order = np.repeat(first, repeated.times)[: repeated.length]
    order.flags.writeable = False
    return order


@functools.lru_cache(maxsize=64)  # as above
def _sampled(sampler: Sampler, seed: int, epoch: int, number: int) -> np.ndarray:
    each, drawn = sampler.each, []
    for label, members in enumerate(sampler.members):
        source, walks = bits(seed, Stream.SAMPLE, *_folded(epoch, label, number=number)), -(-each // len(members))
        words = source.random_raw(walks * len(members)).reshape(walks, -1)
        drawn.append(members[np.argsort(words, axis=1, kind="stable").ravel()[:each]])
    of_class = np.stack(drawn)
    if sampler.name == "balanced":
        words = bits(seed, Stream.TURN, *_folded(epoch, number=number)).random_raw(of_class.size)
        turns = np.argsort(words.reshape(each, -1), axis=1, kind="stable")
        order = np.take_along_axis(of_class.T, turns, axis=1).ravel()
    else:
        order = of_class.ravel()[permutation(of_class.size, seed, Stream.EPOCH, *_folded(epoch, number=number))]
    order.flags.writeable = False
    return order


def _epoch(size: int, seed: int, epoch: int, number: int, sampler: Sampler | Repeated | None) -> np.ndarray:
    if sampler is not None:
        return sampler.epoch(seed, epoch, number)
    return permutation(size, seed, Stream.EPOCH, *_folded(epoch, number=number))


def batch_indices(
    seed: int, step: int, *, size: int, batch_size: int, number: int = 0, sampler: Sampler | Repeated | None = None
) -> np.ndarray:
    """The examples of one training step.

    Position `p = step * batch_size + i` lies in epoch `p // size`, and its example is that epoch's permutation at
    `p % size`. So in each epoch every example occurs exactly once, nothing is dropped, a batch may span epochs, and it
    may be larger than the data. With a sampler, `size` is its epochs' length, and their order is its own.

    Args:
      seed: the run's seed, >= 0.
      step: counted from 0.
      size: number of training examples.
      batch_size: over all hosts.
      number: of the stream of data, as `numbered` gives it; 0 is the main one.
      sampler: of these examples; None: each occurs once in an epoch.

    Returns:
      Indices, int64 [batch_size].
    """
    size = size if sampler is None else sampler.length
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epochs, offsets = np.divmod(positions, size)
    indices = np.empty(batch_size, np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        inside = epochs == epoch
        indices[inside] = _epoch(size, seed, epoch, number, sampler)[offsets[inside]]
    return indices


def bucketed_indices(
    seed: int,
    step: int,
    *,
    lengths: np.ndarray,
    buckets: tuple[int, ...],
    batch_size: int,
    number: int = 0,
    sampler: Sampler | Repeated | None = None,
) -> tuple[np.ndarray, int]:
    """The examples of one training step on texts, and the length they are padded to.

    The steps that lie wholly inside an epoch are taken in windows of up to `WINDOW`. The examples that
    `batch_indices` gives the steps of a window are sorted by bucket (stably, so at random within one), cut into batches
    again, and the batches shuffled. So a window holds exactly the examples of the plain order, and in each epoch every
    example occurs exactly once. A batch that spans epochs is the plain one; so are all where there is one bucket, and
    all of a sampler whose batches are to stay `together`: balanced, or repetitions.

    Args:
      seed: the run's seed, >= 0.
      step: counted from 0.
      lengths: tokens of each training example, int [n]; the same table on every host.
      buckets: rising lengths; no example is longer than the last.
      batch_size: over all hosts.
      number: of the stream of data, as `numbered` gives it; 0 is the main one.
      sampler: as of `batch_indices`.

    Returns:
      (indices, int64 [batch_size]; the smallest bucket that holds the longest of them).
    """
    size = len(lengths) if sampler is None else sampler.length
    epoch = step * batch_size // size
    # The steps inside this epoch: from the first that begins in it to the last that ends in it.
    first, stop = -(-epoch * size // batch_size), (epoch + 1) * size // batch_size
    inside = first <= step < stop
    if len(buckets) == 1 or not inside or (sampler is not None and sampler.together):
        chosen = batch_indices(seed, step, size=size, batch_size=batch_size, number=number, sampler=sampler)
    else:
        begin = first + (step - first) // WINDOW * WINDOW
        count = min(begin + WINDOW, stop) - begin
        offset = begin * batch_size - epoch * size
        shuffled = _epoch(size, seed, epoch, number, sampler)
        together = shuffled[offset : offset + count * batch_size]
        order = np.argsort(np.searchsorted(buckets, lengths[together]), kind="stable")
        place = permutation(count, seed, Stream.BUCKET, *_folded(begin, number=number))[step - begin]
        chosen = together[order].reshape(count, batch_size)[place]
    return chosen, bucket_of(lengths[chosen], buckets)


def bucket_of(lengths: np.ndarray, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds the longest."""
    return buckets[int(np.searchsorted(buckets, lengths.max()))]


def example_rng(
    seed: int, step: int, position: int, stream: Stream = Stream.AUGMENT, number: int = 0
) -> np.random.Generator:
    """Randomness of one example of a batch: a function of its position in the global batch, not of who loads it.

    `number` is that of the stream of data, so that a second view of the same examples is drawn anew.
    """
    return np.random.Generator(bits(seed, stream, *_folded(step, position, number=number)))


def row_rng(row: int, stream: Stream) -> np.random.Generator:
    """Randomness of one example in evaluation: a function of its row in the source, the same in every run."""
    return np.random.Generator(bits(0, stream, row))


def draw(
    labels: np.ndarray, *, seed: int, stream: Stream, per_class: int = 0, fraction: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A stratified draw: (rows drawn, rows left), both sorted.

    `per_class` of each class, or where that is 0 `fraction` of it, rounded and at least one. Each class has its own
    permutation, so that neither other classes nor the count change who comes first. Float labels are one class.
    """
    strata = labels if np.issubdtype(labels.dtype, np.integer) else np.zeros(len(labels), np.int32)
    drawn, rest = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for label in np.unique(strata):
        rows = np.flatnonzero(strata == label)
        rows = rows[permutation(len(rows), seed, stream, int(label))]
        count = per_class or max(1, round(fraction * len(rows)))
        drawn.append(rows[:count])
        rest.append(rows[count:])
    return np.sort(np.concatenate(drawn)), np.sort(np.concatenate(rest))
