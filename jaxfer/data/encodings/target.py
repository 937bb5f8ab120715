"""Target texts of encoder-decoders: what the decoder reads, shifted right, and the tokens that it has to give."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.encodings.text import CHUNK
from jaxfer.data.encodings.tokenizers import load_tokenizer
from jaxfer.data.lookup import fingerprint
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError

TARGET = "target_text"  # name and kind of the column of target texts
NONE = -1  # a target beyond the end of a text


@dataclass(frozen=True, eq=False, repr=False)
class Targets:
    """A column of target texts."""

    values: tuple[str, ...]
    kind: ClassVar[str] = TARGET

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> str:
        return self.values[row]

    @property
    def sha256(self) -> str:
        """sha256 (hex) of the texts."""
        return fingerprint([TARGET, *self.values])


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetEncoding:
    """How a target text becomes what a decoder reads: a start token, given ones, the text's, and the one that ends it.

    Where a split has no target texts, which are asked for, the decoder reads the start and the given tokens alone.

    Attributes:
      tokenizer: folder of a Hugging Face tokenizer; ignored in comparisons, as `TextEncoding`'s.
      tokenizer_sha256: of its files; empty takes them as they are.
      vocab: rows of the model's token embedding.
      max_length: longest target in tokens, given ones and the last included.
      start: token that the decoder begins with.
      prefix: tokens that follow it in every text.
      end: token that ends a text.
      pad: token that follows it.
      column: the model's input, beside which the target lies.
    """

    tokenizer: str = dataclasses.field(compare=False)
    tokenizer_sha256: str
    vocab: int
    max_length: int
    start: int
    prefix: tuple[int, ...]
    end: int
    pad: int
    column: str

    noun: ClassVar[str] = "targets"
    buckets: ClassVar[tuple[int, ...]] = ()
    augments: ClassVar[bool] = False
    features: ClassVar[str] = "targets"

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"decoder_input_ids": jax.ShapeDtypeStruct((n, self.max_length), "int32")}

    def reader(self, split: Split) -> TargetReader:
        if TARGET not in split.columns:
            return TargetReader(self, None)
        column = split.columns[TARGET]
        return TargetReader(self, tuple(self.tokens([column[int(row)] for row in split.rows])))

    def tokens(self, texts: list[str]) -> Iterator[np.ndarray]:
        """int32 [tokens] of each text: the given ones, its own, the end; a long text is cut before the end."""
        tokenizer, _ = load_tokenizer(self)
        room = self.max_length - len(self.prefix) - 1
        for begin in range(0, len(texts), CHUNK):
            chunk = texts[begin : begin + CHUNK]
            for ids in tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]:
                if ids and max(ids) >= self.vocab:
                    raise InputError(
                        f"the tokenizer gave token {max(ids)}, the model has {self.vocab}; set config.model.tokenizer "
                        "to the model's own"
                    )
                yield np.asarray([*self.prefix, *ids[:room], self.end], np.int32)

    def spelled(self, ids: np.ndarray) -> list[str]:
        """The texts of token ids [n, tokens], without special tokens and what follows the end."""
        tokenizer, texts = load_tokenizer(self)[0], []
        for row in ids.tolist():
            row = row[: row.index(self.end)] if self.end in row else row
            texts.append(tokenizer.decode([token for token in row if token >= 0], skip_special_tokens=True).strip())
        return texts

    def notes(self, data: Dataset, sample: int) -> tuple[str, ...]:
        """A line if targets are longer than `max_length`."""
        longest, cut, total = 0, 0, 0
        for split in data.splits.values():
            if TARGET not in split.columns:
                continue
            rows = np.arange(len(split))
            if sample and len(split) > sample:
                rows = np.linspace(0, len(split) - 1, sample).astype(np.int64)
            whole = dataclasses.replace(self, max_length=10**9)
            lengths = [len(ids) for ids in whole.tokens([split.example(TARGET, int(row)) for row in rows])]
            longest, cut = max(longest, *lengths), cut + sum(length > self.max_length for length in lengths)
            total += len(lengths)
        if not cut:
            return ()
        return (
            f"{cut:,} of {total:,} targets are cut at {self.max_length} tokens, the longest has {longest:,}; "
            "config.model.target_length sets it",
        )

    def facts(self) -> dict[str, Any]:
        return {"target_length": self.max_length}

    def flat(self, split: Split) -> np.ndarray:
        raise InputError("targets are no input of a simple baseline")


@dataclass(frozen=True, eq=False, repr=False)
class TargetReader:
    """The targets of a split; None where it has none."""

    encoding: TargetEncoding
    targets: tuple[np.ndarray, ...] | None
    lengths: ClassVar[None] = None

    def __call__(self, rows: np.ndarray, length: int | None = None, draw: Draw | None = None) -> Fields:
        """int32 [b, max_length]: `decoder_input_ids`, and for the task `target_ids`, the token after each or `NONE`."""
        encoding = self.encoding
        ids = np.full((len(rows), encoding.max_length), encoding.pad, np.int32)
        after = np.full_like(ids, NONE)
        for i, row in enumerate(rows):
            target = None if self.targets is None else self.targets[row]
            before = encoding.prefix if target is None else target[:-1]  # a decoder never reads the end
            ids[i, : len(before) + 1] = (encoding.start, *before)
            if target is not None:
                after[i, : len(target)] = target
        return {"decoder_input_ids": ids, "target_ids": after}
