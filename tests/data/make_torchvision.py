"""Makes `torchvision.npz`: blocks of random colours as torchvision's filters shrink them.

python -m tests.data.make_torchvision        (needs PyTorch and torchvision, which no extra installs)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import functional

FILTERS = ("bilinear", "bicubic", "lanczos")


def blocks() -> np.ndarray:
    """uint8 [336, 126, 3]."""
    colours = np.random.default_rng(0).integers(0, 255, (48, 18, 3))
    return np.kron(colours, np.ones((7, 7, 1))).astype(np.uint8)


def main() -> None:
    image, found = torch.tensor(blocks().transpose(2, 0, 1)), {}
    for name in FILTERS:
        mode = functional.InterpolationMode(name)
        shrunk = functional.resize(image, [64, 64], interpolation=mode, antialias=True)
        found[name] = shrunk.numpy().transpose(1, 2, 0)
    np.savez_compressed(Path(__file__).parent / "torchvision.npz", **found)


if __name__ == "__main__":
    main()
