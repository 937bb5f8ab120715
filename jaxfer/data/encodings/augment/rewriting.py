"""Augmentation of texts by what the user supplies: synonyms of words, or paraphrases of whole texts."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.data.encodings.augment.augmentation import Augmentation
from jaxfer.data.lookup import locate, stamp
from jaxfer.errors import InputError

Table = Mapping[str, tuple[str, ...]]


def synonyms(rng: np.random.Generator, text: str, *, file: str, rate: float) -> str:
    """The text with each known word replaced, with this probability, by one of its synonyms.

    A text that the file names as a whole is replaced itself instead, likewise. (Wei and Zou, 2019, arXiv:1901.11196,
    replace by WordNet.) Words are looked up in lower case; a capital at the beginning of one is kept.

    Args:
      rng: of the example.
      text: one text; those of a pair are rewritten one after the other.
      file: lines `word TAB synonym TAB ...`, UTF-8; a relative one may lie in the folder that JAXFER_DATA names.
      rate: the probability.
    """
    table = read(file)
    if others := table.get(text):
        return str(rng.choice(others)) if rng.random() < rate else text

    def replaced(word: re.Match[str]) -> str:
        others = table.get(word[0].lower(), ())
        if not others or rng.random() >= rate:
            return word[0]
        other = str(rng.choice(others))
        return other[:1].upper() + other[1:] if word[0][0].isupper() else other

    return re.sub(r"\w+(?:['-]\w+)*", replaced, text)


def read(file: str) -> Table:
    """{word or text: what may take its place}.

    Raises:
      InputError: no such file, or a line that is no word with a synonym.
    """
    if not file:
        raise InputError("data.augment: synonyms needs file='PATH', with lines WORD TAB SYNONYM TAB ...")
    path = locate(file, "synonyms", "augment")
    if not path.is_file():
        raise InputError(f"data.augment: synonyms expects a file, {file!r} is a folder; name the file")
    version, _ = stamp([path])
    return _read(path, version)


@functools.lru_cache(maxsize=4)
def _read(path: Path, version: tuple[Any, ...]) -> Table:
    table: dict[str, tuple[str, ...]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, found a byte that is none ({error.reason})") from None
    for number, line in enumerate(lines, 1):
        key, *others = (part.strip() for part in line.split("\t"))
        if not line.strip():
            continue
        if not key or not all(others) or not others:
            raise InputError(f"{path}, line {number}: expected WORD TAB SYNONYM TAB ..., found {line[:60]!r}")
        table[key] = tuple(others)
    return table


REWRITING = {
    "synonyms": Augmentation(rewrite=synonyms, options={"file": ("", 0, 0), "rate": (0.1, 0, 1)}, of="text"),
}
