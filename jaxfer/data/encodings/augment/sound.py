"""Augmentations of sounds: of the samples, and of the spectrogram, where they come last."""

from __future__ import annotations

import numpy as np

from jaxfer.data.encodings.augment.augmentation import Augmentation, Change, Size


def time_shift(rng: np.random.Generator, size: Size, *, seconds: float) -> tuple[Change, ...]:
    """Moved by up to `seconds` either way; silence comes in. `size` is (samples, samples a second)."""
    most = min(int(seconds * size[1]), size[0])
    by = int(rng.integers(-most, most + 1))

    def shifted(sound: np.ndarray, filter: str) -> np.ndarray:
        moved = np.zeros_like(sound)
        moved[max(0, by) : len(sound) + min(0, by)] = sound[max(0, -by) : max(0, len(sound) - max(0, by))]
        return moved

    return (Change(shifted),)


def noise(rng: np.random.Generator, size: Size, *, low: float, high: float) -> tuple[Change, ...]:
    """White noise, `low` to `high` dB below the sound's mean power."""
    ratio, seed = 10 ** (-rng.uniform(low, high) / 20), int(rng.integers(2**32))

    def noisy(sound: np.ndarray, filter: str) -> np.ndarray:
        scale = np.float32(ratio * np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) if len(sound) else 0
        return sound + scale * np.random.default_rng(seed).standard_normal(sound.shape, np.float32)

    return (Change(noisy),)


def time_mask(rng: np.random.Generator, size: Size, *, count: int, widest: int, share: float) -> tuple[Change, ...]:
    """`count` stretches become 0, each of up to `widest` frames and `share` of the sound (Park et al., 2019,
    arXiv:1904.08779).

    0 is what transformers' Whisper masks with. `size` is (frames, bins); a frame is 10 ms.
    """
    return _masks(rng, size[0], count, min(widest, int(share * size[0])), axis=0)


def frequency_mask(rng: np.random.Generator, size: Size, *, count: int, widest: int) -> tuple[Change, ...]:
    """`count` bands of up to `widest` bins become 0 (arXiv:1904.08779). `size` is (frames, bins)."""
    return _masks(rng, size[1], count, min(widest, size[1]), axis=1)


def _masks(rng: np.random.Generator, length: int, count: int, widest: int, *, axis: int) -> tuple[Change, ...]:
    spans = []
    for _ in range(count):
        width = int(rng.integers(widest + 1))
        begin = int(rng.integers(length - width + 1))
        spans.append(slice(begin, begin + width))

    def masked(spectrogram: np.ndarray, filter: str) -> np.ndarray:
        found = spectrogram.copy()
        for span in spans:
            found[(span,) if axis == 0 else (slice(None), span)] = 0
        return found

    return (Change(masked),)


# The masks of the paper's LD policy, with SM's bound on the share of the frames.
SOUND = {
    "time_shift": Augmentation(draw=time_shift, options={"seconds": (0.1, 0, 60), "p": (1.0, 0, 1)}, of="audio"),
    "noise": Augmentation(
        draw=noise, options={"low": (10.0, -20, 100), "high": (40.0, -20, 100), "p": (0.5, 0, 1)}, of="audio"
    ),
    "time_mask": Augmentation(
        draw=time_mask,
        options={"count": (2, 1, 100), "widest": (100, 0, 100_000), "share": (0.2, 0, 1)},
        of="audio",
        last=True,
    ),
    "frequency_mask": Augmentation(
        draw=frequency_mask, options={"count": (2, 1, 100), "widest": (27, 0, 10_000)}, of="audio", last=True
    ),
}
