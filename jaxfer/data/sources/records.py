"""Random access to examples in ArrayRecord files prepared by TensorFlow Datasets, without TensorFlow."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from jaxfer.data.encodings.pixels import opened, pixels
from jaxfer.data.lookup import fingerprint
from jaxfer.errors import InputError

FORMAT = "array_record"


def datasets() -> Any:
    """The package `tensorflow_datasets`, an extra; `InputError` where it is not installed."""
    try:
        import tensorflow_datasets  # imported late: only its data sets need it
    except ImportError as error:
        fix = "pip install 'jaxfer[tfds]'"
        raise InputError(f"data source 'tfds' needs the package tensorflow-datasets ({error}); {fix}") from None
    return tensorflow_datasets


class Unparsed(Exception):
    """Why a record is no example of the data set."""


@dataclass(frozen=True, eq=False, repr=False)
class Records:
    """Random access to the examples of a split; each process opens its own.

    Attributes:
      folder: folder of the prepared data set.
      split: the split as TFDS writes it.
      features: the features to read.
    """

    folder: str
    split: str
    features: tuple[str, ...]

    def __len__(self) -> int:
        return len(self._open[0])

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """Serialized examples; `InputError` where the files are damaged."""
        try:
            # Many records are read by a pool of threads, which for a single record would cost more than the reading.
            return self._open[0].__getitems__(rows) if len(rows) > 1 else [self._open[0][row] for row in rows]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"the records of {self.split!r} in {self.folder!r} can't be read ({reason}); "
                "remove the folder and prepare the data set again"
            ) from None

    def name(self, row: int) -> str:
        """The name of an example in errors."""
        return f"record {row} of {self.split!r} in {self.folder!r}"

    def parse(self, example: bytes) -> dict[str, Any]:
        """{feature: its value}, an image still encoded; raises `Unparsed`."""
        try:
            return self._open[1].deserialize_example_np(example, decoders=self._open[2])
        except Exception as error:  # protobuf's own, or a feature that is missing or of another type or shape
            raise Unparsed((str(error).splitlines() or [type(error).__name__])[0]) from None

    @functools.cached_property
    def _open(self) -> tuple[Any, Any, Any]:
        tfds = datasets()
        builder = tfds.builder_from_directory(self.folder)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        examples = builder.as_data_source(self.split, deserialize_method=raw, file_format=FORMAT)
        features = {name: builder.info.features[name] for name in self.features}
        encoded = (name for name, feature in features.items() if isinstance(feature, tfds.features.Image))
        # Not TFDS' PartialDecoding, which compares types by way of TensorFlow.
        return examples, tfds.features.FeaturesDict(features), {name: tfds.decode.SkipDecoding() for name in encoded}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_open"}


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """A column of the images in records."""

    records: Records
    kind = "image"

    def __len__(self) -> int:
        return len(self.records)

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of every image as it is encoded."""
        return fingerprint(self.key(row) for row in range(len(self)))

    def picture(self, row: int) -> Image.Image:
        (example,) = self.records.read([row])
        (feature,) = self.records.features
        # As TFDS itself decodes it.
        return opened(self.records.parse(example)[feature], self.records.name(row), upright=False)

    def __getitem__(self, row: int) -> np.ndarray:
        return pixels(self.picture(row))

    key_bytes = 2**16  # typical for a photograph

    def key(self, row: int) -> Hashable:
        """A key that is equal for images of the same encoded bytes."""
        (example,) = self.records.read([row])
        (feature,) = self.records.features
        return hashlib.blake2b(self.records.parse(example)[feature], digest_size=16).digest()
