"""Batches for training and evaluation, made by Grain in threads or worker processes.

Every batch is a pure function of its step: no iterator state needs saving, and the number of threads, worker processes
or hosts changes no value.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grain
import numpy as np
from absl import flags

from jaxfer.data.encoding import Draw, Encoding, Reader
from jaxfer.data.encodings.augment import augmentations
from jaxfer.data.order import Partners, Repeated, Sampler, batch_indices, bucket_of, bucketed_indices, numbered
from jaxfer.data.split import Split
from jaxfer.errors import InputError

Batch = dict[str, Any]  # of arrays; a stream, or what another model reads of the same examples, is a dict in it
Targets = Callable[[Split, np.ndarray, Batch, Draw | None], Batch]

# A thread makes whole batches, and as many batches as threads wait in memory; Pillow and NumPy release the GIL. One for
# each core that this process may use: more only take turns, which costs (two on one core: 7 % of the images a second).
THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Feed:
    """What batches are made of: a split, how a model reads it, and what its task asks for.

    Attributes:
      split: the examples.
      encodings: the model's.
      targets: the task's: (split, rows, encoded fields, draw) -> {field: [b, ...]}; a module's own function where
        worker processes make the batches. None: inputs alone.
      others: {name: encodings} of other models, which read the same examples, drawn alike: their fields are a part of
        the batch of this name. All of one shape: no texts.
      sampler: of the split, whose epochs training batches are cut from; None: each example occurs once in an epoch.
    """

    split: Split
    encodings: tuple[Encoding, ...]
    targets: Targets | None = None
    others: Mapping[str, tuple[Encoding, ...]] = field(default_factory=dict)
    sampler: Sampler | Repeated | None = None

    def check(self, augment: tuple[str, ...] = ()) -> None:
        """`InputError` if the split has nothing that the model can read, or if nothing of it can be augmented."""
        entries = augmentations(augment)
        for encoding in self.encodings:
            if encoding.column not in self.split.columns:
                raise InputError(
                    f"the model reads {encoding.noun}, the data source has {_noun(self.split.input[1].kind)}; choose "
                    "another of the two"
                )
            if hasattr(encoding, "check"):
                encoding.check(self.split)
        acting = [encoding for encoding in self.encodings if encoding.augments]
        for entry in entries:
            if entry.kind.of not in [encoding.column for encoding in acting]:
                of, has = _noun(entry.kind.of), _noun(self.split.input[1].kind)
                raise InputError(f"data.augment={(str(entry),)} is of {of}, the data source has {has}; remove it")
        if lost := [entry.name for entry in entries if not entry.kind.masks and "mask" in self.split.columns]:
            raise InputError(f"data.augment: {lost[0]} mixes moved images, whose masks can't be mixed; remove it")
        if any(entry.kind.colours or entry.kind.of == "text" for entry in entries):
            first = Draw(0, 0, np.arange(1), tuple(augment))
            for encoding in acting:  # says of the first example what it would say of it in training
                encoding.reader(self.split)(np.arange(1), max(encoding.buckets, default=None), first)

    def bind(self) -> Bound:
        """The feed with every encoding bound to the split."""
        readers = tuple(encoding.reader(self.split) for encoding in self.encodings)
        kept = tuple(name for encoding in self.encodings for name in encoding.example(1))
        buckets = next((encoding.buckets for encoding in self.encodings if encoding.buckets), ())
        others = {name: Feed(split=self.split, encodings=encodings).bind() for name, encodings in self.others.items()}
        return Bound(self.split, readers, self.targets, kept, buckets, others, self.sampler)


def _noun(kind: str) -> str:
    return {"image": "images", "text": "texts", "audio": "sounds", "row": "rows of a table"}.get(kind, kind)


@dataclass(frozen=True, eq=False, repr=False)
class Bound:
    """A feed whose encodings are bound to its split; pickled into the worker processes."""

    split: Split
    readers: tuple[Reader, ...]
    targets: Targets | None
    kept: tuple[str, ...]  # what a model reads; what else a reader gives is for the targets alone
    buckets: tuple[int, ...]
    others: Mapping[str, Bound] = field(default_factory=dict)
    sampler: Sampler | Repeated | None = None

    @property
    def lengths(self) -> np.ndarray | None:
        return next((reader.lengths for reader in self.readers if reader.lengths is not None), None)

    def __call__(self, rows: np.ndarray, length: int | None, draw: Draw | None) -> Batch:
        """The batch of these rows of the split."""
        fields: Batch = {}
        for reader in self.readers:
            fields |= reader(rows, length, draw)
        targets = {} if self.targets is None else self.targets(self.split, rows, fields, draw)
        others = {name: bound(rows, None, draw) for name, bound in self.others.items()}
        return {**{name: fields[name] for name in self.kept}, **targets, **others}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Beside:
    """A stream of examples beside the main one.

    Attributes:
      feed: its examples.
      batch_size: over all processes.
      augment: as for the main stream.
      rows: as for the main stream, of this one's batches.
      same: whether its examples are those of the main batch: a second view of them, under draws of its own.
      pairs: whether they are partners of the main batch's, from the same split (`Partners`).
      follows: the name of another of these streams, whose examples it has likewise; empty: none.
    """

    feed: Feed
    batch_size: int
    augment: tuple[str, ...] = ()
    rows: Sequence[int] | None = None
    same: bool = False
    pairs: bool = False
    follows: str = ""


def train_batches(
    feed: Feed,
    *,
    seed: int,
    batch_size: int,
    start: int,
    stop: int,
    augment: tuple[str, ...] = (),
    workers: int = 0,
    rows: Sequence[int] | None = None,
    beside: Mapping[str, Beside] | None = None,
) -> Iterator[Batch]:
    """The batches of steps `start` to `stop - 1`; a run resumes by its next `start`.

    Args:
      feed: of the training examples.
      seed: seeds the order and the augmentation.
      batch_size: over all processes.
      start: first step.
      stop: one after the last step.
      augment: entries of `data.augment`, applied after the resize; a leading crop replaces the resize.
      workers: processes; 0 for threads. A script that sets it needs the `if __name__ == "__main__"` guard of `spawn`.
      rows: the b positions in a batch that this process reads, in their order; None: all of them.
      beside: {name: stream}, read along with it.

    Yields:
      The encodings' fields and the task's targets, [b, ...] each, and for each stream beside it {name: such a dict}. Of
      examples with lengths all are padded to one of the model's buckets, the same one in every stream.

    Raises:
      InputError: a bad argument at once; an unreadable image when its batch is due.
    """
    if not len(feed.split):
        raise InputError("expected training examples, found none; check the data's train split")
    feed.check(augment)
    others = []
    for name, other in (beside or {}).items():
        other.feed.check(other.augment)
        held = _rows(other.batch_size, other.rows)
        partners = Partners.of(other.feed.split.labels) if other.pairs else None
        own = _TrainBatch(other.feed.bind(), other.batch_size, held, seed, other.augment, numbered(name), partners)
        others.append((name, own, other.same, other.follows))
    main = _TrainBatch(feed.bind(), batch_size, _rows(batch_size, rows), seed, augment, beside=tuple(others))
    return _iterate(main, start, stop, workers)


def single_batches(feed: Feed, *, seed: int, batch_size: int) -> Callable[[int], Batch]:
    """Step -> its batch as `train_batches` has it, made by the caller's thread: for what takes no time to read."""
    batch = _TrainBatch(feed.bind(), batch_size, _rows(batch_size, None), seed, ())
    return batch.map


