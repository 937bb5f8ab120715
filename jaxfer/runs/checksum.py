"""A checksum of an array that does not depend on its sharding: each part is summed, then the sums are added."""

from __future__ import annotations

import functools

import jax
import numpy as np

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def array_sum(array: jax.Array) -> int:
    """`sum of word[i, j, ...] * w0[i] * w1[j] * ...` modulo 2^64, over the array's bits as unsigned integers.

    The weights are fixed, pseudo-random and odd: no flipped bit leaves the sum as it was, and what else may happen to
    bytes (zeroed, swapped, cut) does so by chance alone. Every part is summed where it lies, once of those
    that several devices hold, so that nothing is gathered.
    """
    parts = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    return sum(_part_sum(np.asarray(part.data), part.index, array.shape) for part in parts) % 2**64


def _part_sum(part: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    if not part.size:
        return 0
    words = np.ascontiguousarray(part).view(_WORDS[part.dtype.itemsize])
    for axis in reversed(range(len(shape))):
        weights = _weights(axis, shape[axis])[index[axis]]
        words = np.einsum("ij,j->i", words.reshape(-1, len(weights)), weights)  # casts piecewise, and wraps
    return int(words.reshape(-1)[0])


@functools.lru_cache(maxsize=1024)
def _weights(axis: int, size: int) -> np.ndarray:
    """SplitMix64 (Steele et al., 2014, doi:10.1145/2660193.2660195) of each index, made odd: [size] uint64."""
    z = (np.arange(1, size + 1, dtype=np.uint64) + np.uint64((axis + 1) << 40)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)
