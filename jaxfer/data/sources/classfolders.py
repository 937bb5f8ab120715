"""Files in folders of classes, of whatever kind: listed, labelled by their folder, fingerprinted. Shared by sources."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from jaxfer.data.lookup import fingerprint, locate, stamp
from jaxfer.data.order import Stream, draw
from jaxfer.data.split import Array, Column, Dataset, Split
from jaxfer.errors import InputError

SPLITS = ("train", "val", "test")
END = 4096  # bytes of each end of a file that the fingerprint covers

# Reasons to leave out a file, each with a fix.
SUFFIX, NESTED, BESIDE, HIDDEN = "by suffix", "in folders below a class", "beside the class folders", "as hidden"
REASONS = {
    SUFFIX: "data.suffixes lists those to read",
    NESTED: "data.nested=true reads them",
    BESIDE: "move them into one",
    HIDDEN: "rename those that start with a dot to read them",
}

# {suffix: the source that reads it}, for the error about a folder of the other kind.
READ_BY = {".wav": "sounds", ".jpg": "folder", ".jpeg": "folder", ".png": "folder"}


@dataclass(frozen=True, eq=False, repr=False)
class Files:
    """A column of files; a subclass has the `kind` and decodes a row.

    Attributes:
      root: the data's folder.
      names: the files, relative to it.
    """

    root: Path
    names: tuple[str, ...]
    key_bytes: ClassVar[int] = 2 * END

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the files' content, which is read whole."""
        return fingerprint(self.exact(row) for row in range(len(self)))

    def key(self, row: int) -> Hashable:
        """A key that is equal for files of the same size, first and last 4 KiB."""
        return _ends(self.root / self.names[row])

    def exact(self, row: int) -> Hashable:
        """A key that is equal for files of the same content."""
        return hashlib.blake2b((self.root / self.names[row]).read_bytes(), digest_size=16).digest()


def dataset(
    path: str,
    make: Callable[[Path, tuple[str, ...]], Column],
    *,
    source: str,
    test_fraction: float,
    suffixes: tuple[str, ...],
    nested: bool,
) -> Dataset:
    """The data of PATH/{train,val,test}/CLASS/*, or PATH/CLASS/*, where all is `train`.

    Args:
      path: as `data.path` has it.
      make: (root, the names of a split's files) -> their column, named by its kind; `InputError` for a bad file.
      source: the source's name.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is no test folder.
      suffixes: the files to read, by the ends of their names in lower case; "" reads those without.
      nested: whether folders below a class folder are read too.

    Raises:
      InputError: no such folder, no classes, a class without files, or classes that differ.
    """
    root = locate(path, source)
    if not root.is_dir():
        raise InputError(f"expected a folder of class folders, found the file {str(root)!r}; correct data.path")
    for suffix in suffixes:
        if suffix and (not suffix.startswith(".") or suffix != suffix.lower()):
            raise InputError(f"expected data.suffixes such as '.jpg', in lower case, found {suffix!r}")
    roots = _split_folders(root)
    listing = _Listing(root, tuple(suffixes), nested, Counter(), source)
    trees = {split: listing.classes(where) for split, where in roots.items()}
    for beside in {root, *roots.values()}:
        listing.beside(beside)
    classes = tuple(sorted(trees["train"]))
    for split, tree in trees.items():
        for name in tree:
            if name not in classes:
                where = str(roots[split] / name)
                raise InputError(f"expected the classes of train, found {where!r}; remove it or add it to train")
    names = sorted(name for tree in trees.values() for files in tree.values() for name in files)
    version, settled = stamp(root / name for name in names)
    opened = _opened if settled else _opened.__wrapped__
    listed = tuple((split, name, tuple(files)) for split, tree in trees.items() for name, files in tree.items())
    splits, content = opened(root, listed, classes, make, test_fraction, version)
    provenance = {split: f"{where.name}/" if where != root else "every class folder" for split, where in roots.items()}
    if test_fraction:
        provenance["test"] = f"drawn from train: data.test_fraction={test_fraction:g}"
    return Dataset(
        splits=splits,
        classes=classes,
        fingerprint=content,
        notes=listing.notes(),
        provenance=provenance,
        listed=root,
    )


@functools.lru_cache(maxsize=4)
def _opened(
    root: Path,
    listed: tuple[tuple[str, str, tuple[str, ...]], ...],
    classes: tuple[str, ...],
    make: Callable[[Path, tuple[str, ...]], Column],
    test_fraction: float,
    version: tuple,
) -> tuple[dict[str, Split], str]:
    """(the splits, the fingerprint): what reads every file, once a process for all runs that are made of these.

    Args:
      root: the data's folder.
      listed: (split, class, its files) each.
      classes: their names in order.
      make: as in `dataset`.
      test_fraction: likewise.
      version: the cache key, which changes with the files.
    """
    trees: dict[str, dict[str, tuple[str, ...]]] = {}
    for split, name, files in listed:
        trees.setdefault(split, {})[name] = files
    splits = {split: _split(root, tree, classes, make) for split, tree in trees.items()}
    if test_fraction:
        splits |= _with_test(splits, test_fraction)
    # Linux keeps names as bytes, which need not be UTF-8.
    names = sorted(name for _, _, files in listed for name in files)
    parts = (part for name in names for part in (name.encode(errors="surrogateescape"), *_ends(root / name)))
    return splits, fingerprint(itertools.chain(parts, [f"test_fraction={test_fraction}"]))


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _split_folders(root: Path) -> dict[str, Path]:
    folders = _folders(root)
    if not set(folders) & set(SPLITS):
        return {"train": root}
    other = sorted(set(folders) - set(SPLITS))
    if other or "train" not in folders:
        problem = f"also {other[0]!r}" if other else "no train"
        raise InputError(f"expected folders train, val and test in {str(root)!r}, found {problem}; rename or remove")
    return {name: root / name for name in SPLITS if name in folders}


