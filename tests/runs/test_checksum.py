"""The sum of an array's bits: by hand, on any devices, and changed by any flipped bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxfer.runs.checksum import _weights, array_sum

MESH = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def test_by_hand():
    words = [[3, 5, 2**32 - 1], [7, 0, 11]]
    rows, columns = ([int(w) for w in _weights(axis, size)] for axis, size in ((0, 2), (1, 3)))
    wanted = sum(words[i][j] * rows[i] * columns[j] for i in range(2) for j in range(3)) % 2**64
    assert array_sum(jnp.asarray(words, jnp.uint32)) == wanted
    assert all(weight % 2 for weight in rows + columns) and len({*rows, *columns}) == 5
    assert array_sum(jnp.int32(6)) == 6 and array_sum(jnp.zeros((0, 4))) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_devices_do_not_matter(dtype):
    array = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 6)) * 9, dtype)
    specs = (P(), P("a"), P(("a", "b")), P("b", None, "a"), P(None, None, "b"))
    assert {array_sum(jax.device_put(array, NamedSharding(MESH, spec))) for spec in specs} == {array_sum(array)}


def test_every_flipped_bit_and_every_swap_changes_it():
    words = np.random.default_rng(1).integers(0, 2**32, (3, 4), dtype=np.uint32)
    whole = array_sum(jnp.asarray(words))
    for i in range(words.size):
        for bit in range(32):
            flipped = words.copy()
            flipped.reshape(-1)[i] ^= np.uint32(1 << bit)
            assert array_sum(jnp.asarray(flipped)) != whole
    for other in (words[::-1], words[:, ::-1], words[[1, 0, 2]], np.roll(words, 1, 1)):
        assert array_sum(jnp.asarray(other)) != whole
