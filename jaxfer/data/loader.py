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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags

from jaxfer.data.augment import augmentations, augmented
from jaxfer.data.encodings.image import fit, normalize
from jaxfer.data.encodings.spec import Preprocessing, TextPreprocessing
from jaxfer.data.encodings.text import Texts, Tokens, tokenize
from jaxfer.data.order import batch_indices, bucket_of, bucketed_indices, example_rng
from jaxfer.data.split import Split
from jaxfer.errors import InputError

Batch = dict[str, np.ndarray]

# A thread makes whole batches, and as many batches as threads wait in memory; Pillow and NumPy release the GIL. One for
# each core that this process may use: more only take turns, which costs (two on one core: 7 % of the images a second).
THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def train_batches(
    split: Split,
    *,
    seed: int,
    batch_size: int,
    start: int,
    stop: int,
    preprocessing: Preprocessing | TextPreprocessing,
    augment: tuple[str, ...] = (),
    workers: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """The batches of steps `start` to `stop - 1`; a run resumes by its next `start`.

    Args:
      split: the training examples.
      seed: seeds the order and the augmentation.
      batch_size: over all processes.
      start: first step.
      stop: one after the last step.
      preprocessing: the model's; augmentation runs after its resize and before its normalisation. A leading `crop`
        replaces the resize.
      augment: names in `AUGMENTATIONS`; for images.
      workers: processes; 0 for threads. A script that sets it needs the `if __name__ == "__main__"` guard of `spawn`.
      rows: the b positions in a batch that this process reads, in their order; None: all of them.

    Yields:
      {"image": float32 [b, h, w, c], "label": int32 or float32 [b], or bool [b, classes]}. Texts have, instead
      of the image, `TEXT_INPUTS`, each int32 [b, length], where the length is one of the model's buckets.

    Raises:
      InputError: a bad argument at once; an unreadable image when its batch is due.
    """
    if not len(split):
        raise InputError("expected training examples, found none; check the data's train split")
    check_kind(split, preprocessing, augment)
    rows = _rows(batch_size, rows)
    if isinstance(preprocessing, TextPreprocessing):
        tokens = tokenize(split, preprocessing)
        batch = _TrainTextBatch(tokens, split.labels, preprocessing.buckets, batch_size, rows, seed)
    else:
        batch = _TrainBatch(split, preprocessing, batch_size, rows, seed, tuple(augment))
    return _iterate(batch, start, stop, workers)


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    preprocessing: Preprocessing | TextPreprocessing,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """The split once, in order, in batches of one static size: the last is padded with copies of the first example.

    Yields:
      {"image": float32 [b, h, w, c], "label": [b, ...], "mask": float32 [b], 1 for an example and 0 for padding}.
      Texts have, instead of the image, `TEXT_INPUTS`, padded to the smallest bucket that holds the batch's longest.
    """
    check_kind(split, preprocessing)
    rows = _rows(batch_size, rows)
    if isinstance(preprocessing, TextPreprocessing):
        batch = _EvalTextBatch(tokenize(split, preprocessing), split.labels, preprocessing.buckets, batch_size, rows)
    else:
        batch = _EvalBatch(split, preprocessing, batch_size, rows)
    return _iterate(batch, 0, -(-len(split) // batch_size), 0)


def check_kind(split: Split, preprocessing: Preprocessing | TextPreprocessing, augment: tuple[str, ...] = ()) -> None:
    """`InputError` if an image model is given texts or the reverse, or if texts are to be augmented."""
    augmentations(augment)
    wants, has = isinstance(preprocessing, TextPreprocessing), isinstance(split.origin()[0], Texts)
    kinds = {False: "images", True: "texts"}
    if wants != has:
        raise InputError(f"the model reads {kinds[wants]}, the data source has {kinds[has]}; choose another of the two")
    if wants and augment:
        raise InputError(f"data.augment={tuple(augment)} is of images, the data source has texts; remove it")


@dataclass(frozen=True, eq=False, repr=False)
class _TrainBatch(grain.transforms.Map):
    """Step -> batch; pickled into the worker processes."""

    split: Split
    preprocessing: Preprocessing
    batch_size: int
    rows: np.ndarray
    seed: int
    augment: tuple[str, ...]

    def map(self, step: int) -> Batch:
        step = int(step)
        chosen = batch_indices(self.seed, step, size=len(self.split), batch_size=self.batch_size)
        images = np.empty((len(self.rows), *self.preprocessing.size), np.float32)
        for place, position in zip(images, map(int, self.rows), strict=True):  # each while it is still in the cache
            normalize(self._image(step, position, int(chosen[position])), self.preprocessing, out=place)
        return {"image": images, "label": self.split.labels[chosen[self.rows]]}

    def _image(self, step: int, position: int, row: int) -> np.ndarray:
        if not self.augment:
            return fit(self.split.fetch(row), self.preprocessing)
        rng = example_rng(self.seed, step, position)
        return augmented(self.split.picture(row), self.augment, rng, self.preprocessing)


@dataclass(frozen=True, eq=False, repr=False)
class _EvalBatch(grain.transforms.Map):
    """Batch number -> batch."""

    split: Split
    preprocessing: Preprocessing
    batch_size: int
    rows: np.ndarray

    def map(self, number: int) -> Batch:
        chosen = int(number) * self.batch_size + self.rows
        real = chosen < len(self.split)
        chosen = np.where(real, chosen, 0)
        images = [fit(self.split.fetch(int(row)), self.preprocessing) for row in chosen[real]]
        if not real.all():
            images += [fit(self.split.fetch(0), self.preprocessing)] * int((~real).sum())
        pixels = normalize(np.stack(images), self.preprocessing)
        return {"image": pixels, "label": self.split.labels[chosen], "mask": real.astype(np.float32)}


@dataclass(frozen=True, eq=False, repr=False)
class _TrainTextBatch(grain.transforms.Map):
    """Step -> batch; pickled into the worker processes."""

    tokens: Tokens
    labels: np.ndarray
    buckets: tuple[int, ...]
    batch_size: int
    rows: np.ndarray
    seed: int

    def map(self, step: int) -> Batch:
        chosen, length = bucketed_indices(
            self.seed, int(step), lengths=self.tokens.lengths, buckets=self.buckets, batch_size=self.batch_size
        )
        chosen = chosen[self.rows]
        return {**self.tokens.padded(chosen, length), "label": self.labels[chosen]}


@dataclass(frozen=True, eq=False, repr=False)
class _EvalTextBatch(grain.transforms.Map):
    """Batch number -> batch."""

    tokens: Tokens
    labels: np.ndarray
    buckets: tuple[int, ...]
    batch_size: int
    rows: np.ndarray

    def map(self, number: int) -> Batch:
        together = int(number) * self.batch_size + np.arange(self.batch_size)
        together = np.where(together < len(self.labels), together, -1)
        # The bucket of the whole batch, so that every host pads to the same length.
        length = bucket_of(self.tokens.lengths[np.maximum(together, 0)], self.buckets)
        chosen = together[self.rows]
        real, chosen = chosen >= 0, np.maximum(chosen, 0)
        inputs = self.tokens.padded(chosen, length)
        return {**inputs, "label": self.labels[chosen], "mask": real.astype(np.float32)}


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
