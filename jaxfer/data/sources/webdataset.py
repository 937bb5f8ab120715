"""Images in the tar files of WebDataset: members of one name are an example, its image and its label."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from jaxfer.data import index
from jaxfer.data.encodings.pixels import opened, pixels, verify
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.sources import classfolders, folder
from jaxfer.data.sources.about import About
from jaxfer.data.sources.imagerows import Asked, Content, How, Row, dataset
from jaxfer.data.sources.labels import Labels
from jaxfer.data.sources.rows import Bad, allowed
from jaxfer.data.sources.splitfiles import NAMED, SPLITS
from jaxfer.data.split import Column, Dataset
from jaxfer.errors import InputError

FORMATS = tuple(suffix.removeprefix(".") for suffix in folder.FORMATS)


def source(
    *,
    path: str = "",
    label: str = "cls",
    target: str = "class",
    separator: str = ";",
    group: tuple[str, ...] = (),
    time: str = "",
    exif_orientation: bool = True,
    bad_rows: int | str = 0,
    test_fraction: float = 0.0,
) -> Dataset:
    """PATH/*{train,val,test}*.tar, or PATH/{train,val,test}/*.tar, or tars of other names, which are all `train`.

    `val` may be called `dev`, `valid` or `validation`. Members whose paths are equal up to the first dot of their names
    are an example: `n01/0007.jpg` and `n01/0007.cls`. The tars are read at random, so they must not be compressed. They
    are listed once, and what was found is remembered, as for the source `folder`. The fingerprint covers the labels,
    and of each tar its name, its size, and its first and last 4 KiB.

    Args:
      path: the folder, or one tar; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      label: ending of the member with the label (`cls`, `txt`), or a field of the member `json`; empty: none is read.
      target: `class`, `value` for regression, or `labels` for a set of names: `a;b`, or a list in JSON.
      separator: between the names of a set.
      group: ending or field of the group of an example, or several, which together name it: metrics are
        told apart by it (`worst_group_accuracy`), and `data.val_by=group` keeps groups whole. No model reads it.
      time: likewise its time: a number, or a date as ISO 8601 has it.
      exif_orientation: whether photographs are turned upright as their EXIF orientation says, which a note counts.
      bad_rows: number of examples without a readable image or a label that may be left out, with a note; `skip`: any.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is none.

    Raises:
      InputError: no such folder, no tars, a tar that can't be read, or more bad examples than allowed.
    """
    if not 0 <= test_fraction < 1:
        raise InputError(f"expected data.test_fraction from 0 to below 1, found {test_fraction}; 0 is the default")
    root, limit = locate(path, "webdataset"), allowed(bad_rows)
    labels = Labels(column=label, target=target, separator=separator).check()
    asked = Asked(root, "", "", labels, "", About(group, time))
    tars = {f"{split} {i}": tar for split, found in _tars(root).items() for i, tar in enumerate(found)}
    return folder.with_orientation(_read(tars, asked, How(limit, exif_orientation, test_fraction)))


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """A column of images in tars.

    Attributes:
      tars: the files.
      places: int64 [n, 3], of each image: its tar, and its first byte and size in it.
      turned: how many are turned upright, as their EXIF orientation says; None leaves all as they are stored.
    """

    tars: tuple[Path, ...]
    places: np.ndarray
    turned: int | None = None
    kind: ClassVar[str] = "image"
    key_bytes: ClassVar[int] = 2 * classfolders.END

    def __len__(self) -> int:
        return len(self.places)

    def content(self, row: int) -> bytes:
        """The image file of a row."""
        tar, begin, size = self.places[row]
        return _bytes(self.tars[tar], begin, size)

    def picture(self, row: int) -> Image.Image:
        tar, begin, _ = self.places[row]
        name = f"the image at byte {begin} of {str(self.tars[tar])!r}"
        return opened(self.content(row), name, upright=self.turned is not None)

    def __getitem__(self, row: int) -> np.ndarray:
        return pixels(self.picture(row))

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the tars and the places."""

        def read(tar: Path) -> str:
            with open(tar, "rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest()

        content = [index.fact(tar.parent, tar.name, "content", read) for tar in self.tars]
        index.keep()
        return fingerprint([*content, self.places, *(["upright"] if self.turned else [])])

    def key(self, row: int) -> Hashable:
        """A key that is equal for images whose encoded bytes have the same length, start and end."""
        (tar, begin, size), end = self.places[row], classfolders.END
        last = _bytes(self.tars[tar], begin + max(0, size - end), min(end, size))
        return int(size), _bytes(self.tars[tar], begin, min(end, size)), last

    def exact(self, row: int) -> Hashable:
        """A key that is equal for images of the same encoded bytes."""
        return hashlib.blake2b(self.content(row), digest_size=16).digest()


def _tars(root: Path) -> dict[str, list[Path]]:
    """{split: its tars}."""
    if root.is_file():
        return {"train": [root]}
    folders = {NAMED[name]: sorted((root / name).glob("*.tar")) for name in NAMED if (root / name).is_dir()}
    if any(folders.values()):
        found = folders
    else:
        tars, found = sorted(root.glob("*.tar")), {}
        for tar in tars:
            words = re.split("[^a-z]+", tar.stem.lower())
            found.setdefault(next((NAMED[word] for word in words if word in NAMED), ""), []).append(tar)
        if set(found) == {""}:
            found = {"train": tars}
    if not found.get("train") or "" in found:
        problem = f"also {found[''][0].name}" if found.get("") else "none of train"
        raise InputError(f"expected tars such as train-000000.tar in {str(root)!r}, found {problem}; correct data.path")
    return {split: found[split] for split in SPLITS if found.get(split)}


@index.once
def _read(tars: Mapping[str, Path], asked: Asked, how: How) -> Dataset:
    """The dataset of {"SPLIT NUMBER": tar}, every image's header read."""
    rows: dict[str, list[Row]] = {name.partition(" ")[0]: [] for name in tars}
    bad, places, left, used = [], [], {}, {*asked.labels.used(), *asked.about.used()}
    files = tuple(tars.values())
    for number, (name, tar) in enumerate(tars.items()):
        found = index.fact(tar.parent, tar.name, f"webdataset {sorted(used)}", lambda file: _examples(file, used))
        for example, begin, size, header, record in found:
            try:
                if header is None:
                    raise Bad("has no image")
                label = asked.labels.read(record) if asked.labels.used() else None
                row = Row(f"{tar.name}/{example}", len(places), label, asked.about.read(record))
                rows[name.partition(" ")[0]].append(row)
                if isinstance(header, str):
                    left[len(places)] = header
                places.append((number, begin, size, 0 if isinstance(header, str) else header))
            except Bad as error:
                bad.append(f"{tar.name}/{example} {error}")
    index.keep()
    table = np.asarray(places, np.int64).reshape(-1, 4)

    def column(split: str, rows: Sequence[Row]) -> Column:
        chosen = table[[row.image for row in rows]]
        return Images(files, chosen[:, :3], int(np.sum(chosen[:, 3] > 1)) if how.upright else None)

    said = fingerprint(str(part) for split, found in rows.items() for part in (split, *(row[1:] for row in found)))
    named = {split: next(tar for name, tar in tars.items() if name.startswith(f"{split} ")) for split in rows}
    content = Content(named, {split: tuple(found) for split, found in rows.items()}, tuple(bad), (), "", said)
    ends = fingerprint(piece for file in files for piece in (file.name, *classfolders.ends(file)))
    data, counts = dataset(content, asked, how, left, column, ends), Counter(name.partition(" ")[0] for name in tars)
    more = {split: f"{named[split].name} and {count - 1} more" for split, count in counts.items() if count > 1}
    return dataclasses.replace(data, provenance={**data.provenance, **more})


def _examples(file: Path, used: set[str]) -> list[tuple[str, int, int, int | str | None, dict[str, Any]]]:
    """Of each example in a tar: its name, its image's first byte and size, the header, and the fields that are used.

    The header is the EXIF orientation as `verify` has it, or what is wrong with the image; None where there is none.
    """
    members: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                folder_name, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if member.isfile() and stem:
                    where = members.setdefault(f"{folder_name}/{stem}".lstrip("/"), {})
                    where[ending.lower()] = member.offset_data, member.size
    except tarfile.TarError as error:
        fix = "replace it, or pack it again without compression"
        raise InputError(f"expected a tar, not compressed, found {str(file)!r} ({error}); {fix}") from None
    examples = []
    for name, parts in members.items():
        image = next((parts[ending] for ending in parts if ending in FORMATS), None)
        begin, size = image or (0, 0)
        header = None if image is None else _header(_bytes(file, begin, size))
        examples.append((name, begin, size, header, _record(file, parts, used)))
    return examples


def _record(file: Path, parts: Mapping[str, tuple[int, int]], used: set[str]) -> dict[str, Any]:
    """{ending, or field of the JSON member: its text or value} of those that are used."""
    record = {}
    if "json" in parts and used - parts.keys():
        try:
            fields = json.loads(_bytes(file, *parts["json"]))
        except ValueError:
            fields = {}
        record = {name: value for name, value in fields.items() if name in used} if isinstance(fields, dict) else {}
    texts = {name: _bytes(file, *parts[name]).decode(errors="replace").strip() for name in used & parts.keys()}
    return {**record, **texts}


def _header(content: bytes) -> int | str:
    try:
        return verify(content, "bytes")
    except InputError as error:
        return str(error).rpartition("; ")[0]


def _bytes(file: Path, begin: int, size: int) -> bytes:
    with open(file, "rb") as content:
        content.seek(begin)
        return content.read(size)
