"""The tokens of a split, as its reader: batches of them, padded to one length, augmented in training."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.encodings.augment import MASKED, augmentations
from jaxfer.data.order import Stream
from jaxfer.errors import InputError

# The input fields of a text model, int32 [batch, length]: token ids, 1 for a token and 0 for padding, segments.
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Vocabulary(NamedTuple):
    """Ids of a tokenizer.

    Attributes:
      pad: the padding token's.
      mask: the mask token's; None if it has none.
      rows: number of tokens.
      special: ids of all special tokens: padding, separators, masks, unknown words.
    """

    pad: int
    mask: int | None
    rows: int
    special: tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Tokens:
    """Token ids of a split, ragged, as its reader: example i holds `ids[starts[i] : starts[i + 1]]`.

    Attributes:
      ids: int32 [tokens of all examples].
      types: int8, likewise; the segment of each token.
      starts: int64 [examples + 1].
      tokenizer: what targets need to know of it.
      words: int32, likewise: which word of its text a token is part of, -1 for special tokens; None if not kept.
      stream: of the draws that augment them.
    """

    ids: np.ndarray
    types: np.ndarray
    starts: np.ndarray
    tokenizer: Vocabulary
    words: np.ndarray | None = None
    stream: Stream = Stream.AUGMENT

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [examples]: the table by which batches are grouped."""
        return np.diff(self.starts)

    def __call__(self, rows: np.ndarray, length: int, draw: Draw | None = None) -> Fields:
        """`TEXT_INPUTS`, each int32 [b, length]; with kept words also `words`, padded with -1, and `vocabulary`."""
        ids = np.full((len(rows), length), self.tokenizer.pad, np.int32)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        words = np.full_like(ids, -1)
        for i, row in enumerate(rows):
            own, places = self._augmented(row, draw, i)
            count = len(own)
            ids[i, :count], types[i, :count], mask[i, :count] = own, self.types[places], 1
            if self.words is not None:
                words[i, :count] = self.words[places]
        extra = {} if self.words is None else {"words": words, "vocabulary": self.tokenizer}
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, **extra}

    def _augmented(self, row: int, draw: Draw | None, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids of an example's tokens, their places in all tokens), the i-th of its batch."""
        places = np.arange(self.starts[row], self.starts[row + 1])
        ids = self.ids[places]
        if draw is None or not draw.augment:
            return ids, places
        rng = draw.rng(i, self.stream)
        for entry in augmentations(draw.augment):
            free = ~np.isin(ids, (*self.tokenizer.special, MASKED))
            for change in entry.changes(rng, (int(free.sum()),)):
                if change.moves and self.words is not None:
                    raise InputError(f"data.augment: {entry.name} loses words that the task labels; remove it")
                kept = change.apply(np.stack([ids, free, places], 1), "")
                ids, places = kept[:, 0].astype(np.int32), kept[:, 2]
        if MASKED not in ids:
            return ids, places
        if self.tokenizer.mask is None:
            raise InputError("data.augment: the tokenizer has no mask token for token_mask; remove it")
        ids[ids == MASKED] = self.tokenizer.mask
        return ids, places


@dataclass(frozen=True, eq=False, repr=False)
class Apart:
    """The reader of pairs whose texts are read each on its own.

    Attributes:
      parts: the tokens of the first texts and of the second ones.
    """

    parts: tuple[Tokens, ...]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of the longer text of each pair, int64 [examples]."""
        return np.maximum(*(part.lengths for part in self.parts))

    def __call__(self, rows: np.ndarray, length: int, draw: Draw | None = None) -> Fields:
        """`TEXT_INPUTS`, each int32 [b, 2, length]."""
        first, second = (part(rows, length, draw) for part in self.parts)
        return {name: np.stack([first[name], second[name]], 1) for name in TEXT_INPUTS}
