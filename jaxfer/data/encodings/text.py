"""Texts from rows to model input: each text is tokenized once, and batches are padded to a bucket's length.

Sources yield a text or a pair of texts. Token ids are kept per (content, tokenizer, length), so runs of other seeds and
label counts in one process share them.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from jaxfer.data.encodings.tokenizers import borrows_padding, load_tokenizer, read_sha256
from jaxfer.data.encodings.tokens import TEXT_INPUTS, Apart, Tokens, Vocabulary
from jaxfer.data.lookup import fingerprint
from jaxfer.data.order import Stream
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError

CHUNK = 1000  # texts per call of the tokenizer
SEPARATOR = " ||| "  # between the texts of a pair; a token, so that no bigram reaches from one into the other


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoding:
    """How a text, or a pair of texts, becomes the model's input: the checkpoint's tokenizer, cut at `max_length`.

    Attributes:
      tokenizer: folder of a Hugging Face tokenizer; empty where none has been named yet. Ignored in comparisons: a
        copied tokenizer is the same model, and shares its compiled programs.
      tokenizer_sha256: sha256 (hex) of its files, the tokenizer's identity; empty takes the folder as it is.
      vocab: rows of the model's token embedding.
      types: token types the model tells apart; 0: it reads none.
      max_length: longest input in tokens, special ones included.
      buckets: lengths that batches are padded to, rising; the last is `max_length`. One program is compiled for each.
      words: whether the word of each token is kept too, for targets that are made from it.
      apart: whether the two texts of a pair are read each on its own: fields are then [batch, 2, length].
    """

    tokenizer: str = dataclasses.field(compare=False)
    tokenizer_sha256: str
    vocab: int
    types: int
    max_length: int
    buckets: tuple[int, ...]
    words: bool = False
    apart: bool = False

    column: ClassVar[str] = "text"
    noun: ClassVar[str] = "texts"
    augments: ClassVar[bool] = True
    features: ClassVar[str] = "TF-IDF"

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        texts = (2,) if self.apart else ()
        return dict.fromkeys(TEXT_INPUTS, jax.ShapeDtypeStruct((n, *texts, self.max_length), "int32"))

    def reader(self, split: Split) -> Tokens | Apart:
        if self.apart:
            first, second = (tokenize(part, self) for part in _apart(split))
            return Apart((first, dataclasses.replace(second, stream=Stream.AUGMENT_SECOND)))
        return tokenize(split, self)

    def notes(self, data: Dataset, sample: int) -> tuple[str, ...]:
        """A line if texts are longer than `max_length` and so get truncated, and one on a borrowed padding token."""
        tokenizer, _ = load_tokenizer(self)
        padding = f"the tokenizer has no padding token: texts are padded with {tokenizer.pad_token!r}, which ends them"
        borrowed = (padding,) if borrows_padding(tokenizer) else ()
        truncated, longest = [], 0
        for name, split in data.splits.items():
            rows = np.arange(len(split))
            if sample and len(split) > sample:
                rows = np.linspace(0, len(split) - 1, sample).astype(np.int64)
            parts = _apart(split.take(rows)) if self.apart else (split.take(rows),)
            lengths = np.max([whole_lengths(part, self) for part in parts], axis=0)
            if count := int(np.sum(lengths > self.max_length)):
                longest = max(longest, int(lengths.max()))
                sampled = " sampled" if len(rows) < len(split) else ""
                truncated.append(f"{count:,} of {len(rows):,}{sampled} in {name}")
        if not truncated:
            return borrowed
        limit = f"cut at {self.max_length} tokens, the longest has {longest:,}; config.model.max_length sets it"
        return (f"texts are {limit} ({', '.join(truncated)})", *borrowed)

    def facts(self) -> dict[str, Any]:
        return {"max_length": self.max_length}

    def flat(self, split: Split) -> np.ndarray:
        """Whole texts, the two of a pair joined, objects [n] of str."""
        examples = (split.example("text", row) for row in range(len(split)))
        joint = " " if isinstance(split.columns["text"], Words) else SEPARATOR
        return np.array([text if isinstance(text, str) else joint.join(text) for text in examples], object)


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """A column of texts, or of pairs as tuples.

    Attributes:
      first: the texts.
      second: the second texts of pairs; None for single texts.
      sha256: sha256 (hex) of both, the cache key of their token ids.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    sha256: str

    kind: ClassVar[str] = "text"

    @property
    def noun(self) -> str:
        """What it holds, in messages."""
        return "texts" if self.second is None else "pairs of texts"

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, row: int) -> str | tuple[str, str]:
        return self.first[row] if self.second is None else (self.first[row], self.second[row])

    def name(self, row: int) -> str:
        """The text; those of a pair with a tab between them, as `predict` reads them."""
        return self.first[row] if self.second is None else f"{self.first[row]}\t{self.second[row]}"

    key_bytes = 0  # keys are computed without reading files

    def key(self, row: int) -> Hashable:
        """A key that is equal for equal texts."""
        return self[row]

    def loose(self, row: int) -> Hashable:
        """A key that is equal for texts that differ in case and spaces alone."""
        parts = (self.first[row],) if self.second is None else (self.first[row], self.second[row])
        return tuple(" ".join(part.casefold().split()) for part in parts)


