"""Linear CKA by hand, and of networks that are known to be alike or not."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.evals.likeness import likeness, linear_cka
from jaxfer.network import Network
from jaxfer.ports import compiled_port_init
from jaxfer.registry import MODELS


def test_by_hand():
    """Centered x is (-1, 0, 1) and y (-1, 2, -1), which are orthogonal."""
    x, y = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [3.0], [0.0]])
    assert linear_cka(x, y) == pytest.approx(0, abs=1e-12)
    both = np.c_[x, y]  # |y'x|^2 = 4, |x'x| = 2, |both'both| = sqrt(2^2 + 6^2)
    assert linear_cka(both, x) == pytest.approx(4 / (2 * np.sqrt(40)))


def test_rotations_and_scales_change_nothing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6))
    turned = 3 * x @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 5
    assert linear_cka(x, turned) == pytest.approx(1) and linear_cka(x, rng.normal(size=(40, 6))) < 0.5
    assert np.isnan(linear_cka(x, np.ones((40, 2))))
    with pytest.raises(InputError, match="vectors of the same examples, found 40 and 39"):
        linear_cka(x, x[1:])


def test_units_below_a_change_stay_alike():
    port = MODELS.make("resnet", outputs=3, stage_sizes=(1, 1, 1), width=4, stem="cifar", image=(8, 8, 1))
    batches = [{"image": np.random.default_rng(i).normal(size=(16, 8, 8, 1)).astype(np.float32)} for i in range(2)]
    params, state = compiled_port_init(port)(jax.random.key(0), batches[0])
    other, _ = compiled_port_init(port)(jax.random.key(1), batches[0])
    before = Network(port=port, params=params, model_state=state)
    after = Network(port=port, params={**params, "block_1": other["block_1"]}, model_state=state)
    found = likeness(before, after, batches)
    assert list(found) == ["stem", "block_0", "block_1", "block_2"]
    assert found["stem"] == pytest.approx(1) and found["block_0"] == pytest.approx(1) and found["block_1"] < 0.999
