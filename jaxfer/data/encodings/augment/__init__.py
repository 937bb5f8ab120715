"""Random augmentation of training examples, from one generator each.

`AUGMENTATIONS` is the table: a new one is an entry of `geometry`, `colour`, `policies`, `erasing` or `sound`, that is a
function which draws changes (`augmentation`). `entries` reads what a config says, and applies it.
"""

from jaxfer.data.encodings.augment.entries import AUGMENTATIONS, applied, augmentations, canonical, finish
from jaxfer.data.encodings.augment.geometry import cut

__all__ = ["AUGMENTATIONS", "applied", "augmentations", "canonical", "cut", "finish"]
