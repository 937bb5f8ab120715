"""The tokens of a split, as its reader: batches of them, padded to one length, augmented in training."""

from __future__ import annotations

import functools
from collections.abc import Callable
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
      reread: (example, a function of a text, tokens at most) -> (ids, types) of its rewritten text; None where words
        or windows are given.
    """

    ids: np.ndarray
    types: np.ndarray
    starts: np.ndarray
    tokenizer: Vocabulary
    words: np.ndarray | None = None
    stream: Stream = Stream.AUGMENT
    reread: Callable[[int, Callable[[str], str], int], tuple[np.ndarray, np.ndarray]] | None = None

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
            found = self._augmented(row, draw, i, length)
            ids[i, : len(found)], types[i, : len(found)], mask[i, : len(found)] = found[:, 0], found[:, 1], 1
            words[i, : len(found)] = found[:, 2]
        extra = {} if self.words is None else {"words": words, "vocabulary": self.tokenizer}
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, **extra}

    def _augmented(self, row: int, draw: Draw | None, i: int, length: int) -> np.ndarray:
        """The i-th example of a batch, int [tokens, 3]: ids, types, words (-1 where they are not kept)."""
        own = slice(self.starts[row], self.starts[row + 1])
        ids, types = self.ids[own], self.types[own]
        words = np.full(len(ids), -1) if self.words is None else self.words[own]
        if draw is None or not draw.augment:
            return np.stack([ids, types, words], 1)
        rng, entries = draw.rng(i, self.stream), augmentations(draw.augment)
        if rewriting := [entry for entry in entries if entry.kind.rewrite]:
            if self.reread is None or self.words is not None:
                name = rewriting[0].name
                raise InputError(f"data.augment: {name} rewrites texts, the task reads their words; remove it")

            def rewritten(text: str) -> str:
                return functools.reduce(lambda x, entry: entry.kind.rewrite(rng, x, **entry.options), rewriting, text)

            ids, types = self.reread(row, rewritten, length)
            words = np.full(len(ids), -1)
        tokens = np.stack([ids, np.zeros_like(ids), types, words], 1)
        for entry in entries:
            tokens[:, 1] = ~np.isin(tokens[:, 0], (*self.tokenizer.special, MASKED))
            for change in entry.changes(rng, (int(tokens[:, 1].sum()),)):
                if change.moves and self.words is not None:
                    raise InputError(f"data.augment: {entry.name} loses words that the task labels; remove it")
                tokens = change.apply(tokens, "")
        masked = tokens[:, 0] == MASKED
        if masked.any():
            if self.tokenizer.mask is None:
                raise InputError("data.augment: the tokenizer has no mask token for token_mask; remove it")
            tokens[masked, 0] = self.tokenizer.mask
        return tokens[:, [0, 2, 3]]


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
