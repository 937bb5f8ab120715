"""Files in folders of classes, of whatever kind: listed, labelled by their folder, fingerprinted. Shared by sources."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxfer.data import index
from jaxfer.data.index import Look
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.order import Stream, draw
from jaxfer.data.sources.rows import allowed, judged
from jaxfer.data.sources.splitfiles import NAMED, SPLITS
from jaxfer.data.split import Array, Column, Dataset, Split
from jaxfer.errors import InputError

END = 4096  # bytes of each end of a file that the fingerprint covers
ENDS = "ends"  # the fact of a file's size and ends

# A bad file raises `InputError`; `file` of `Look.fact`, so that one that was read is not opened again.
Check = Callable[[Look, str], Any]
# (files, the names of a split's) -> their column, named by its kind; `InputError` for a bad file.
Make = Callable[[Look, tuple[str, ...]], Column]

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

    def name(self, row: int) -> str:
        """The file, relative to the data's folder."""
        return self.names[row]

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the files' content, which is read whole where it is not known."""
        content = fingerprint(self.exact(row) for row in range(len(self)))
        index.keep()
        return content

    def key(self, row: int) -> Hashable:
        """A key that is equal for files of the same size, first and last 4 KiB."""
        return index.fact(self.root, self.names[row], ENDS, lambda file: _digest(*ends(file)))

    def exact(self, row: int) -> bytes:
        """A key that is equal for files of the same content."""
        return bytes.fromhex(index.fact(self.root, self.names[row], "content", lambda file: _digest(file.read_bytes())))


def dataset(
    path: str,
    make: Make,
    *,
    source: str,
    test_fraction: float,
    suffixes: tuple[str, ...],
    nested: bool,
    check: Check,
    bad_rows: int | str | None,
    only: tuple[str, ...] = (),
) -> Dataset:
    """The data of PATH/{train,val,test}/CLASS/*, or PATH/CLASS/*, where all is `train`.

    Args:
      path: as `data.path` has it.
      make: the column of a split.
      source: the source's name.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is no test folder.
      suffixes: the files to read, by the ends of their names in lower case; "" reads those without.
      nested: whether folders below a class folder are read too.
      check: whether a file can be read, by its header.
      bad_rows: how many may not be, as `rows.allowed` takes it.
      only: `data.names`: parts of file names, one of which a file has to have; (): all are read. A split without such
        files is as if it had no folder.

    Raises:
      InputError: no such folder, no classes, a class without files, or classes that differ.
    """
    limit = allowed(bad_rows)
    root = locate(path, source)
    if not root.is_dir():
        raise InputError(f"expected a folder of class folders, found the file {str(root)!r}; correct data.path")
    for suffix in suffixes:
        if suffix and (not suffix.startswith(".") or suffix != suffix.lower()):
            raise InputError(f"expected data.suffixes such as '.jpg', in lower case, found {suffix!r}")
    roots = _split_folders(root)
    listing = _Listing(root, tuple(suffixes), nested, Counter(), source)
    trees = {split: listing.classes(where) for split, where in roots.items()}
    if only:
        trees = _named(trees, only)
        roots = {split: where for split, where in roots.items() if split in trees}
    for beside in {root, *roots.values()}:
        listing.beside(beside)
    classes = tuple(sorted(trees["train"]))
    for split, tree in trees.items():
        for name in tree:
            if name not in classes:
                where = str(roots[split] / name)
                raise InputError(f"expected the classes of train, found {where!r}; remove it or add it to train")
    names = sorted(name for tree in trees.values() for files in tree.values() for name in files)
    files = index.look(root, names)
    try:
        left = unreadable(files, check, limit, listing.noun) if limit else {}
        if left:  # as if they were not there
            files = index.look(root, [name for name in names if name not in left])
            trees = {split: _without(tree, left) for split, tree in trees.items()}
        splits, content = files.made(
            (classes, make, test_fraction), lambda: _opened(files, trees, classes, make, test_fraction)
        )
    finally:
        index.keep()
    provenance = {split: f"{where.name}/" if where != root else "every class folder" for split, where in roots.items()}
    if test_fraction:
        provenance["test"] = f"drawn from train: data.test_fraction={test_fraction:g}"
    notes = (*listing.notes(), *judged(list(left.values()), len(names), root, limit, listing.noun))
    return Dataset(
        splits=splits,
        classes=classes,
        fingerprint=content,
        notes=notes,
        bad=tuple(left.values()),
        provenance=provenance,
        listed=root,
    )


def unreadable(files: Look, check: Check, limit: float, noun: str) -> dict[str, str]:
    """{file: what is wrong with it} of those that `check` refuses; `InputError` for more than `limit`."""
    bad = {}
    for name in files.stamps:
        try:
            check(files, name)
        except InputError as error:
            bad[name] = f"{name}: {str(error).rpartition('; ')[0]}"
    judged(list(bad.values()), len(files.stamps), files.root, limit, noun)
    return bad


def _named(trees: Mapping[str, Mapping[str, Sequence[str]]], parts: tuple[str, ...]) -> dict[str, Any]:
    """The trees of files that have one of these parts in their names, without splits that have none."""
    every = [file for tree in trees.values() for files in tree.values() for file in files]
    for part in parts:
        if not part or not any(part in Path(file).name for file in every):
            example = repr(Path(every[0]).name) if every else "none"
            raise InputError(f"data.names: expected parts of file names such as {example}, found {part!r}")
    found = {}
    for split, tree in trees.items():
        kept = {name: [x for x in files if any(part in Path(x).name for part in parts)] for name, files in tree.items()}
        empty = next((name for name, files in kept.items() if not files), None)
        if split == "train" and empty is not None and any(kept.values()):
            raise InputError(f"data.names={parts}: class {empty!r} of train has no such file; name more")
        if any(kept.values()):
            found[split] = {name: files for name, files in kept.items() if files}
    if "train" not in found:
        raise InputError(f"data.names={parts} leaves nothing to train on; name files of train too")
    return found


