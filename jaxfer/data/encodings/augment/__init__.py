"""Random augmentation of training images, from one generator per example.

`AUGMENTATIONS` is the table: a new one is an entry of `geometry`, `colour`, `policies` or `erasing`, that is a function
which draws changes (`augmentation`). `entries` reads what a config says, and applies it.
"""

from jaxfer.data.encodings.augment.entries import AUGMENTATIONS, applied, augmentations, canonical
from jaxfer.data.encodings.augment.geometry import cut

__all__ = ["AUGMENTATIONS", "applied", "augmentations", "canonical", "cut"]
