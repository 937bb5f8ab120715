"""Swin's windows, by hand."""

from __future__ import annotations

import jax
import numpy as np

from jaxfer.models import swin
from jaxfer.registry import MODELS
from tests.models.tiny import draw


def test_distances_inside_a_window():
    found = swin.distances(2)  # places by row: (0, 0), (0, 1), (1, 0), (1, 1)
    assert found.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_places_are_spaced_by_their_logarithms():
    """8 / 8 of the way is log2(9) / log2(8), 4 / 8 is log2(5) / log2(8)."""
    near, far = np.log2(5) / 3, np.log2(9) / 3
    np.testing.assert_allclose(swin.places(3, 3)[:5, 1], [-far, -near, 0, near, far], rtol=1e-6)
    np.testing.assert_allclose(swin.places(2, 3)[:3, 1], [-near, 0, near], rtol=1e-6)
    assert swin.places(1, 1).tolist() == [[0, 0]]


def test_tokens_from_opposite_edges_dont_see_each_other():
    """A 4 x 2 map in windows of 2, shifted down by 1: the last window holds row 3 and row 0."""
    first, last = swin._apart((4, 2), 2, (1, 0))
    assert not first.any()
    assert last.tolist() == [[False, False, True, True]] * 2 + [[True, True, False, False]] * 2


def test_a_change_spreads_by_windows():
    """The first block mixes inside windows of 2, the second inside shifted ones, around the edges never."""
    options = dict(stage_sizes=(2,), width=4, heads=(2,), windows=(2,), patch=1, image=(6, 6, 1))
    for v2 in (False, True):
        port = MODELS.make("swin", outputs=2, v2=v2, **options)
        params, state = draw(port)
        image = np.random.default_rng(0).normal(size=(1, 6, 6, 1)).astype(np.float32)
        other = image.copy()
        other[0, 2, 2] += 1
        maps = {
            unit: [np.asarray(port.apply(params, state, {"image": x}, end=unit)[0]) for x in (image, other)]
            for unit in ("block_0", "block_1")
        }
        changed = {unit: np.abs(one - two).max((0, 3)) > 1e-6 for unit, (one, two) in maps.items()}
        rows, columns = np.nonzero(changed["block_0"])
        assert set(rows) == set(columns) == {2, 3}
        rows, columns = np.nonzero(changed["block_1"])
        assert set(rows) == set(columns) == {1, 2, 3, 4}


def test_patch_merging_pads_odd_maps():
    x = np.arange(3 * 2, dtype=np.float32).reshape(1, 3, 2, 1)
    module = swin.Merge(v2=True)
    params = module.init(jax.random.key(0), x)
    kernel = np.eye(4, 2, dtype=np.float32)  # of the four places, the upper and the lower one at the left
    merged = module.apply({"params": {**params["params"], "reduce": {"kernel": kernel}}}, x)
    assert merged.shape == (1, 2, 1, 2)
    np.testing.assert_allclose(merged[0, :, 0], [[-1, 1], [1, -1]], atol=1e-5)  # of (0, 2) and (4, padding), normed
