"""Encoding: how the examples of one column become a model's input fields; one file a modality in `encodings/`.

A port holds its encodings, and the loader binds each to a split (`reader`). What is drawn at random for an example
comes from `Draw`, so that an image and its mask are flipped alike, by functions that know nothing of each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from jaxfer.data.order import Stream, example_rng
from jaxfer.data.split import Dataset, Split

Fields = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Draw:
    """The randomness of a training batch: a function of (seed, step, position), not of who loads it.

    Attributes:
      seed: the run's.
      step: counted from 0.
      positions: int [b], the places of the examples in the global batch.
      augment: entries of `data.augment`, in this order.
      number: of the stream of data (`order.numbered`); 0 is the main one.
    """

    seed: int
    step: int
    positions: np.ndarray
    augment: tuple[str, ...] = ()
    number: int = 0

    def rng(self, i: int, stream: Stream = Stream.AUGMENT) -> np.random.Generator:
        """A new generator for the i-th of these examples; each call gives the same numbers again."""
        return example_rng(self.seed, self.step, int(self.positions[i]), stream, self.number)


class Reader(Protocol):
    """An encoding bound to a split; picklable, and read by several threads.

    Attributes:
      lengths: int [n], by which examples are grouped into buckets; None where all have one shape.
    """

    lengths: np.ndarray | None

    def __call__(self, rows: np.ndarray, length: int | None, draw: Draw | None) -> Fields:
        """The fields of these rows of the split, [b, ...] each.

        Args:
          rows: int [b].
          length: what examples are padded to; None without `lengths`.
          draw: of a training batch; None in evaluation, where nothing is random.
        """
        ...


class Encoding(Protocol):
    """Static facts about a model's input, and how examples become it. Hashable: part of the port.

    Optional: `check(split)`, an `InputError` if the split's examples can't become it, before anything is compiled;
    `fitted(train)`, {model option: value} of what it takes from the training split, {} where nothing is left open.

    Attributes:
      column: name of the column it reads.
      noun: what that holds, in messages ("images").
      buckets: lengths that batches are padded to, rising; () where all examples have one shape.
      augments: whether `data.augment` acts on it.
      features: what `flat` gives, in the names of simple baselines ("pixels").
    """

    column: str
    noun: str
    buckets: tuple[int, ...]
    augments: bool
    features: str

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch's input fields, of the longest bucket. The first is the model's `x`."""
        ...

    def reader(self, split: Split) -> Reader:
        """Binds it to a split; `InputError` if what it needs (a tokenizer) isn't there."""
        ...

    def notes(self, data: Dataset, sample: int) -> tuple[str, ...]:
        """Lines for the user about what it leaves out of these data; a `sample` of a split's examples, 0: all."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """{name: value} of what limits its inputs, for a model card."""
        ...

    def flat(self, split: Split) -> np.ndarray:
        """What a simple baseline reads: float32 [n, features], or whole texts, objects [n] of str."""
        ...


def stated(encoding: Encoding) -> dict[str, Any]:
    """What an encoding makes of an example; a tokenizer is known by its content, not by its folder."""
    fields = dataclasses.asdict(encoding) if dataclasses.is_dataclass(encoding) else {"encoding": repr(encoding)}
    fields.pop("tokenizer", None)
    return {"column": encoding.column, **fields}
