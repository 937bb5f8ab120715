"""Makes `torchvision_augment.npz`: a small picture as torchvision augments it, with NumPy's draws in place of torch's.

python -m tests.data.make_torchvision_augment        (needs PyTorch and torchvision, which no extra installs)

Each transform draws from `np.random.default_rng(seed)`, in its own order. AugMix is given Pillow's operations: on
tensors, which it makes of pictures, torchvision's own contrast and sharpness are others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment, functional, transforms

BILINEAR = InterpolationMode.BILINEAR


def picture() -> np.ndarray:
    """uint8 [12, 10, 3]: a slope of colours, and some noise."""
    slope = np.linspace(0, 200, 12 * 10 * 3).reshape(12, 10, 3)
    return (slope + np.random.default_rng(0).integers(0, 56, (12, 10, 3))).astype(np.uint8)


# Name, as an entry of `config.data.augment`: (torchvision's transform, number of seeds).
TRANSFORMS = {
    "flip": (transforms.RandomHorizontalFlip(), 4),
    "vertical_flip": (transforms.RandomVerticalFlip(), 4),
    "rotation": (transforms.RandomRotation(30, interpolation=BILINEAR), 4),
    "random_resized_crop": (transforms.RandomResizedCrop((12, 10)), 20),
    "color_jitter(hue=0.3)": (transforms.ColorJitter(0.4, 0.4, 0.4, 0.3), 20),
    "grayscale(p=0.5)": (transforms.RandomGrayscale(0.5), 4),
    "gaussian_blur": (transforms.RandomApply([transforms.GaussianBlur(3, (0.1, 2.0))]), 10),
    "randaugment": (autoaugment.RandAugment(interpolation=BILINEAR), 40),
    "randaugment(ops=1, magnitude=25)": (autoaugment.RandAugment(1, 25, interpolation=BILINEAR), 40),
    "trivialaugment": (autoaugment.TrivialAugmentWide(interpolation=BILINEAR), 60),
    "augmix": (autoaugment.AugMix(), 20),
    "random_erasing": (transforms.RandomErasing(), 20),
}
TABLES = {
    "randaugment": autoaugment.RandAugment()._augmentation_space(31, (12, 10)),
    "trivialaugment": autoaugment.TrivialAugmentWide()._augmentation_space(31),
    "augmix": autoaugment.AugMix()._augmentation_space(10, (12, 10)),
}


def draw_by_numpy() -> None:
    """Puts `RNG` in place of torch's generator, in float64."""
    torch.rand = lambda n: torch.tensor([RNG.random()], dtype=torch.float64)
    torch.randint = _integer
    torch.randperm = lambda n: torch.tensor(RNG.permutation(n))
    torch.empty = lambda n: torch.zeros(n, dtype=torch.float64)
    torch.Tensor.uniform_ = lambda self, low, high: self.fill_(RNG.uniform(float(low), float(high)))
    autoaugment.AugMix._sample_dirichlet = lambda self, alphas: _weights(alphas[0].numpy())
    apply = autoaugment._apply_op

    def by_pillow(image, *args, **kwargs):
        if isinstance(image, Image.Image):
            return apply(image, *args, **kwargs)
        return functional.pil_to_tensor(apply(functional.to_pil_image(image[0]), *args, **kwargs))[None]

    autoaugment._apply_op = by_pillow


def _integer(*bounds: int, high: int | None = None, low: int = 0, size=None, dtype=None) -> torch.Tensor:
    bounds = [bound for bound in bounds if isinstance(bound, int)]
    low, high = (low, high) if high is not None else (0, *bounds)[-2:]
    return torch.tensor([int(RNG.integers(high - low)) + low])


def _weights(alphas: np.ndarray) -> torch.Tensor:
    if len(alphas) == 2:  # Beta(a, a): the shares of the image and of the mixture
        share = RNG.beta(*alphas)
        return torch.tensor([[1 - share, share]])
    return torch.tensor(RNG.dirichlet(alphas), dtype=torch.float32)[None]


def main() -> None:
    global RNG
    found = {"picture": picture()}
    for table, space in TABLES.items():
        for name, (magnitudes, signed) in space.items():
            found[f"{table}/{name}"] = np.append(magnitudes.numpy().astype(np.float32), np.float32(signed))
    draw_by_numpy()
    image = Image.fromarray(picture())
    for name, (transform, seeds) in TRANSFORMS.items():
        given, results = functional.to_tensor(image) if name == "random_erasing" else image, []
        for seed in range(seeds):
            RNG = np.random.default_rng(seed)
            result = transform(given)
            array = (result.numpy().transpose(1, 2, 0) * 255).round() if name == "random_erasing" else result
            results.append(np.asarray(array, np.uint8))
        found[name] = np.stack(results)
    np.savez_compressed(Path(__file__).parent / "torchvision_augment.npz", **found)


if __name__ == "__main__":
    main()
