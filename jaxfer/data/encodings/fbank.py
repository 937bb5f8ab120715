"""Kaldi's log-mel filter banks, as the Audio Spectrogram Transformer reads them (Gong et al., 2021, arXiv:2104.01778).

The values are those of torchaudio's `compliance.kaldi.fbank` with Hann windows, and of transformers'
`ASTFeatureExtractor`; NumPy alone.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy.sparse import csr_array

from jaxfer.data.encodings.audio import SpectrogramEncoding

LOWEST = 20.0  # Hz, where the first triangle begins
EMPHASIS = 0.97  # of a sample, how much of the one before is subtracted
FLOOR = float(np.finfo(np.float32).eps)  # least energy


@dataclasses.dataclass(frozen=True, kw_only=True)
class FbankEncoding(SpectrogramEncoding):
    """`(log energy - log_mean) / (2 log_std)` of whole windows of 25 ms every 10 ms; none is mirrored at the ends.

    Attributes:
      rate: samples a second; sounds of another rate are resampled.
      frames: windows of the input: longer sounds are cut, after shorter ones come frames of log energy 0.
      mels: bins of the spectrogram.
      log_mean: of the log energies.
      log_std: of the log energies; the input's is 0.5, as in the paper.
    """

    frames: int = 1024
    mels: int = 128
    log_mean: float = -4.2677393
    log_std: float = 4.5689974

    limit = "frames"

    @property
    def samples(self) -> int:
        return (self.frames - 1) * self.hop + self.window

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return self.rate // 100

    @property
    def window(self) -> int:
        """Samples of a window."""
        return self.rate // 40

    def spectrogram(self, sound: np.ndarray) -> np.ndarray:
        found = np.zeros((self.frames, self.mels))
        if len(sound) >= self.window:
            energies = fbank(sound[: self.samples], self)
            found[: len(energies)] = energies
        return ((found - self.log_mean) / (2 * self.log_std)).astype(np.float32)


def fbank(sound: np.ndarray, encoding: FbankEncoding) -> np.ndarray:
    """[n] at the encoding's rate, n of at least a window -> float64 [whole windows, mels]: natural logarithms.

    Every window loses its mean, is emphasised, tapered, and padded with zeros to a power of two.
    """
    windows = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float64), encoding.window)[:: encoding.hop]
    windows = windows - windows.mean(1, keepdims=True)
    before = np.concatenate([windows[:, :1], windows[:, :-1]], 1)
    size = padded(encoding.window)
    spectrum = np.fft.rfft((windows - EMPHASIS * before) * np.hanning(encoding.window), size)
    energy = _bins(encoding.rate, size, encoding.mels).dot((spectrum.real**2 + spectrum.imag**2).T).T
    return np.log(np.maximum(energy, FLOOR))


def padded(window: int) -> int:
    """The power of two that a window is padded to."""
    return 1 << (window - 1).bit_length()


@functools.lru_cache(maxsize=8)
def kaldi_filters(rate: int, size: int, mels: int) -> np.ndarray:
    """[mels, size // 2 + 1]: triangles on Kaldi's mel scale, 1127 log(1 + Hz / 700), from 20 Hz to half the rate.

    Many low bins of narrow triangles have no frequency at all: 128 of them at 16 kHz do.
    """

    def scaled(hertz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    corners = np.linspace(scaled(LOWEST), scaled(rate / 2), mels + 2)
    low, peak, high = (corners[i : i + mels, None] for i in range(3))
    places = scaled(np.arange(size // 2 + 1) * rate / size)
    return np.maximum(0, np.minimum((places - low) / (peak - low), (high - places) / (high - peak)))


@functools.lru_cache(maxsize=8)
def _bins(rate: int, size: int, mels: int) -> csr_array:
    return csr_array(kaldi_filters(rate, size, mels))
