"""Series of measurements as a model takes them: all of one length, each normalised by itself or not at all."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError

NORMALIZE = ("none", "each")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesEncoding:
    """How a series becomes the model's `series`, float32 [b, length, channels], in the data's own unit or in none.

    Attributes:
      length: points in time of every series.
      channels: values at each of them.
      normalize: `each` takes the mean of a series' channel from it and divides by its standard deviation (of n, not
        n - 1); a constant channel becomes 0. `none` keeps the values.
      again: whether the series is a second field, `history`, which every unit reads: a forecast is in its unit.
    """

    length: int
    channels: int
    normalize: str = "each"
    again: bool = False

    column: ClassVar[str] = "series"
    noun: ClassVar[str] = "series"
    buckets: ClassVar[tuple[int, ...]] = ()
    augments: ClassVar[bool] = False
    features: ClassVar[str] = "samples"

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        series = jax.ShapeDtypeStruct((n, self.length, self.channels), "float32")
        return {"series": series, "history": series} if self.again else {"series": series}

    def check(self, split: Split) -> None:
        """`InputError` if the first series has another length or number of channels."""
        if len(split):
            self.fitting(split.example("series", 0))

    def fitting(self, series: np.ndarray) -> np.ndarray:
        """The series [length, channels]; `InputError` if it has another shape."""
        if series.shape != (self.length, self.channels):
            found, wanted = list(series.shape), [self.length, self.channels]
            fix = "set config.model.length and config.model.channels to the data's, or cut the data"
            raise InputError(f"expected series of {wanted} (length, channels), found {found}; {fix}")
        return series

    def reader(self, split: Split) -> SeriesReader:
        self.check(split)
        return SeriesReader(split, self)

    def notes(self, data: Dataset, sample: int) -> tuple[str, ...]:
        return ()

    def facts(self) -> dict[str, Any]:
        return {}

    def flat(self, split: Split) -> np.ndarray:
        """The values as the model gets them, float32 [n, length * channels]."""
        return self.reader(split)(np.arange(len(split)))["series"].reshape(len(split), self.length * self.channels)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SeriesReader:
    """The series of a split."""

    split: Split
    encoding: SeriesEncoding
    lengths: ClassVar[None] = None

    def __call__(self, rows: np.ndarray, length: int | None = None, draw: Draw | None = None) -> Fields:
        series = np.empty((len(rows), self.encoding.length, self.encoding.channels), np.float32)
        for i, row in enumerate(rows):
            series[i] = self.encoding.fitting(self.split.example("series", int(row)))
        series = normalized(series) if self.encoding.normalize == "each" else series
        return {"series": series, "history": series} if self.encoding.again else {"series": series}


def normalized(series: np.ndarray) -> np.ndarray:
    """[n, length, channels] -> `(x - mean) / std` over the length, computed in float64; 0 where it is constant."""
    varies = series.max(1, keepdims=True) > series.min(1, keepdims=True)  # a rounded mean leaves no exact zeros
    values = series.astype(np.float64)
    std = np.where(varies, values.std(1, keepdims=True), 1)
    return (np.where(varies, values - values.mean(1, keepdims=True), 0) / std).astype(np.float32)
