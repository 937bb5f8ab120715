"""The opened data and plan that checks read, and what several of them need of each example, computed once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image
from scipy.ndimage import laplace

from jaxfer.data.encoding import Encoding
from jaxfer.data.encodings.image import ImageEncoding, fit
from jaxfer.data.encodings.pixels import pixels
from jaxfer.data.split import Dataset, Split
from jaxfer.diagnosis.finding import LISTED, Example
from jaxfer.errors import InputError
from jaxfer.training.checked import Preflight

CHUNK = 64  # examples encoded at once
THUMBNAIL = 16  # pixels a side


class Pictures(NamedTuple):
    """What there is to say of the images of a split, as the model reads them, before normalisation.

    Attributes:
      keys: equal for equal pixels.
      hashes: uint64 [n], dHash: whether each of 8 x 8 places is brighter than the one to its left.
      thumbnails: float32 [n, 256], grey, each with mean 0 and length 1.
      dark: [n], the 99th percentile of the brightness, 0 to 255.
      bright: [n], its 1st percentile.
      mean: [n], its mean.
      spread: [n], its standard deviation.
      sharp: [n], the variance of its Laplacian.
      sizes: int [n, 2], height and width of the file.
    """

    keys: tuple[bytes, ...]
    hashes: np.ndarray
    thumbnails: np.ndarray
    dark: np.ndarray
    bright: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    sharp: np.ndarray
    sizes: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A config's data and plan. The labels of the test split are never read.

    Attributes:
      config: as `jaxfer.load` returns it, `test` off.
      ready: its plan.
      splits: train, val, and the inputs of test, at most `limit` examples of each, evenly spaced.
      place: a run's folder; `sibling:NAME` is beside it.
      overrides: {"model.x": value}.
      say: tells what is being computed.
      pictures: {split: of its images}; {} where the model reads none.
      undecodable: {split: images that are in none of `splits`, since they can't be decoded}.
    """

    config: ConfigDict
    ready: Preflight
    splits: Mapping[str, Split]
    place: epath.Path
    overrides: Mapping[str, Any]
    say: Callable[[str], None]
    pictures: Mapping[str, Pictures] = dataclasses.field(default_factory=dict)
    undecodable: Mapping[str, tuple[Example, ...]] = dataclasses.field(default_factory=dict)

    @property
    def data(self) -> Dataset:
        """All of it."""
        return self.ready.data

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """The model's."""
        return self.ready.stages[0].spec.port.encodings

    def encoding(self, column: str) -> Encoding | None:
        """The one that reads this column."""
        return next((encoding for encoding in self.encodings if encoding.column == column), None)

    @property
    def one_class(self) -> bool:
        """Whether an example has one class."""
        label = self.data.splits["train"].columns.get("label")
        return bool(self.data.classes) and label is not None and label.kind == "class"

    @property
    def sets(self) -> bool:
        """Whether an example has a set of labels, and the task learns it."""
        return self.data.multilabel and self.ready.experiment.task.name == "multilabel"

    @property
    def values(self) -> bool:
        """Whether an example has one value, and the task learns it."""
        return self.ready.experiment.task.name == "regression"

    def labels(self, name: str) -> list[Hashable] | None:
        """Of each example of a split, as something to compare; None for test, and where there are none."""
        labels = None if name == "test" else self.splits[name].labels
        return None if labels is None else [label.tobytes() for label in labels]

    def example(self, name: str, i: int, says: str = "") -> Example:
        """The i-th of a split, as findings name it."""
        split = self.splits[name]
        row, (_, column) = int(split.rows[i]), split.input
        named = str(column.name(row)) if hasattr(column, "name") else ""
        return Example(split=name, row=row, name=named, says=says)

    def some(self, name: str, places: Any, says: Callable[[int], str] = lambda i: "") -> tuple[Example, ...]:
        """The first few of these."""
        return tuple(self.example(name, int(i), says(int(i))) for i in places[:LISTED])

    @functools.cached_property
    def keys(self) -> Mapping[str, tuple[Hashable, ...]]:
        """{split: a key for each example, equal where the model reads the same, and the same is left out}."""
        if self.pictures and len(self.encodings) == 1:
            return {name: pictures.keys for name, pictures in self.pictures.items()}
        keys = {name: [_keys(split, encoding) for encoding in self.encodings] for name, split in self.splits.items()}
        return {name: tuple(zip(*parts, strict=True)) for name, parts in keys.items()}


def _keys(split: Split, encoding: Encoding) -> list[bytes]:
    read, length, names = encoding.reader(split), max(encoding.buckets, default=None), encoding.example(1)
    found: list[bytes] = []

    def whole(row: int) -> bytes:
        """The text that may be cut, so that two that begin alike are no copies."""
        cut = encoding.column == "text" and length is not None and read.lengths[row] >= length
        return repr(split.example("text", row)).encode() if cut else b""

    for begin in range(0, len(split), CHUNK):
        rows = np.arange(begin, min(begin + CHUNK, len(split)))
        given = read(rows, length, None)
        fields = [np.ascontiguousarray(given[name]) for name in names]  # besides, there may be fields for targets
        found += [digest(*(values[i].tobytes() for values in fields), whole(int(row))) for i, row in enumerate(rows)]
    return found


def digest(*parts: bytes) -> bytes:
    """16 bytes of them."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()


def seen(split: Split, encoding: ImageEncoding) -> tuple[Pictures, dict[int, str]]:
    """Reads every image of a split once.

    Returns:
      What there is to say of those that can be decoded, and {place of another: why it can't}.

    Raises:
      InputError: none can.
    """
    column, rows, why = split.columns["image"], [], {}
    for i, row in enumerate(split.rows):
        try:
            rows.append(_seen(column, int(row), encoding))
        except InputError as error:
            why[i] = str(error).rpartition("; ")[0]
            if len(why) == len(split):
                raise
    keys, *numbers = zip(*rows, strict=True)
    return Pictures(keys, *(np.asarray(values) for values in numbers)), why


def _seen(column: Any, row: int, encoding: ImageEncoding) -> tuple[Any, ...]:
    whole = pixels(column.picture(row)) if hasattr(column, "picture") else column[row]
    image = fit(whole, encoding)
    grey = image.astype(np.float32).mean(-1)
    small = np.asarray(Image.fromarray(grey).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).ravel()
    small = small - small.mean()
    low, high = np.percentile(grey, (1, 99))
    return (
        digest(np.ascontiguousarray(image).tobytes()),
        dhash(grey),
        small / max(float(np.linalg.norm(small)), 1e-6),
        high,
        low,
        grey.mean(),
        grey.std(),
        laplace(grey, mode="nearest").var(),
        whole.shape[:2],
    )


def dhash(grey: np.ndarray) -> np.uint64:
    """The 64 bits of a grey image: of 8 rows of 9 averaged pixels, whether each is brighter than the one before it."""
    small = np.asarray(Image.fromarray(grey.astype(np.float32)).resize((9, 8), Image.Resampling.BILINEAR))
    return np.packbits(small[:, 1:] > small[:, :-1]).view(">u8")[0].astype(np.uint64)
