"""Sounds as their samples, as wav2vec 2.0 reads them (Baevski et al., 2020, arXiv:2006.11477)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.encodings.audio import AudioEncoding, SoundEncoding, changed, resampled
from jaxfer.data.encodings.augment import augmentations
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError

LEAST = 1e-7  # added to a sound's variance
MELS = 40  # of a baseline's spectrogram
SPARE = 2.0  # an input this many times as long as the longest sound is worth a note


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveformEncoding(SoundEncoding):
    """How samples become the model's `audio`, float32 [b, samples], and which of its places are of the sound.

    `attention_mask`, int32 [b, places], is 1 at the places whose windows lie within the sound, by the windows of
    convolutions without padding.

    Attributes:
      rate: samples a second; sounds of another rate are resampled.
      seconds: length of the input: longer sounds are cut, shorter ones end in zeros.
      normalize: whether each sound gets mean 0 and variance 1, before zeros are added.
      masked: whether there is a mask; without one, zeros are heard as silence.
      windows: (samples of a window, samples from one to the next) of each convolution.
    """

    seconds: float = 10.0
    normalize: bool = True
    masked: bool = True
    windows: tuple[tuple[int, int], ...] = ()

    features: ClassVar[str] = "log-mels"

    @property
    def samples(self) -> int:
        return round(self.seconds * self.rate)

    def places(self, samples: int) -> int:
        """Of a sound of so many samples."""
        for window, step in self.windows:
            samples = (samples - window) // step + 1
        return samples

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        fields = {"audio": jax.ShapeDtypeStruct((n, self.samples), "float32")}
        mask = jax.ShapeDtypeStruct((n, self.places(self.samples)), "int32")
        return {**fields, "attention_mask": mask} if self.masked else fields

    def reader(self, split: Split) -> WaveformReader:
        return WaveformReader(split, self)

    def notes(self, data: Dataset, sample: int) -> tuple[str, ...]:
        lines = super().notes(data, sample)
        columns = [(split.columns["audio"], split.rows) for split in data.splits.values() if len(split.rows)]
        longest = max((float((c.lengths[rows] / c.rates[rows]).max()) for c, rows in columns), default=self.seconds)
        if self.seconds < SPARE * longest:
            return lines
        spare = (
            f"sounds are padded to {self.seconds:g} s, the longest has {longest:.3g} s; config.model.seconds sets it"
        )
        return (*lines, spare)

    def flat(self, split: Split) -> np.ndarray:
        """Log-mels: no simple baseline makes anything of samples."""
        return AudioEncoding(rate=self.rate, seconds=self.seconds, mels=MELS).flat(split)

    def fitted_to(self, sound: np.ndarray) -> tuple[np.ndarray, int]:
        """[n] at the encoding's rate -> (float32 [samples], places of the sound, at least one)."""
        sound = sound[: self.samples]
        if self.normalize and len(sound):
            sound = (sound - sound.mean()) / np.sqrt(sound.var() + LEAST)
        input_ = np.zeros(self.samples, np.float32)
        input_[: len(sound)] = sound
        return input_, max(self.places(len(sound)), 1)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class WaveformReader:
    """The samples of a split."""

    split: Split
    encoding: WaveformEncoding
    lengths: ClassVar[None] = None

    def __call__(self, rows: np.ndarray, length: int | None = None, draw: Draw | None = None) -> Fields:
        column, encoding = self.split.columns["audio"], self.encoding
        audio = np.empty((len(rows), encoding.samples), np.float32)
        counts = np.empty(len(rows), int)
        for i, row in enumerate(self.split.rows[rows]):
            sound = resampled(column[int(row)], int(column.rates[row]), encoding.rate)
            if draw is not None and draw.augment:
                sound = _augmented(sound, draw, i, encoding)
            audio[i], counts[i] = encoding.fitted_to(sound)
        fields: dict[str, Any] = {"audio": audio}
        if encoding.masked:
            places = encoding.places(encoding.samples)
            fields["attention_mask"] = (np.arange(places) < counts[:, None]).astype(np.int32)
        return fields


def _augmented(sound: np.ndarray, draw: Draw, i: int, encoding: WaveformEncoding) -> np.ndarray:
    entries = augmentations(draw.augment)
    if last := [entry.name for entry in entries if entry.kind.last]:
        raise InputError(f"data.augment: {last[0]} is of spectrograms, and the model reads samples; remove it")
    return changed(sound[: encoding.samples], entries, draw.rng(i), encoding.rate)
