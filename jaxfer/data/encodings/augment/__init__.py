"""Random augmentation of training examples, from one generator each.

`AUGMENTATIONS` is the table: a new one is an entry of `geometry`, `colour`, `policies`, `erasing`, `sound`, `token` or
`rewriting`, that is a function (`augmentation`). `entries` reads what a config says, and applies it.
"""

from jaxfer.data.encodings.augment.entries import AUGMENTATIONS, applied, augmentations, canonical, finish
from jaxfer.data.encodings.augment.geometry import cut
from jaxfer.data.encodings.augment.token import MASKED

__all__ = ["AUGMENTATIONS", "MASKED", "applied", "augmentations", "canonical", "cut", "finish"]