@dataclass(frozen=True, eq=False, repr=False)
class Words:
    """A column of sentences that are split into words.

    Attributes:
      sentences: the words of each.
    """

    sentences: tuple[tuple[str, ...], ...]

    kind: ClassVar[str] = "text"
    noun: ClassVar[str] = "sentences of words"
    second: ClassVar[None] = None
    key_bytes: ClassVar[int] = 0

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, row: int) -> tuple[str, ...]:
        return self.sentences[row]

    def key(self, row: int) -> Hashable:
        """A key that is equal for equal sentences."""
        return self[row]

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the words."""
        return fingerprint(part for words in self.sentences for part in (*words, "sentence"))


def texts(first: tuple[str, ...], second: tuple[str, ...] | None = None) -> Texts:
    """`Texts` of texts or pairs, with the sha256 of their content."""
    return Texts(first, second, fingerprint([*first, "pairs" if second is not None else "single", *(second or ())]))


class Encoded(NamedTuple):
    """One text, cut at `max_length`.

    Attributes:
      ids: int32 [tokens].
      types: int8 [tokens], segments.
      words: int32 [tokens], as in `Tokens`; empty if not kept.
      whole: number of tokens before the cut.
    """

    ids: np.ndarray
    types: np.ndarray
    words: np.ndarray
    whole: int


def _apart(split: Split) -> tuple[Split, Split]:
    """The first and the second texts of a split of pairs, as splits."""
    column = split.columns["text"]
    if column.second is None:
        fix = "name the column of the second texts, as data.text_pair, or choose another task"
        raise InputError(f"expected pairs of texts, found {column.noun}; {fix}")
    first, second = (Split(columns={"text": texts(part)}, rows=split.rows) for part in (column.first, column.second))
    return first, second


def tokenize(split: Split, encoding: TextEncoding) -> Tokens:
    """The token ids of a split of `Texts`, cut at `max_length`; texts seen in this process are not tokenized again.

    Raises:
      InputError: there is no tokenizer, or it is not the model's.
    """
    column = split.columns["text"]
    ready = hasattr(column, "encoded")  # windows come with their tokens
    encoded = column.encoded(split.rows) if ready else _encoded(split, encoding)
    tokenizer, _ = load_tokenizer(encoding)
    starts = np.cumsum([0, *(len(example.ids) for example in encoded)], dtype=np.int64)
    empty = (np.zeros(0, np.int32), np.zeros(0, np.int8), np.zeros(0, np.int32))
    ids, types, words = (np.concatenate([empty[i], *(example[i] for example in encoded)]) for i in range(3))
    special = tuple(sorted(tokenizer.all_special_ids))
    vocabulary = Vocabulary(tokenizer.pad_token_id, tokenizer.mask_token_id, len(tokenizer), special)
    reread = None if ready or isinstance(column, Words) else functools.partial(_reread, split, encoding)
    return Tokens(ids, types, starts, vocabulary, words if encoding.words else None, reread=reread)


def whole_lengths(split: Split, encoding: TextEncoding) -> np.ndarray:
    """Tokens of each example before the cut at `max_length`, int64 [examples]; `tokenize` reuses the tokens."""
    return np.asarray([example.whole for example in _encoded(split, encoding)], np.int64)


def _reread(
    split: Split, encoding: TextEncoding, row: int, rewrite: Callable[[str], str], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """(ids, types) of an example's rewritten text, or texts, cut at so many tokens."""
    given = split.example("text", row)
    first, *second = (given,) if isinstance(given, str) else given
    column = Texts((rewrite(first),), tuple(map(rewrite, second)) or None, "")
    tokenizer, _ = load_tokenizer(encoding)
    with _LOCK:  # a tokenizer's limits are its state
        (found,) = _encode(tokenizer, column, [0], dataclasses.replace(encoding, max_length=length))
    return found.ids, found.types


