"""Sounds as a model takes them: one rate, one length, and the log-mel spectrogram of Whisper; NumPy alone.

Radford et al., 2022, arXiv:2212.04356, as transformers' `WhisperFeatureExtractor` computes it. `fbank.py` has Kaldi's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from scipy.sparse import csr_array

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.encodings.augment import augmentations, finish
from jaxfer.data.encodings.augment.entries import Entry
from jaxfer.data.encodings.image import MAX_FEATURES, averaged
from jaxfer.data.split import Dataset, Split

# Slaney's mel scale, librosa's default: linear up to 1,000 Hz (200/3 Hz a mel), then a factor of 6.4 every 27 mels.
LINEAR, KNEE, GROWTH = 200 / 3, 1000.0, math.log(6.4) / 27

FLOOR, RANGE = 1e-10, 8.0  # least energy; decades below the loudest bin of a sound, beyond which all is silence


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundEncoding:
    """What the encodings of sounds share. The column has int [n] `rates` (samples a second) and `lengths` (samples).

    Attributes:
      rate: samples a second; sounds of another rate are resampled.
    """

    rate: int = 16000

    column: ClassVar[str] = "audio"
    noun: ClassVar[str] = "sounds"
    buckets: ClassVar[tuple[int, ...]] = ()
    augments: ClassVar[bool] = True
    limit: ClassVar[str] = "seconds"  # the option that says how long the input is

    @property
    def samples(self) -> int:
        """Samples of the input: longer sounds are cut."""
        raise NotImplementedError

    def notes(self, data: Dataset, sample: int) -> tuple[str, ...]:
        """Lines if sounds are resampled, or longer than the input and so get cut; `sample` is ignored: headers say."""
        rates, cut, longest = set(), [], 0.0
        for name, split in data.splits.items():
            column = split.columns["audio"]
            of, seconds = column.rates[split.rows], column.lengths[split.rows] / column.rates[split.rows]
            rates |= set(of.tolist()) - {self.rate}
            if count := int(np.sum(seconds * self.rate > self.samples)):
                longest = max(longest, float(seconds.max()))
                cut.append(f"{count:,} of {len(split):,} in {name}")
        lines = []
        if rates:
            lines.append(f"sounds of {_listed(rates)} Hz are resampled to the model's {self.rate:,} Hz")
        if cut:
            seconds = f"{self.samples / self.rate:g} s"
            limit = f"cut at {seconds}, the longest has {longest:.3g} s; config.model.{self.limit} sets it"
            lines.append(f"sounds are {limit} ({', '.join(cut)})")
        return tuple(lines)

    def facts(self) -> dict[str, Any]:
        return {"rate": self.rate, "seconds": self.samples / self.rate}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectrogramEncoding(SoundEncoding):
    """Sounds as spectrograms: the model's `audio`, float32 [b, frames, mels]."""

    mels: int = 80

    features: ClassVar[str] = "log-mels"
    frames: ClassVar[Any]  # windows of the input; a property or a field

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"audio": jax.ShapeDtypeStruct((n, self.frames, self.mels), "float32")}

    def reader(self, split: Split) -> AudioReader:
        return AudioReader(split, self)

    def spectrogram(self, sound: np.ndarray) -> np.ndarray:
        """[n] at the encoding's rate -> float32 [frames, mels]."""
        raise NotImplementedError

    def flat(self, split: Split) -> np.ndarray:
        """Flat log-mels; of more than 3,072 values the frames are averaged down, then the bins."""
        to = (max(1, min(self.frames, MAX_FEATURES // self.mels)), min(self.mels, MAX_FEATURES))
        rows, read = np.empty((len(split), to[0] * to[1]), np.float32), self.reader(split)
        for row in range(len(split)):
            rows[row] = averaged(read(np.array([row]))["audio"][..., None], to).reshape(-1)
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioEncoding(SpectrogramEncoding):
    """Whisper's log-mels: windows of 25 ms every 10 ms, 400 and 160 samples at 16 kHz.

    Attributes:
      rate: samples a second; sounds of another rate are resampled.
      seconds: length of the input: longer sounds are cut, shorter ones end in silence.
      mels: bins of the spectrogram.
    """

    seconds: float = 30.0

    @property
    def samples(self) -> int:
        return round(self.seconds * self.rate)

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return self.rate // 100

    @property
    def window(self) -> int:
        """Samples of a window."""
        return self.rate // 40

    @property
    def frames(self) -> int:
        """Windows of the input."""
        return self.samples // self.hop

    def spectrogram(self, sound: np.ndarray) -> np.ndarray:
        return log_mel(sound, self)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AudioReader:
    """The spectrograms of a split."""

    split: Split
    encoding: SpectrogramEncoding
    lengths: ClassVar[None] = None

    def __call__(self, rows: np.ndarray, length: int | None = None, draw: Draw | None = None) -> Fields:
        column, encoding = self.split.columns["audio"], self.encoding
        audio = np.empty((len(rows), encoding.frames, encoding.mels), np.float32)
        for i, (place, row) in enumerate(zip(audio, self.split.rows[rows], strict=True)):
            sound = resampled(column[int(row)], int(column.rates[row]), encoding.rate)
            if draw is None or not draw.augment:
                place[:] = encoding.spectrogram(sound)
            else:
                place[:] = augmented(sound, draw.augment, draw.rng(i), encoding)
        return {"audio": audio}


def augmented(
    sound: np.ndarray, augment: tuple[str, ...], rng: np.random.Generator, encoding: SpectrogramEncoding
) -> np.ndarray:
    """[n] at the encoding's rate -> float32 [frames, mels]: what acts on samples, the spectrogram, then what comes
    last."""
    entries = augmentations(augment)
    found = encoding.spectrogram(changed(sound[: encoding.samples], entries, rng, encoding.rate))
    finish(found, entries, rng)
    return found


def changed(sound: np.ndarray, entries: Sequence[Entry], rng: np.random.Generator, rate: int) -> np.ndarray:
    """[n] -> [n]: what acts on samples."""
    for entry in entries:
        if not entry.kind.last:
            for change in entry.changes(rng, (len(sound), rate)):
                sound = change.apply(sound, "")
    return sound


def resampled(sound: np.ndarray, old: int, new: int) -> np.ndarray:
    """[n] at `old` samples a second -> [ceil(n new / old)] at `new`, by SciPy's polyphase filter."""
    if old == new:
        return sound
    from scipy.signal import resample_poly  # imported late: it takes half a second, and image runs don't need it

    common = math.gcd(old, new)
    return resample_poly(sound, new // common, old // common).astype(np.float32)


def log_mel(sound: np.ndarray, encoding: AudioEncoding) -> np.ndarray:
    """[n] at the encoding's rate -> float32 [frames, mels]: `(max(l, max(l) - 8) + 4) / 4` of the log10 mel energies l.

    The energies are those of Hann windows around every hop-th sample, mirrored at both ends of the padded sound.
    """
    size, hop = encoding.window, encoding.hop
    padded = np.zeros(encoding.samples)
    sound = sound[: encoding.samples]
    padded[: len(sound)] = sound
    padded = np.pad(padded, size // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[: encoding.frames * hop : hop]
    spectrum = np.fft.rfft(windows * _hann(size))
    energy = _bins(encoding.rate, size, encoding.mels).dot((spectrum.real**2 + spectrum.imag**2).T).T
    levels = np.log10(np.maximum(energy, FLOOR))
    return ((np.maximum(levels, levels.max() - RANGE) + 4) / 4).astype(np.float32)


@functools.lru_cache(maxsize=8)
def mel_filters(rate: int, size: int, mels: int) -> np.ndarray:
    """[mels, size // 2 + 1]: the weight of each frequency in each bin, as `librosa.filters.mel` has it.

    Triangles whose corners are evenly spaced on Slaney's scale from 0 Hz to half the rate, each of area 1 over Hz.
    """
    top = rate / 2
    highest = top / LINEAR if top < KNEE else KNEE / LINEAR + math.log(top / KNEE) / GROWTH
    points = np.linspace(0, highest, mels + 2)
    corners = np.where(points * LINEAR < KNEE, points * LINEAR, KNEE * np.exp(GROWTH * (points - KNEE / LINEAR)))
    low, peak, high = (corners[i : i + mels, None] for i in range(3))
    frequencies = np.linspace(0, top, size // 2 + 1)
    rise, fall = (frequencies - low) / (peak - low), (high - frequencies) / (high - peak)
    return np.maximum(0, np.minimum(rise, fall)) * (2 / (high - low))


@functools.lru_cache(maxsize=8)
def _bins(rate: int, size: int, mels: int) -> csr_array:
    """`mel_filters` without its zeros: with a dense product, whose threads wait for each other, a second of sound took
    8 ms on two busy cores, not 0.7."""
    return csr_array(mel_filters(rate, size, mels))


@functools.lru_cache(maxsize=8)
def _hann(size: int) -> np.ndarray:
    """The periodic Hann window, [size]."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def _listed(rates: set[int]) -> str:
    """Rates in words: the first three."""
    shown = [f"{rate:,}" for rate in sorted(rates)]
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")
