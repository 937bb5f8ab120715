"""Images in folders: the name of a file's folder is its class."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jaxfer.data.encodings.image import opened, pixels, verify
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.order import Stream, draw
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError

FORMATS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SPLITS = ("train", "val", "test")
END = 4096  # bytes of each end of a file that the fingerprint covers


def source(*, path: str = "", test_fraction: float = 0.0) -> Dataset:
    """PATH/{train,val,test}/CLASS/*.jpg, or PATH/CLASS/*.jpg where all is `train`; .jpg .jpeg .png .bmp .webp.

    The folder is listed, and the header of every file read, whenever the source is made: a file that is no image stops
    the run before it starts. The fingerprint covers each file's relative name, its size, and its first and last 4 KiB,
    not all of its content, which would take minutes for a large set: a change in the middle of a file that keeps its
    size goes unseen. It holds no times, so a copy of the folder has the same one.

    Args:
      path: the folder; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is no test folder.

    Raises:
      InputError: no such folder, no classes, a class without images, an unreadable image, or classes that differ.
    """
    root = locate(path, "folder")
    if not root.is_dir():
        raise InputError(f"expected a folder of class folders, found the file {str(root)!r}; correct data.path")
    roots = _split_folders(root)
    trees = {split: _files(root, where) for split, where in roots.items()}
    classes = tuple(sorted(trees["train"]))
    for split, tree in trees.items():
        for name in tree:
            if name not in classes:
                where = str(roots[split] / name)
                raise InputError(f"expected the classes of train, found {where!r}; remove it or add it to train")
    splits = {split: _split(root, tree, classes) for split, tree in trees.items()}
    if test_fraction:
        splits |= _with_test(splits, test_fraction)
    names = sorted(name for tree in trees.values() for files in tree.values() for name in files)
    parts = (part for name in names for part in (name, *_ends(root / name)))
    content = fingerprint(itertools.chain(parts, [f"test_fraction={test_fraction}"]))
    return Dataset(splits=splits, classes=classes, fingerprint=content)


@dataclass(frozen=True, eq=False, repr=False)
class Files:
    """Fetches by decoding a file."""

    root: Path
    names: tuple[str, ...]

    def picture(self, row: int) -> Image.Image:
        return opened(self.root / self.names[row])

    def __call__(self, row: int) -> np.ndarray:
        return pixels(self.picture(row))


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _split_folders(root: Path) -> dict[str, Path]:
    found = _folders(root)
    if not set(found) & set(SPLITS):
        return {"train": root}
    other = sorted(set(found) - set(SPLITS))
    if other or "train" not in found:
        what = f"also {other[0]!r}" if other else "no train"
        raise InputError(f"expected folders train, val and test in {str(root)!r}, found {what}; rename or remove")
    return {name: root / name for name in SPLITS if name in found}


def _files(root: Path, where: Path) -> dict[str, list[str]]:
    """{class: image files relative to root, sorted}, every header read."""
    tree = {}
    for name in _folders(where):
        entries = (where / name).iterdir()
        files = sorted(e for e in entries if e.suffix.lower() in FORMATS and not e.name.startswith("."))
        if not files:
            inner = _folders(where / name)
            fix = f"it has folders ({inner[0]}): set data.path one level down" if inner else "add some or remove it"
            raise InputError(f"expected images ({' '.join(FORMATS)}) in {str(where / name)!r}, found none; {fix}")
        for file in files:
            verify(file)
        tree[name] = [file.relative_to(root).as_posix() for file in files]
    if not tree:
        raise InputError(f"expected class folders in {str(where)!r}, found none; put each class's images in a folder")
    return tree


def _ends(file: Path) -> tuple[str, bytes]:
    """(size in bytes, the first and last 4 KiB), the whole file if it is no longer than both."""
    with open(file, "rb") as content:
        head = content.read(END)
        size = content.seek(0, os.SEEK_END)
        content.seek(max(len(head), size - END))
        return str(size), head + content.read()


def _split(root: Path, tree: dict[str, list[str]], classes: tuple[str, ...]) -> Split:
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(tree.get(name, ())) for name in classes])
    return Split(labels=labels, fetch=Files(root, tuple(file for name in classes for file in tree.get(name, ()))))


def _with_test(splits: dict[str, Split], fraction: float) -> dict[str, Split]:
    if "test" in splits:
        raise InputError(f"data.test_fraction={fraction} has no effect where a test folder exists; set it to 0")
    if not 0 < fraction < 1:
        raise InputError(f"expected data.test_fraction from 0 to below 1, found {fraction}")
    test, train = draw(splits["train"].labels, seed=0, stream=Stream.TEST, fraction=fraction)
    return {"test": splits["train"].take(test), "train": splits["train"].take(train)}
