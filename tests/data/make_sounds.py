"""Makes tests/data/sounds: 48 tones of 0.1 s in noise, 16 of each of three pitches, 8 kHz and 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import wavfile

PITCHES = {"high": 2400, "low": 300, "middle": 900}  # Hz


def main() -> None:
    rng = np.random.default_rng(0)
    for name, pitch in PITCHES.items():
        folder = Path(__file__).parent / "sounds" / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(16):
            tone = np.sin(2 * np.pi * pitch * rng.uniform(0.9, 1.1) * np.arange(800) / 8000)
            samples = 128 + 60 * tone + 10 * rng.normal(size=800)
            wavfile.write(folder / f"{i:02}.wav", 8000, samples.clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