@dataclass(frozen=True)
class _Listing:
    """The content of `root`: the files of each class, and a count of those that are not read.

    Attributes:
      root: the data's folder.
      suffixes: of the files to read.
      nested: whether to read folders below class folders.
      skipped: {(why, suffix): files}, filled while the folders are listed.
      source: the source's name.
    """

    root: Path
    suffixes: tuple[str, ...]
    nested: bool
    skipped: Counter[tuple[str, str]]
    source: str

    @property
    def noun(self) -> str:
        """What the files hold, in messages."""
        return {"folder": "images"}.get(self.source, self.source)

    def classes(self, where: Path) -> dict[str, list[str]]:
        """{class: files relative to root, sorted}."""
        tree = {}
        for name in _folders(where):
            if not _is_utf8(name):
                raise InputError(f"expected class folders named in UTF-8, found {str(where / name)!r}; rename it")
            files = sorted(self._files(where / name, ()))
            if not files:
                raise InputError(self._empty(where / name))
            tree[name] = [file.relative_to(self.root).as_posix() for file in files]
        if not tree:
            raise InputError(
                f"expected class folders in {str(where)!r}, found none; put each class's {self.noun} in a folder"
            )
        return tree

    def beside(self, where: Path) -> None:
        """Counts the files that lie beside the class folders."""
        for file in where.iterdir():
            if not file.is_dir() and file.suffix.lower() in self.suffixes and not file.name.startswith("."):
                self.skipped[BESIDE, file.suffix.lower()] += 1

    def notes(self) -> tuple[str, ...]:
        """One line for each reason that files were left out."""
        lines = []
        for why, fix in REASONS.items():
            counts = {suffix: n for (reason, suffix), n in self.skipped.items() if reason == why and n}
            if counts:
                suffixes = ", ".join(f"{counts[suffix]} {suffix or 'without a suffix'}" for suffix in sorted(counts))
                total = sum(counts.values())
                lines.append(f"{total} {'file' if total == 1 else 'files'} left out {why} ({suffixes}); {fix}")
        return tuple(lines)

    def _empty(self, folder: Path) -> str:
        """The error text for a class folder without files to read."""
        inner, other = _folders(folder), sorted({e.suffix.lower() for e in folder.iterdir() if e.is_file()} - {""})
        if inner:
            fix = f"it has folders ({inner[0]}): set data.path one level down, or data.nested=true"
        elif other:
            known = next((READ_BY[suffix] for suffix in other if READ_BY.get(suffix, self.source) != self.source), "")
            reads = f"data.source={known!r} reads those" if known else "list the suffixes to read in data.suffixes"
            fix = f"it has {' '.join(other[:5])}: {reads}"
        else:
            fix = "add some or remove it"
        return f"expected {self.noun} ({' '.join(self.suffixes)}) in {str(folder)!r}, found none; {fix}"

    def _files(self, folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
        """The files of a class to read; the others are counted. `above`: the folders from the class folder down."""
        resolved = folder.resolve()
        if resolved in above:  # a link to a folder that is being listed
            return
        for entry in folder.iterdir():
            suffix, hidden = entry.suffix.lower(), entry.name.startswith(".")
            if entry.is_dir():
                if not hidden:
                    yield from self._files(entry, (*above, resolved))
            elif suffix not in self.suffixes:
                self.skipped[SUFFIX, suffix] += not hidden
            elif hidden:
                self.skipped[HIDDEN, suffix] += 1
            elif above and not self.nested:
                self.skipped[NESTED, suffix] += 1
            else:
                yield entry


def _ends(file: Path) -> tuple[str, bytes]:
    """(size in bytes, the first and last 4 KiB), the whole file if it is no longer than both."""
    with open(file, "rb") as content:
        head = content.read(END)
        size = content.seek(0, os.SEEK_END)
        content.seek(max(len(head), size - END))
        return str(size), head + content.read()


def _split(
    root: Path,
    tree: Mapping[str, Sequence[str]],
    classes: tuple[str, ...],
    make: Callable[[Path, tuple[str, ...]], Column],
) -> Split:
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(tree.get(name, ())) for name in classes])
    column = make(root, tuple(file for name in classes for file in tree.get(name, ())))
    return Split.whole(**{column.kind: column, "label": Array(labels, "class")})


def _with_test(splits: dict[str, Split], fraction: float) -> dict[str, Split]:
    if "test" in splits:
        raise InputError(f"data.test_fraction={fraction} has no effect where a test folder exists; set it to 0")
    if not 0 < fraction < 1:
        raise InputError(f"expected data.test_fraction from 0 to below 1, found {fraction}")
    test, train = draw(splits["train"].labels, seed=0, stream=Stream.TEST, fraction=fraction)
    return {"test": splits["train"].take(test), "train": splits["train"].take(train)}
