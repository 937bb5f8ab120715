"""Tagged words in CoNLL files: a word and its tag on each line, a blank line between sentences."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from jaxfer.data import index
from jaxfer.data.encodings.text import Words
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.sources.rows import Bad, Dialect, allowed, judged
from jaxfer.data.sources.splitfiles import split_files
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError

FORMATS = (".conll", ".bio", ".iob", ".tsv", ".txt")
OUTSIDE = "O"
SCHEMES = ("iob", "none")
FIX = "correct them, choose the fields in data.word and data.tag"

Sentence = tuple[tuple[str, ...], tuple[str, ...]]  # words and tags


@dataclass(frozen=True, eq=False, repr=False)
class Tags:
    """A column of tags, one for each word.

    Attributes:
      names: of the tags.
      values: int32 [words] of each sentence, indices of `names`.
    """

    names: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    kind: ClassVar[str] = "tags"

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[row]

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of names and tags."""
        return fingerprint([*self.names, *self.values])


def source(
    *,
    path: str = "",
    train: str = "",
    val: str = "",
    test: str = "",
    word: int = 0,
    tag: int = -1,
    scheme: str = "iob",
    bad_rows: int | str | None = None,
) -> Dataset:
    """A folder with train.conll, dev.conll (or val, valid, validation) and test.conll, or one file that is all `train`.

    Fields are separated by tabs, or by spaces in a line without one. Lines that begin with `-DOCSTART-` end a sentence.

    Args:
      path: the folder or file; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      train: name of the file for `train` in the folder; empty: by its stem.
      val: likewise; `none`: leave it out, and draw from `train`.
      test: likewise.
      word: which field is the word, from 0.
      tag: which field is the tag; -1 is the last.
      scheme: `iob`: tags are O, B-TYPE and I-TYPE, as IOB1 and IOB2 have them; `none`: any names (parts of speech).
      bad_rows: number of sentences with a line of too few fields that may be left out, with a note; `skip`: any number.

    Raises:
      InputError: no such file, no sentences, more bad ones than allowed, tags of another scheme, or tags in another
        split that train does not have.
    """
    if scheme not in SCHEMES:
        raise InputError(f"expected data.scheme to be one of {', '.join(SCHEMES)}, found {scheme!r}")
    limit, root = allowed(bad_rows), locate(path, "conll")
    files, notes = split_files(root, {"train": train, "val": val, "test": test}, Dialect(delimiter="\t"), FORMATS)
    return _read(files, notes, root, word, tag, scheme, limit)


@index.once
def _read(
    files: Mapping[str, Path], notes: tuple[str, ...], root: Path, word: int, tag: int, scheme: str, limit: float
) -> Dataset:
    """The dataset in these files of the folder `root`; the other arguments as in `source`."""
    bad: list[str] = []
    sentences: dict[str, list[Sentence]] = {split: [] for split in files}
    for split, file in files.items():
        for found in _sentences(file, word, tag):
            if isinstance(found, Bad):
                bad.append(f"{file.name}:{found}")
            else:
                sentences[split].append(found)
    notes += judged(bad, sum(map(len, sentences.values())) + len(bad), root, limit, "sentences", FIX)
    for split, file in files.items():
        if not sentences[split]:
            raise InputError(f"expected tagged words in {str(file)!r}, found none; add some or remove the file")
    names = _names(sentences, files, scheme)
    numbers = {name: i for i, name in enumerate(names)}
    splits = {
        split: Split.whole(
            text=Words(tuple(words for words, _ in pairs)),
            tags=Tags(names, tuple(np.asarray([numbers[tag] for tag in tags], np.int32) for _, tags in pairs)),
        )
        for split, pairs in sentences.items()
    }
    parts = [part for name, split in splits.items() for part in (name, *(c.sha256 for c in split.columns.values()))]
    return Dataset(
        splits=splits,
        classes=names,
        fingerprint=fingerprint(parts),
        notes=notes,
        bad=tuple(bad),
        provenance={split: file.name for split, file in files.items()},
    )


def _sentences(file: Path, word: int, tag: int) -> Iterator[Sentence | Bad]:
    """Each sentence, or the line of it that can't be read and the reason."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"expected UTF-8 in {str(file)!r}, found {error.reason}; convert it") from None
    words: list[str] = []
    tags: list[str] = []
    bad: Bad | None = None
    for number, line in enumerate((*lines, ""), start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if bad or words:
                yield bad or (tuple(words), tuple(tags))
            words, tags, bad = [], [], None
            continue
        fields = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        if max(word, tag if tag >= 0 else -tag - 1) >= len(fields) or len(fields) < 2 or not fields[word].strip():
            bad = bad or Bad(f"{number} has no word and tag: {line.strip()!r:.60}")
            continue
        words.append(fields[word])
        tags.append(fields[tag].strip())


def _names(sentences: Mapping[str, list[Sentence]], files: Mapping[str, Path], scheme: str) -> tuple[str, ...]:
    """The tags of train, `O` first, then by type, `B-` before `I-`; checked in every split."""
    known = {tag for _, tags in sentences["train"] for tag in tags}
    for split, pairs in sentences.items():
        for tag in sorted({tag for _, tags in pairs for tag in tags}):
            prefix, dash, kind = tag.partition("-")
            if scheme == "iob" and tag != OUTSIDE and (prefix not in ("B", "I") or not dash or not kind):
                fix = "convert them, or set data.scheme=none where tags are no parts of entities"
                raise InputError(f"expected tags O, B-TYPE and I-TYPE in {str(files[split])!r}, found {tag!r}; {fix}")
            if tag not in known and not (scheme == "iob" and f"B-{kind}" in known):
                fix = "remove its sentences or add some to train"
                raise InputError(f"expected the tags of train, found {tag!r} in {str(files[split])!r}; {fix}")
            known.add(tag)
    return tuple(sorted(known, key=lambda tag: (tag != OUTSIDE, tag.partition("-")[2], tag)))
