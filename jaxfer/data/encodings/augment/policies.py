"""RandAugment, TrivialAugment and AugMix: random operations from published tables of magnitudes.

Operations and tables are torchvision's (0.28, `transforms/autoaugment.py`), on Pillow images: the names there, in
their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import ImageOps

from jaxfer.data.encodings.augment.augmentation import Augmentation, Change, Size, colours
from jaxfer.data.encodings.augment.colour import Picture, brightened, contrasted, saturated, sharpened
from jaxfer.data.encodings.augment.geometry import affine, rotated


def _tangent(m: float) -> float:
    """m, rounded as torchvision does on its way through an angle in degrees: it decides ties of a pixel's level."""
    return math.tan(math.radians(math.degrees(math.atan(m))))


def _posterized(bits: int) -> Picture:
    """The highest bits of each level. AugMix takes them down to none, which Pillow's own function refuses: black."""
    levels = [level & -(1 << (8 - bits)) for level in range(256)]
    return lambda picture: picture.point(levels * len(picture.getbands()))


# Name -> (magnitude -> change). A shear is about the corner at the top left, a translation by whole pixels.
OPERATIONS: dict[str, Callable[[float], Change]] = {
    "ShearX": lambda m: affine((1.0, _tangent(m), 0.0, 0.0, 1.0, 0.0)),
    "ShearY": lambda m: affine((1.0, 0.0, 0.0, _tangent(m), 1.0, 0.0)),
    "TranslateX": lambda m: affine((1.0, 0.0, -float(int(m)), 0.0, 1.0, 0.0)),
    "TranslateY": lambda m: affine((1.0, 0.0, 0.0, 0.0, 1.0, -float(int(m)))),
    "Rotate": rotated,
    "Brightness": lambda m: colours(brightened(1 + m)),
    "Color": lambda m: colours(saturated(1 + m)),
    "Contrast": lambda m: colours(contrasted(1 + m)),
    "Sharpness": lambda m: colours(sharpened(1 + m)),
    "Posterize": lambda m: colours(_posterized(int(m))),
    "Solarize": lambda m: colours(lambda picture: ImageOps.solarize(picture, m)),
    "AutoContrast": lambda m: colours(ImageOps.autocontrast),
    "Equalize": lambda m: colours(ImageOps.equalize),
}


@dataclass(frozen=True)
class Magnitudes:
    """The magnitudes of one operation: from `first` to `last` in equal steps, one a bin.

    Attributes:
      signed: whether the sign is drawn too.
      of: the side that `first` and `last` are shares of: 0 the height, 1 the width; None: they are themselves.
      whole: whether they are rounded (bits of `Posterize`).
    """

    first: float = 0.0
    last: float = 0.0
    signed: bool = False
    of: int | None = None
    whole: bool = False

    def at(self, bin: int, bins: int, size: Size) -> float:
        """The magnitude of a bin, as `torch.linspace` rounds it: from either end, in float32, once after the sum."""
        if self.whole:
            return float(self.first - round(bin / ((bins - 1) / (self.first - self.last))))
        scale = 1 if self.of is None else size[self.of]
        first, last = np.float32(self.first * scale), np.float32(self.last * scale)
        step, left = float((last - first) / np.float32(bins - 1)), bins - 1 - bin
        return float(np.float32(float(first) + step * bin if bin < bins // 2 else float(last) - step * left))


def _to(last: float, of: int | None = None) -> Magnitudes:
    return Magnitudes(last=last, signed=True, of=of)


SOLARIZE = Magnitudes(255.0, 0.0)


def _space(
    *, shear: float, across: Magnitudes, down: Magnitudes, degrees: float, enhance: float, bits: int
) -> dict[str, Magnitudes]:
    """{operation: its magnitudes}, in the order that a drawn number counts them."""
    return {
        "Identity": Magnitudes(),
        **dict.fromkeys(("ShearX", "ShearY"), _to(shear)),
        "TranslateX": across,
        "TranslateY": down,
        "Rotate": _to(degrees),
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), _to(enhance)),
        "Posterize": Magnitudes(8, bits, whole=True),
        "Solarize": SOLARIZE,
        **dict.fromkeys(("AutoContrast", "Equalize"), Magnitudes()),
    }


