"""Augmentations of texts, on their tokens. Special tokens, such as [CLS] and [SEP], are left as they are.

A text is int32 [tokens, 2]: the id of each token, and 1 where it may be changed.
"""

from __future__ import annotations

import numpy as np

from jaxfer.data.encodings.augment.augmentation import Augmentation, Change, Size

MASKED = -1  # the id of a masked token, until the tokenizer's own takes its place


def token_dropout(rng: np.random.Generator, size: Size, *, rate: float) -> tuple[Change, ...]:
    """Each token is left out with this probability, but for one of them (Wei and Zou, 2019, arXiv:1901.11196, random
    deletion, of words there). `size` is (tokens that may change,)."""
    left = rng.random(size[0]) >= rate
    if size[0] and not left.any():
        left[int(rng.integers(size[0]))] = True

    def dropped(tokens: np.ndarray, filter: str) -> np.ndarray:
        keep = tokens[:, 1] == 0
        keep[~keep] = left
        return tokens[keep]

    return (Change(dropped, moves=True),)


def token_mask(rng: np.random.Generator, size: Size, *, rate: float) -> tuple[Change, ...]:
    """Each token becomes the mask with this probability. `size` is (tokens that may change,)."""
    hit = rng.random(size[0]) < rate

    def masked(tokens: np.ndarray, filter: str) -> np.ndarray:
        found = tokens.copy()
        found[np.flatnonzero(tokens[:, 1])[hit], 0] = MASKED
        return found

    return (Change(masked),)


TOKEN = {
    "token_dropout": Augmentation(draw=token_dropout, options={"rate": (0.1, 0, 1), "p": (1.0, 0, 1)}, of="text"),
    "token_mask": Augmentation(draw=token_mask, options={"rate": (0.1, 0, 1), "p": (1.0, 0, 1)}, of="text"),
}
