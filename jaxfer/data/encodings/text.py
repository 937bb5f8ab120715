"""Texts from rows to model input: the checkpoint's tokenizer, each text once, batches padded to a bucket's length.

Sources yield a text or a pair of texts. Token ids are kept per (content, tokenizer, length), so runs of other seeds and
label counts in one process share them.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from jaxfer.data.encodings.spec import TextPreprocessing
from jaxfer.data.lookup import fingerprint
from jaxfer.data.split import Split
from jaxfer.errors import InputError

# What a tokenizer's folder may hold; the sha256 covers those that are there, whatever else lies beside them.
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)

CHUNK = 1000  # texts a call of the tokenizer


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """Fetches a text, or a pair as a tuple.

    Attributes:
      first: the texts.
      second: their partners; None for single texts.
      sha256: of both (hex), under which their token ids are kept.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    sha256: str

    def __call__(self, row: int) -> str | tuple[str, str]:
        return self.first[row] if self.second is None else (self.first[row], self.second[row])


def texts(first: tuple[str, ...], second: tuple[str, ...] | None = None) -> Texts:
    """Texts, or pairs of them, under the name of their content."""
    return Texts(first, second, fingerprint([*first, "pairs" if second is not None else "single", *(second or ())]))


@dataclass(frozen=True, eq=False, repr=False)
class Tokens:
    """Token ids of a split, ragged: example i holds `ids[starts[i] : starts[i + 1]]`; picklable, read by threads.

    Attributes:
      ids: int32 [tokens of all examples].
      types: int8, likewise; the segment of each token.
      starts: int64 [examples + 1].
      pad: id of the padding token.
    """

    ids: np.ndarray
    types: np.ndarray
    starts: np.ndarray
    pad: int

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [examples]: the table by which batches are grouped."""
        return np.diff(self.starts)

    def padded(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The model's input fields, each int32 [len(rows), length]."""
        ids = np.full((len(rows), length), self.pad, np.int32)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for i, row in enumerate(rows):
            begin, end = self.starts[row], self.starts[row + 1]
            ids[i, : end - begin] = self.ids[begin:end]
            types[i, : end - begin] = self.types[begin:end]
            mask[i, : end - begin] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def tokenize(split: Split, preprocessing: TextPreprocessing) -> Tokens:
    """The token ids of a split of `Texts`, cut at `max_length`; texts seen before in this process are not read again.

    Raises:
      InputError: there is no tokenizer, or it is not the model's.
    """
    source, rows = split.origin()
    tokenizer, sha256 = load_tokenizer(preprocessing)
    limits = (source.second is not None, preprocessing.max_length, preprocessing.vocab, preprocessing.types)
    with _LOCK:
        table = _table(source.sha256, sha256, limits)
        missing = [int(row) for row in np.unique(rows) if int(row) not in table]
        for begin in range(0, len(missing), CHUNK):
            chunk = missing[begin : begin + CHUNK]
            table.update(zip(chunk, _encode(tokenizer, source, chunk, preprocessing), strict=True))
        found = [table[int(row)] for row in rows]
    starts = np.cumsum([0, *(len(ids) for ids, _ in found)], dtype=np.int64)
    empty = (np.zeros(0, np.int32), np.zeros(0, np.int8))
    ids, types = (np.concatenate([empty[i], *(pair[i] for pair in found)]) for i in range(2))
    return Tokens(ids=ids, types=types, starts=starts, pad=tokenizer.pad_token_id)


_LOCK = threading.Lock()


@functools.lru_cache(maxsize=8)
def _table(data: str, tokenizer: str, limits: tuple[Any, ...]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{row: (ids, types)} of one source's content under one tokenizer, filled as rows are asked for."""
    return {}


def _encode(tokenizer: Callable[..., Any], source: Texts, rows: list[int], preprocessing: TextPreprocessing) -> Any:
    first = [source.first[row] for row in rows]
    pairs = () if source.second is None else ([source.second[row] for row in rows],)
    found = tokenizer(
        first,
        *pairs,
        truncation=True,
        max_length=preprocessing.max_length,
        padding=False,
        return_token_type_ids=True,
        return_attention_mask=False,
        verbose=False,
    )
    for ids, types in zip(found["input_ids"], found["token_type_ids"], strict=True):
        if max(ids) >= preprocessing.vocab or max(types) >= preprocessing.types:
            raise InputError(
                f"the tokenizer gave token {max(ids)} of type {max(types)}, the model has {preprocessing.vocab} tokens "
                f"and {preprocessing.types} types; name the model's own in config.model.tokenizer"
            )
        yield np.asarray(ids, np.int32), np.asarray(types, np.int8)


def tokenizer_sha256(folder: str | epath.Path) -> str:
    """sha256 (hex) over the tokenizer files in a folder, names and content; `InputError` where there is none."""
    folder = epath.Path(folder)
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        raise InputError(
            f"expected a tokenizer (tokenizer.json or vocab.txt, ...) in {str(folder)!r}, found none; "
            "correct config.model.tokenizer"
        )
    return fingerprint(part for file in files for part in (file.name, file.read_bytes()))


def load_tokenizer(preprocessing: TextPreprocessing) -> tuple[Any, str]:
    """(the Hugging Face tokenizer, sha256 of its files) that a model names.

    Raises:
      InputError: none is named, it can't be read, or it is not the model's: other files than the sha256 says, another
        number of tokens, or no padding token.
    """
    if not preprocessing.tokenizer:
        raise InputError("the model has no tokenizer; set config.model.tokenizer to a folder, or init to a checkpoint")
    folder = located(preprocessing.tokenizer)
    sha256, expected = tokenizer_sha256(folder), preprocessing.tokenizer_sha256
    if expected and sha256 != expected:
        raise InputError(
            f"the tokenizer in {str(folder)!r} has sha256 {sha256[:12]}, the model was made with {expected[:12]}; "
            "restore it, or name the model's own in config.model.tokenizer"
        )
    tokenizer = _read(str(folder), sha256)
    tokens, vocab = len(tokenizer), preprocessing.vocab
    # Embeddings are often padded a little beyond the tokenizer; much beyond is another model's tokenizer.
    if not 0.9 * vocab <= tokens <= vocab or tokenizer.pad_token_id is None:
        found = f"{tokens} tokens" + (" and no padding token" if tokenizer.pad_token_id is None else "")
        raise InputError(
            f"the tokenizer in {str(folder)!r} does not belong to the model: expected {vocab} tokens, found {found}; "
            "set config.model.tokenizer to the checkpoint's own (from scratch: config.model.vocab to its size)"
        )
    return tokenizer, sha256


def located(folder: str) -> Path:
    """As given, else under the folder that the environment variable JAXFER_DATA names; `InputError` if in neither."""
    given = Path(os.path.expanduser(folder))  # Path's own raises where there is no such user
    tried = [given, *([Path(os.environ["JAXFER_DATA"]) / folder] if os.environ.get("JAXFER_DATA") else [])]
    for candidate in tried:
        if candidate.is_dir():
            return candidate
    raise InputError(f"config.model.tokenizer: expected a folder, found nothing at {folder!r}; correct it")


@functools.lru_cache(maxsize=8)
def _read(folder: str, sha256: str) -> Any:
    """Read from the files alone: neither the network nor code beside them is ever asked."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # its word on a missing PyTorch
    from transformers import AutoTokenizer  # late: it takes a second, and image runs do without

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever its many readers raise on files that are not theirs
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"expected a tokenizer in {folder!r}, found {type(error).__name__} ({reason}); restore its files"
        ) from None
