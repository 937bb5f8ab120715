"""Long texts in windows: a pair whose second text is longer than the model's input becomes several inputs.

They are those of transformers' tokenizers with `truncation="only_second"`, `return_overflowing_tokens` and `stride`:
each holds the whole first text and a part of the second, of which it shares `stride` tokens with the window before.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxfer.data.encodings.text import CHUNK, Encoded, TextEncoding, Texts, check_ids
from jaxfer.data.encodings.tokenizers import load_tokenizer, read_sha256
from jaxfer.data.lookup import fingerprint
from jaxfer.data.split import Picked, Split
from jaxfer.errors import InputError


class Window(NamedTuple):
    """One window.

    Attributes:
      encoded: its tokens.
      begins: int32 [tokens], where in the second text a token begins, in Unicode characters; -1 for other tokens.
      ends: int32 [tokens], likewise, where it ends.
    """

    encoded: Encoded
    begins: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Windows:
    """A column of windows, tokenized.

    Attributes:
      windows: in the order of their examples.
      examples: int64 [windows], the example that each is part of, by its place in the split that was windowed.
    """

    windows: tuple[Window, ...]
    examples: np.ndarray

    kind: ClassVar[str] = "text"

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, row: int) -> Window:
        return self.windows[row]

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the tokens and their places."""
        return fingerprint(part for window in self.windows for part in (window.encoded.ids, window.begins, window.ends))

    def encoded(self, rows: np.ndarray) -> list[Encoded]:
        """The tokens of these windows, which `TextEncoding` takes as they are."""
        return [self.windows[row].encoded for row in rows]


def windowed(split: Split, encoding: TextEncoding, stride: int) -> Split:
    """The windows of a split of pairs: column `text` of `Windows`; the other columns give each that of its example.

    Args:
      split: pairs of texts.
      encoding: the model's.
      stride: tokens of the second text that two neighbouring windows share.

    Raises:
      InputError: no pairs, a first text that leaves no room, or a tokenizer that knows no places.
    """
    column = split.columns["text"]
    if getattr(column, "second", None) is None:
        raise InputError(f"expected pairs of texts, found {column.noun}; choose another data source or task")
    tokenizer, _ = load_tokenizer(encoding)
    limits = (encoding.max_length, encoding.vocab, encoding.types, stride)
    with _LOCK:
        table = _table(column.sha256, read_sha256(tokenizer.name_or_path), limits)
        missing = [int(row) for row in np.unique(split.rows) if int(row) not in table]
        for begin in range(0, len(missing), CHUNK):
            for row, window in _windows(tokenizer, column, missing[begin : begin + CHUNK], encoding, stride):
                table[row] = (*table.get(row, ()), window)
        found = [table[int(row)] for row in split.rows]
    examples = np.repeat(np.arange(len(split)), [len(windows) for windows in found])
    picked = {name: Picked(other, split.rows[examples]) for name, other in split.columns.items() if name != "text"}
    return Split.whole(text=Windows(tuple(window for windows in found for window in windows), examples), **picked)


_LOCK = threading.Lock()


@functools.lru_cache(maxsize=8)
def _table(data: str, tokenizer: str, limits: tuple[Any, ...]) -> dict[int, tuple[Window, ...]]:
    """{row: its windows} of one source's content under one tokenizer, filled on demand."""
    return {}


def _windows(
    tokenizer: Any, source: Texts, rows: list[int], encoding: TextEncoding, stride: int
) -> Iterator[tuple[int, Window]]:
    """(row, window) of each window of these rows, in order."""
    if not tokenizer.is_fast:
        name = type(tokenizer).__name__
        raise InputError(f"expected a tokenizer that knows the places of tokens, found {name}; save its tokenizer.json")
    first, second = [source.first[row] for row in rows], [source.second[row] for row in rows]
    whole = [len(ids) for ids in tokenizer(first, add_special_tokens=False, verbose=False)["input_ids"]]
    room = encoding.max_length - tokenizer.num_special_tokens_to_add(pair=True) - stride - 1
    if max(whole) > room:
        longest = first[int(np.argmax(whole))]
        raise InputError(
            f"expected questions of at most {room} tokens (config.model.max_length={encoding.max_length} less "
            f"config.task.stride={stride} and special ones), found {max(whole)} in {longest!r:.60}; change one of these"
        )
    cut = tokenizer(
        first,
        second,
        truncation="only_second",
        max_length=encoding.max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        padding=False,
        verbose=False,
    )
    for i, (example, ids, types) in enumerate(
        zip(cut["overflow_to_sample_mapping"], cut["input_ids"], cut["token_type_ids"], strict=True)
    ):
        check_ids(ids, types, encoding)
        context = np.asarray([part == 1 for part in cut.sequence_ids(i)])
        places = np.where(context[:, None], np.asarray(cut["offset_mapping"][i], np.int32), -1)
        encoded = Encoded(np.asarray(ids, np.int32), np.asarray(types, np.int8), np.zeros(0, np.int32), whole=len(ids))
        yield rows[example], Window(encoded, places[:, 0], places[:, 1])