RANDAUGMENT = _space(
    shear=0.3, across=_to(150 / 331, of=1), down=_to(150 / 331, of=0), degrees=30.0, enhance=0.9, bits=4
)
TRIVIALAUGMENT = _space(shear=0.99, across=_to(32.0), down=_to(32.0), degrees=135.0, enhance=0.99, bits=2)
AUGMIX: dict[str, Magnitudes] = {
    "ShearX": _to(0.3),
    "ShearY": _to(0.3),
    "TranslateX": _to(1 / 3, of=1),
    "TranslateY": _to(1 / 3, of=0),
    "Rotate": _to(30.0),
    "Posterize": Magnitudes(4, 0, whole=True),
    "Solarize": SOLARIZE,
    "AutoContrast": Magnitudes(),
    "Equalize": Magnitudes(),
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), _to(0.9)),
}
BINS, AUGMIX_BINS = 31, 10


def randaugment(rng: np.random.Generator, size: Size, *, ops: int, magnitude: int) -> tuple[Change, ...]:
    """`ops` operations one after the other, each of bin `magnitude` (Cubuk et al., 2019, arXiv:1909.13719)."""
    return sum((_drawn(rng, size, RANDAUGMENT, lambda: magnitude, BINS) for _ in range(ops)), ())


def trivialaugment(rng: np.random.Generator, size: Size) -> tuple[Change, ...]:
    """One operation of any bin (Mueller and Hutter, 2021, arXiv:2103.10158, the wide table)."""
    return _drawn(rng, size, TRIVIALAUGMENT, lambda: int(rng.integers(BINS)), BINS)


def _drawn(
    rng: np.random.Generator, size: Size, table: Mapping[str, Magnitudes], bin: Callable[[], int], bins: int
) -> tuple[Change, ...]:
    """One operation of the table; draws its name, its bin and its sign in this order."""
    name, magnitudes = list(table.items())[rng.integers(len(table))]
    ranged = magnitudes != Magnitudes()
    magnitude = magnitudes.at(bin(), bins, size) if ranged else 0.0
    if magnitudes.signed and rng.integers(2):
        magnitude = -magnitude
    return () if name == "Identity" else (OPERATIONS[name](magnitude),)


def augmix(
    rng: np.random.Generator, size: Size, *, severity: int, width: int, depth: int, alpha: float
) -> tuple[Change, ...]:
    """The image mixed with `width` chains of it (Hendrycks et al., 2019, arXiv:1912.02781, algorithm 1), without JSD.

    A chain is `depth` operations (0: 1 to 3 of them), each of a bin below `severity` of 10. The weights of the chains
    are Dirichlet(alpha), the share of their mixture is Beta(alpha, alpha). Operations are all of torchvision's, with
    brightness, colour, contrast and sharpness, and the mixture is rounded, where torchvision cuts it off.
    """
    share, weights = rng.beta(alpha, alpha), rng.dirichlet([alpha] * width)
    chains = []
    for _ in range(width):
        count = depth or int(rng.integers(1, 4))
        drawn = (_drawn(rng, size, AUGMIX, lambda: int(rng.integers(severity)), AUGMIX_BINS) for _ in range(count))
        chains.append(sum(drawn, ()))

    def mixed(image: np.ndarray, filter: str) -> np.ndarray:
        found = np.float32(1 - share) * image
        for weight, chain in zip(weights, chains, strict=True):
            moved = image
            for change in chain:
                moved = change.apply(moved, filter)
            found += np.float32(share * weight) * moved
        return np.rint(found).clip(0, 255).astype(image.dtype)

    return (Change(mixed),)


POLICIES = {
    "randaugment": Augmentation(draw=randaugment, options={"ops": (2, 1, 14), "magnitude": (9, 0, 30)}, colours=True),
    "trivialaugment": Augmentation(draw=trivialaugment, colours=True),
    "augmix": Augmentation(
        draw=augmix,
        options={"severity": (3, 1, 10), "width": (3, 1, 10), "depth": (0, 0, 10), "alpha": (1.0, 0.01, 100)},
        colours=True,
        masks=False,
    ),
}