def rows_read(feed: Feed, *, seed: int, batch_size: int, start: int, stop: int) -> np.ndarray:
    """Which examples the steps `start` to `stop - 1` of `train_batches` read: int64, ascending. Of several epochs all
    that occur in one of them."""
    count, sampler = len(feed.split), feed.sampler
    length = count if sampler is None else sampler.length
    if (stop - start) * batch_size >= 2 * length:  # a whole epoch is among them
        if sampler is None:
            return np.arange(count)
        read = np.zeros(count, bool)
        for epoch in range(start * batch_size // length, -(-stop * batch_size // length)):
            read[sampler.epoch(seed, epoch)] = True
            if read.all():
                break
        return np.flatnonzero(read)
    batch = _TrainBatch(feed.bind(), batch_size, _rows(batch_size, None), seed, ())
    return np.unique(np.concatenate([batch.chosen(step)[0] for step in range(start, stop)]))


def eval_batches(
    feed: Feed, *, batch_size: int, rows: Sequence[int] | None = None, draw: Draw | None = None
) -> Iterator[Batch]:
    """The split once, in order, in batches of one static size: the last is padded with copies of the first example.

    Args:
      feed: of the split.
      batch_size: over all processes.
      rows: as in `train_batches`.
      draw: augments the examples, whose positions it has in the order of the split.

    Yields:
      As `train_batches`, and "mask", float32 [b]: 1 for an example and 0 for padding. Examples with lengths are padded
      to the smallest bucket that holds the batch's longest.
    """
    feed.check()
    batch = _EvalBatch(feed.bind(), batch_size, _rows(batch_size, rows), draw)
    return _iterate(batch, 0, -(-len(feed.split) // batch_size), 0)


@dataclass(frozen=True, eq=False, repr=False)
class _TrainBatch(grain.transforms.Map):
    """Step -> batch; pickled into the worker processes."""

    feed: Bound
    batch_size: int
    rows: np.ndarray
    seed: int
    augment: tuple[str, ...]
    number: int = 0
    partners: Partners | None = None  # of a stream that has those of the main batch
    beside: tuple[tuple[str, _TrainBatch, bool, str], ...] = ()  # (name, its own, `same` and `follows` of `Beside`)

    def map(self, step: int) -> Batch:
        step = int(step)
        chosen, length = self.chosen(step)
        others = {}
        for name, own, same, other in sorted(self.beside, key=lambda stream: bool(stream[3])):  # who follows goes last
            if own.partners is not None:
                rows = own.partners.drawn(self.seed, step, chosen, own.number)
                others[name] = (own, rows, own.bucket(rows))
            elif same or other:
                others[name] = (own, others[other][1] if other else chosen, None)
            else:
                others[name] = (own, *own.chosen(step))
        lengths = [bucket for bucket in (length, *(bucket for _, _, bucket in others.values())) if bucket is not None]
        length = max(lengths, default=None)
        batch = self.read(step, chosen, length)
        return batch | {name: own.read(step, rows, length) for name, (own, rows, _) in others.items()}

    def chosen(self, step: int) -> tuple[np.ndarray, int | None]:
        """(examples of the whole batch, the bucket that holds the longest; None where all have one shape)."""
        lengths, sampler = self.feed.lengths, self.feed.sampler
        order = {"batch_size": self.batch_size, "number": self.number, "sampler": sampler}
        if lengths is None:
            return batch_indices(self.seed, step, size=len(self.feed.split), **order), None
        return bucketed_indices(self.seed, step, lengths=lengths, buckets=self.feed.buckets, **order)

    def bucket(self, chosen: np.ndarray) -> int | None:
        """The bucket that holds the longest of these; None where all have one shape."""
        lengths = self.feed.lengths
        return None if lengths is None else bucket_of(lengths[chosen], self.feed.buckets)

    def read(self, step: int, chosen: np.ndarray, length: int | None) -> Batch:
        """This process's part of the batch."""
        draw = Draw(self.seed, step, self.rows, self.augment, self.number)
        return self.feed(chosen[self.rows], length, draw)


@dataclass(frozen=True, eq=False, repr=False)
class _EvalBatch(grain.transforms.Map):
    """Batch number -> batch."""

    feed: Bound
    batch_size: int
    rows: np.ndarray
    draw: Draw | None = None

    def map(self, number: int) -> Batch:
        begin, size, lengths = int(number) * self.batch_size, len(self.feed.split), self.feed.lengths
        length = None
        if lengths is not None:  # the bucket of the whole batch, so that every host pads to the same length
            together = begin + np.arange(self.batch_size)
            length = bucket_of(lengths[np.where(together < size, together, 0)], self.feed.buckets)
        chosen = begin + self.rows
        real = chosen < size
        # Padding is one more example, the first, read once.
        read = np.append(chosen[real], 0) if not real.all() else chosen
        draw = None if self.draw is None else replace(self.draw, positions=self.draw.positions[read])
        batch = self.feed(read, length, draw)
        if not real.all():
            place = np.minimum(np.arange(len(chosen)), int(real.sum()))
            batch = _picked(batch, place)
        return {**batch, "mask": real.astype(np.float32)}


def _picked(batch: Batch, place: np.ndarray) -> Batch:
    """These rows of a batch, in its parts too."""
    return {name: _picked(x, place) if isinstance(x, Mapping) else x[place] for name, x in batch.items()}


def _rows(batch_size: int, rows: Sequence[int] | None) -> np.ndarray:
    if batch_size < 1:
        raise InputError(f"expected batch_size to be positive, found {batch_size}")
    return np.arange(batch_size) if rows is None else np.asarray(rows)


def _iterate(transform: grain.transforms.Map, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Runs the transform over start..stop-1 ahead of the consumer, in order; closing the generator ends its threads."""
    if start >= stop:
        return
    workers = min(workers, stop - start)
    threads = 1 if workers else min(THREADS, stop - start)
    dataset = grain.MapDataset.range(start, stop).map(transform)
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl flags here, and notebooks and our console script parse none
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_end_with_parent)
    iterator = iter(dataset)
    try:
        yield from iterator
    except InputError as error:
        raise InputError(str(error)) from None  # drop Grain's notes and frames
    except RuntimeError as error:
        died = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
        if died is None:
            raise
        raise InputError(
            f"a loader process died (exit code {died[1]}); out of memory? lower config.data.workers={workers}, then "
            "run the same command again"
        ) from None
    finally:
        iterator.close()


def _end_with_parent(worker: int, workers: int) -> None:
    """Called by Grain in each worker process, to exit with its parent: a killed run frees its pipes and memory."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, and the run decides
    threading.Thread(target=watch, daemon=True).start()
