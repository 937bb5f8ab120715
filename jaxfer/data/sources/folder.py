"""Images in folders: the name of a file's folder is its class."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from jaxfer.data.encodings.pixels import opened, pixels, verify
from jaxfer.data.index import Look
from jaxfer.data.lookup import fingerprint
from jaxfer.data.sources import classfolders
from jaxfer.data.sources.captioned import captioned
from jaxfer.data.sources.grouped import grouped
from jaxfer.data.split import Dataset
from jaxfer.errors import InputError

FORMATS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def source(
    *,
    path: str = "",
    test_fraction: float = 0.0,
    suffixes: tuple[str, ...] = FORMATS,
    nested: bool = False,
    exif_orientation: bool | None = None,
    bad_rows: int | str | None = None,
    group: tuple[str, ...] | None = None,
    group_table: str | None = None,
    prompts: tuple[str, ...] | None = None,
    names: tuple[str, ...] | None = None,
) -> Dataset:
    """PATH/{train,val,test}/CLASS/*.jpg, or PATH/CLASS/*.jpg if all images are `train`.

    The validation folder may be called `val`, `dev`, `valid` or `validation`.

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
      exif_orientation: false leaves photographs as they are stored; otherwise they are turned upright as their EXIF
        orientation says, which a note counts.
      bad_rows: number of unreadable files (no image, or cut short) that may be left out, with a note; `skip`: any
        number; otherwise the first one stops the run.
      group: columns of `group_table` whose fields name an image's group, `sex` or `label,background`: metrics are told
        apart by it (`worst_group_accuracy`), and no model reads it.
      group_table: `metadata.tsv`, or another .csv, .tsv or .jsonl in the folder, with a column `file`, relative to it.
      prompts: `a photo of a {}.`: the text of each image is its class's name in one of these, which its images take in
        turn, for models that read both images and texts. Without any, there are no texts.
      names: of the classes in `prompts`, in the order of the classes; otherwise those of the folders.

    Raises:
      InputError: no such folder, no classes, a class without images, an unreadable image, or classes that differ.
    """
    upright = exif_orientation is not False
    data = classfolders.dataset(
        path,
        _upright if upright else _stored,
        source="folder",
        test_fraction=test_fraction,
        suffixes=suffixes,
        nested=nested,
        check=checked,
        bad_rows=bad_rows,
    )
    data = with_orientation(data)
    if prompts:
        data = captioned(data, prompts, names or ())
    elif names:
        raise InputError(f"data.names are for data.prompts, of which there are none, found {names}; remove them")
    return grouped(data, group_table or "metadata.tsv", group) if group else data


@dataclass(frozen=True, eq=False, repr=False)
class Files(classfolders.Files):
    """A column of image files.

    Attributes:
      turned: how many are turned upright, as their EXIF orientation says; None leaves all as they are stored.
    """

    turned: int | None = None
    kind: ClassVar[str] = "image"

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the files' content, and of whether some are turned."""
        content = super().sha256
        return fingerprint([content, "upright"]) if self.turned else content

    def picture(self, row: int) -> Image.Image:
        return opened(self.root / self.names[row], upright=self.turned is not None)

    def __getitem__(self, row: int) -> np.ndarray:
        return pixels(self.picture(row))


def with_orientation(data: Dataset) -> Dataset:
    """The data with a note on the images that are turned upright; only where there are such, they change its
    fingerprint."""
    columns = {id(split.columns["image"]): split.columns["image"] for split in data.splits.values()}.values()
    turned, total = sum(column.turned or 0 for column in columns), sum(map(len, columns))
    if not turned:
        return data
    note = f"{turned:,} of {total:,} images are turned upright by their EXIF orientation"
    note += "; data.exif_orientation=false leaves them as stored"
    return dataclasses.replace(
        data, notes=(*data.notes, note), fingerprint=fingerprint([data.fingerprint, "exif_orientation"])
    )


def checked(files: Look, name: str) -> int:
    """`verify`, where the file is not known to be an image."""
    return files.fact(name, "image", verify)


def images(files: Look, names: tuple[str, ...], upright: bool) -> Files:
    """The column, every header read."""
    turned = sum([checked(files, name) > 1 for name in names])
    return Files(files.root, names, turned if upright else None)


def _upright(files: Look, names: tuple[str, ...]) -> Files:
    return images(files, names, True)


def _stored(files: Look, names: tuple[str, ...]) -> Files:
    return images(files, names, False)