def _encoded(split: Split, encoding: TextEncoding) -> list[Encoded]:
    source, rows = split.columns["text"], split.rows
    tokenizer, _ = load_tokenizer(encoding)
    limits = (source.second is not None, encoding.max_length, encoding.vocab, encoding.types, encoding.words)
    with _LOCK:
        table = _table(source.sha256, read_sha256(tokenizer.name_or_path), limits)
        missing = [int(row) for row in np.unique(rows) if int(row) not in table]
        for begin in range(0, len(missing), CHUNK):
            chunk = missing[begin : begin + CHUNK]
            table.update(zip(chunk, _encode(tokenizer, source, chunk, encoding), strict=True))
        return [table[int(row)] for row in rows]


_LOCK = threading.Lock()


@functools.lru_cache(maxsize=8)
def _table(data: str, tokenizer: str, limits: tuple[Any, ...]) -> dict[int, Encoded]:
    """{row: its tokens} of one source's content under one tokenizer, filled on demand."""
    return {}


def _encode(
    tokenizer: Callable[..., Any], source: Texts | Words, rows: list[int], encoding: TextEncoding
) -> Iterator[Encoded]:
    longest = encoding.max_length
    special = tokenizer.num_special_tokens_to_add(pair=source.second is not None)
    if longest <= special:
        raise InputError(
            f"config.model.max_length={longest} leaves no room for text: the tokenizer adds {special} special tokens; "
            f"set it to at least {special + 1}"
        )
    cut = _read_ids(tokenizer, source, rows, truncation=True, max_length=longest)
    # Only an example exactly as long as the limit may have been cut.
    full = [row for row, ids in zip(rows, cut["input_ids"], strict=True) if len(ids) >= longest]
    whole = dict(zip(full, _read_ids(tokenizer, source, full, truncation=False)["input_ids"], strict=True))
    for i, (row, ids, types) in enumerate(zip(rows, cut["input_ids"], cut["token_type_ids"], strict=True)):
        if not ids:  # an empty text, where the tokenizer adds no tokens of its own
            ids, types = [tokenizer.pad_token_id], [0]
        check_ids(ids, types, encoding)
        words = [-1 if word is None else word for word in cut.word_ids(i) or [None]] if encoding.words else []
        yield Encoded(
            ids=np.asarray(ids, np.int32),
            types=np.asarray(types, np.int8),
            words=np.asarray(words, np.int32),
            whole=len(whole.get(row, ids)),
        )


def check_ids(ids: Sequence[int], types: Sequence[int], encoding: TextEncoding) -> None:
    """`InputError` if a tokenizer's answer is not of the model."""
    if max(ids) >= encoding.vocab or encoding.types and max(types) >= encoding.types:
        raise InputError(
            f"the tokenizer gave token {max(ids)} of type {max(types)}, the model has {encoding.vocab} tokens "
            f"and {encoding.types} types; set config.model.tokenizer to the model's own"
        )


def _read_ids(
    tokenizer: Callable[..., Any], source: Texts | Words, rows: list[int], **options: Any
) -> Mapping[str, Any]:
    """The tokenizer's answer for these rows, as its `options` say: `input_ids`, `token_type_ids`, lists of lists."""
    if not rows:
        return {"input_ids": [], "token_type_ids": []}
    if isinstance(source, Words):
        given: tuple[Any, ...] = ([list(source[row]) for row in rows],)
        options["is_split_into_words"] = True
    else:
        pairs = () if source.second is None else ([source.second[row] for row in rows],)
        given = ([source.first[row] for row in rows], *pairs)
    return tokenizer(
        *given,
        padding=False,
        return_token_type_ids=True,
        return_attention_mask=False,
        verbose=False,
        **options,
    )
