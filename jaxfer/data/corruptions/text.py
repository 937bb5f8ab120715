"""Corruptions of texts: slips of the fingers, and capitals."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)  # of words, at severity 1 to 5


def typos(text: str, rng: np.random.Generator, share: float) -> str:
    """In a share of the words of four letters or more, two neighbours inside the word change places."""

    def slip(word: re.Match[str]) -> str:
        letters = word[0]
        if len(letters) < 4 or rng.random() >= share:
            return letters
        at = int(rng.integers(1, len(letters) - 2))
        return letters[:at] + letters[at + 1] + letters[at] + letters[at + 2 :]

    return re.sub(r"[^\W\d_]+", slip, text)


def case(text: str, rng: np.random.Generator, share: float) -> str:
    """A share of the words has its capitals and small letters exchanged: an uncased tokenizer sees no difference."""

    def swapped(word: re.Match[str]) -> str:
        other = word[0].swapcase()  # one that would be longer stays: positions of answers and tags hold
        return other if rng.random() < share and len(other) == len(word[0]) else word[0]

    return re.sub(r"[^\W\d_]+", swapped, text)


TEXT: dict[str, tuple[Callable[..., str], tuple[tuple[float], ...]]] = {
    function.__name__: (function, tuple((share,) for share in SHARES)) for function in (typos, case)
}
