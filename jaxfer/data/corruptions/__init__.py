"""Corruptions of a data set's inputs (`config.data.corrupt`): a shifted domain, or a test of robustness.

What is drawn follows from the corruption, its severity and the example's row alone, so that every run sees the same.
Images are corrupted as they are stored, before they are resized.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxfer.data.corruptions.image import IMAGE
from jaxfer.data.corruptions.text import TEXT
from jaxfer.data.encodings.text import Texts, Words, texts
from jaxfer.data.lookup import fingerprint
from jaxfer.data.split import Column, Dataset, Split
from jaxfer.errors import InputError, nearest

__all__ = ["KINDS", "SEVERITIES", "SEVERITY", "Corruption", "corrupted", "corrupted_split"]

KINDS = {"image": IMAGE, "text": TEXT}
SEVERITIES, SEVERITY = (1, 2, 3, 4, 5), 3


@dataclass(frozen=True)
class Corruption:
    """A corruption at a severity, 1 to 5.

    Attributes:
      name: in `KINDS`.
      severity: as ImageNet-C's.
    """

    name: str
    severity: int = SEVERITY

    @classmethod
    def of(cls, spelled: str, where: str = "config.data.corrupt") -> Corruption:
        """`fog`, or `fog:5`.

        Raises:
          InputError: no such corruption or severity.
        """
        name, colon, severity = spelled.partition(":")
        known = {name for kind in KINDS.values() for name in kind}
        if name not in known:
            raise InputError(f"{where}: no corruption {name!r}{nearest(name, known)}")
        if colon and severity not in map(str, SEVERITIES):
            raise InputError(f"{where}={spelled}: expected a severity of 1 to 5 after the colon, found {severity!r}")
        return cls(name, int(severity) if colon else SEVERITY)

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}"

    @property
    def kind(self) -> str:
        """Of the inputs that it changes: `image` or `text`."""
        return next(kind for kind, known in KINDS.items() if self.name in known)

    def __call__(self, value: Any, row: int) -> Any:
        """An image, uint8 [height, width, channels] or [height, width], or a text; an alpha channel stays."""
        function, constants = KINDS[self.kind][self.name]
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), self.severity, row])
        arguments = constants[self.severity - 1]
        if self.kind == "text":
            return function(value, rng, *arguments)
        image = value[:, :, None] if value.ndim == 2 else value
        colours = image.shape[2] - (image.shape[2] in (2, 4))
        shown = function(image[:, :, :colours] / 255.0, rng, *arguments)
        shown = np.clip(shown, 0, 1) * 255
        shown = np.round(shown).astype(image.dtype) if np.issubdtype(image.dtype, np.integer) else shown
        return np.concatenate([shown, image[:, :, colours:]], -1, dtype=image.dtype).reshape(value.shape)


@dataclass(frozen=True, eq=False, repr=False)
class Corrupted:
    """A column of images, each corrupted when it is read. Keys and names are those of the images as they were.

    Attributes:
      column: the images.
      corruption: what is done to them.
    """

    column: Column
    corruption: Corruption

    @property
    def kind(self) -> str:
        """The images'."""
        return self.column.kind

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the images' content and the corruption."""
        return fingerprint([self.column.sha256, str(self.corruption)])

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.corruption(self.column[row], int(row))

    def __getattr__(self, name: str) -> Any:
        if name in ("key", "key_bytes", "exact", "loose", "name"):
            return getattr(self.column, name)
        raise AttributeError(name)


def corrupted_split(split: Split, corruption: Corruption) -> Split:
    """The split with its inputs corrupted.

    Raises:
      InputError: its inputs are of another kind than the corruption's.
    """
    name, column = split.input
    if column.kind != corruption.kind:
        known = ", ".join(KINDS.get(column.kind, ()))
        fix = f"expected one of {known}" if known else f"no corruption is of inputs of kind {column.kind!r}; remove it"
        raise InputError(f"config.data.corrupt={corruption.name} is of inputs of kind {corruption.kind!r}; {fix}")
    return split.with_column(name, _changed(column, corruption))


def corrupted(data: Dataset, spelled: str) -> Dataset:
    """Data as its source yields it with the inputs of every split corrupted; `spelled` as of `Corruption.of`."""
    corruption = Corruption.of(spelled)
    made: dict[int, Column] = {}

    def changed(split: Split) -> Split:
        name, column = split.input
        if id(column) not in made:
            made[id(column)] = corrupted_split(split, corruption).columns[name]
        return split.with_column(name, made[id(column)])

    return dataclasses.replace(
        data,
        splits={name: changed(split) for name, split in data.splits.items()},
        fingerprint=fingerprint([data.fingerprint, str(corruption)]),
        notes=(*data.notes, f"data.corrupt={corruption}: every split's inputs are corrupted"),
    )


def _changed(column: Column, corruption: Corruption) -> Column:
    if isinstance(column, Texts):
        first = tuple(corruption(text, row) for row, text in enumerate(column.first))
        if column.second is None:
            return texts(first)
        return texts(first, tuple(corruption(text, len(first) + row) for row, text in enumerate(column.second)))
    if isinstance(column, Words):
        joined = (tuple(corruption(" ".join(words), row).split(" ")) for row, words in enumerate(column.sentences))
        return Words(tuple(joined))
    if column.kind == "text":
        raise InputError(f"config.data.corrupt={corruption.name}: these texts can't be changed; remove it")
    return Corrupted(column, corruption)
