"""Numbers that peft draws from torch's CPU generator and does not store, drawn again without torch.

That generator is the Mersenne Twister of numpy's `RandomState`, seeded alike; torch makes its numbers as below
(`aten/src/ATen/core/TransformationHelper.h`, `aten/src/ATen/native/cpu/RangeFactories`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

WORD = 1 << 32
LARGEST = WORD // 20  # torch draws longer permutations in another way


def permutation(seed: int, size: int, count: int) -> np.ndarray:
    """int64 [count]: the first entries of `torch.randperm(size)`."""
    if size >= LARGEST:
        raise ValueError(f"a permutation of {size} entries")
    swapped: dict[int, int] = {}
    raw, chosen = _raw(seed, count), np.zeros(count, np.int64)
    for i in range(count):
        j = i + int(raw[i]) % (size - i)
        chosen[i], swapped[j] = swapped.get(j, j), swapped.get(i, i)
    return chosen


def uniform(seed: int, bounds: Iterable[tuple[tuple[int, ...], float]]) -> list[np.ndarray]:
    """float32 arrays of these shapes, one after the other, each `uniform_(-bound, bound)`: of {shape: bound} pairs."""
    bounds = list(bounds)
    sizes = [int(np.prod(shape)) for shape, _ in bounds]
    raw, found, taken = _raw(seed, sum(sizes)), [], 0
    for size, (shape, bound) in zip(sizes, bounds, strict=True):
        unit = (raw[taken : taken + size] % (1 << 24)) / (1 << 24)
        found.append((unit * (2 * np.float32(bound)) - np.float32(bound)).astype(np.float32).reshape(shape))
        taken += size
    return found


def _raw(seed: int, count: int) -> np.ndarray:
    """uint64 [count], each below 2^32."""
    return np.random.RandomState(seed % WORD)._bit_generator.random_raw(count)