def _without(tree: Mapping[str, Sequence[str]], left: Container[str]) -> dict[str, list[str]]:
    """{class: its files} without those left out; `InputError` for a class without any other."""
    kept = {name: [file for file in names if file not in left] for name, names in tree.items()}
    for name, names in kept.items():
        if not names:
            raise InputError(f"class {name!r} has no readable file; replace them or remove its folder")
    return kept


def _opened(
    files: Look,
    trees: Mapping[str, Mapping[str, Sequence[str]]],
    classes: tuple[str, ...],
    make: Make,
    test_fraction: float,
) -> tuple[dict[str, Split], str]:
    """(the splits, the fingerprint) of trees {split: {class: its files}}; the other arguments as in `dataset`."""
    splits = {split: _split(files, tree, classes, make) for split, tree in trees.items()}
    if test_fraction:
        splits |= _with_test(splits, test_fraction)
    about = f"test_fraction={test_fraction}"
    return splits, files.sum(about, lambda: fingerprint(itertools.chain(named_ends(files, files.stamps), [about])))


def named_ends(files: Look, names: Iterable[str]) -> Iterator[str | bytes]:
    """Name, size and ends of each file, for a fingerprint."""
    for name in names:
        size, data = ends(files.root / name)
        files.fact(name, ENDS, lambda _, found=(size, data): _digest(*found))  # so that `key` need not open it
        yield from (name.encode(errors="surrogateescape"), size, data)  # Linux keeps names as bytes


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _split_folders(root: Path) -> dict[str, Path]:
    """{split: its folder}, by the names in `splitfiles.SPLITS`; all is `train` where none is so called."""
    folders = _folders(root)
    if not set(folders) & SPLITS.keys():  # `valid` and `dev` alone may be classes
        return {"train": root}
    other = sorted(set(folders) - NAMED.keys())
    found: dict[str, list[str]] = {}
    for name in folders:
        found.setdefault(NAMED.get(name, ""), []).append(name)
    twice = next((" and ".join(names) for split, names in found.items() if split and len(names) > 1), "")
    if other or twice or "train" not in found:
        problem = f"also {other[0]!r}" if other else f"both {twice}" if twice else "no train"
        raise InputError(f"expected folders train, val and test in {str(root)!r}, found {problem}; rename or remove")
    return {split: root / found[split][0] for split in SPLITS if split in found}


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
            prefix = (where / name).relative_to(self.root).as_posix()
            files = sorted(self._files(prefix, ()), key=_parts if self.nested else None)
            if not files:
                raise InputError(self._empty(where / name))
            tree[name] = files
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

    def _files(self, folder: str, above: tuple[str, ...]) -> Iterator[str]:
        """The files of a class to read, relative to root; the others are counted.

        Paths are strings here: a hundred thousand `Path`s take seconds.

        Args:
          folder: relative to root.
          above: the resolved folders from the class folder down.
        """
        resolved = os.path.realpath(self.root / folder)
        if resolved in above:  # a link to a folder that is being listed
            return
        with os.scandir(self.root / folder) as entries:
            for entry in entries:
                suffix, hidden, name = _suffix(entry.name), entry.name.startswith("."), f"{folder}/{entry.name}"
                # A link in a circle is no folder; `entry.is_dir` would raise.
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    if not hidden:
                        yield from self._files(name, (*above, resolved))
                elif suffix not in self.suffixes:
                    self.skipped[SUFFIX, suffix] += not hidden
                elif hidden:
                    self.skipped[HIDDEN, suffix] += 1
                elif above and not self.nested:
                    self.skipped[NESTED, suffix] += 1
                else:
                    yield name


def _parts(name: str) -> list[str]:
    return name.split("/")


def _suffix(name: str) -> str:
    """`Path(name).suffix` in lower case."""
    stem, _, end = name.rpartition(".")
    return f".{end}".lower() if stem and end else ""


def _digest(*parts: str | bytes) -> str:
    """blake2b (hex, 16 bytes) of the parts."""
    data = b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def ends(file: Path) -> tuple[str, bytes]:
    """(size in bytes, the first and last 4 KiB), the whole file if it is no longer than both."""
    with open(file, "rb") as content:
        head = content.read(END)
        size = content.seek(0, os.SEEK_END)
        content.seek(max(len(head), size - END))
        return str(size), head + content.read()


def _split(files: Look, tree: Mapping[str, Sequence[str]], classes: tuple[str, ...], make: Make) -> Split:
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(tree.get(name, ())) for name in classes])
    column = make(files, tuple(file for name in classes for file in tree.get(name, ())))
    return Split.whole(**{column.kind: column, "label": Array(labels, "class")})


def _with_test(splits: dict[str, Split], fraction: float) -> dict[str, Split]:
    if "test" in splits:
        raise InputError(f"data.test_fraction={fraction} has no effect where a test folder exists; set it to 0")
    if not 0 < fraction < 1:
        raise InputError(f"expected data.test_fraction from 0 to below 1, found {fraction}")
    test, train = draw(splits["train"].labels, seed=0, stream=Stream.TEST, fraction=fraction)
    return {"test": splits["train"].take(test), "train": splits["train"].take(train)}
