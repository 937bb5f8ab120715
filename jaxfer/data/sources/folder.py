"""Images in folders: the name of a file's folder is its class."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image

from jaxfer.data.encodings.pixels import opened, pixels, verify
from jaxfer.data.index import Look
from jaxfer.data.sources import classfolders
from jaxfer.data.sources.grouped import grouped
from jaxfer.data.split import Dataset

FORMATS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def source(
    *,
    path: str = "",
    test_fraction: float = 0.0,
    suffixes: tuple[str, ...] = FORMATS,
    nested: bool = False,
    group: tuple[str, ...] = (),
    group_table: str = "metadata.tsv",
) -> Dataset:
    """PATH/{train,val,test}/CLASS/*.jpg, or PATH/CLASS/*.jpg if all images are `train`.

    The folder is listed whenever the source is made, and the header of every file read: a file that is no image stops
    the run before it starts. What was read is kept for the process, and on disk for the next one (`jaxfer cache`): only
    files whose size, times or inode changed are opened again. Files that are left out are counted in the notes.

    The fingerprint covers each file's relative name, its size, and its first and last 4 KiB, not all of its content,
    which would take minutes for a large set: a change in the middle of a file that keeps its size goes unseen. It holds
    no times, so a copy of the folder has the same one.

    Args:
      path: the folder; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is no test folder.
      suffixes: the files that are read as images, by the ends of their names in lower case; "" reads those without.
      nested: whether images in folders below a class folder are read too.
      group: columns of `group_table` whose fields name an image's group, `sex` or `label,background`: metrics are told
        apart by it (`worst_group_accuracy`), and no model reads it.
      group_table: a .csv, .tsv or .jsonl in the folder, with a column `file`, relative to the folder.

    Raises:
      InputError: no such folder, no classes, a class without images, an unreadable image, or classes that differ.
    """
    data = classfolders.dataset(
        path, _images, source="folder", test_fraction=test_fraction, suffixes=suffixes, nested=nested
    )
    return grouped(data, group_table, group) if group else data


class Files(classfolders.Files):
    """A column of image files."""

    kind: ClassVar[str] = "image"

    def picture(self, row: int) -> Image.Image:
        return opened(self.root / self.names[row])

    def __getitem__(self, row: int) -> np.ndarray:
        return pixels(self.picture(row))


def checked(files: Look, name: str) -> None:
    """`verify`, where the file is not known to be an image."""
    files.fact(name, "image", lambda file: verify(file) or True)


def _images(files: Look, names: tuple[str, ...]) -> Files:
    """The column, every header read."""
    for name in names:
        checked(files, name)
    return Files(files.root, names)
