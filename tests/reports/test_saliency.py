"""Colours of shares: by hand."""

from __future__ import annotations

import numpy as np

from jaxfer.reports.saliency import AGAINST, FOR, _over, _scaled


def test_shares_are_of_the_largest_and_keep_their_sign():
    np.testing.assert_allclose(_scaled(np.array([2.0, -4.0, 1.0])), [0.5, -1, 0.25])
    np.testing.assert_array_equal(_scaled(np.zeros(3)), 0)
    many = np.r_[np.arange(1, 101), 1e6].astype(float)  # one place in a hundred does not dim the rest
    assert _scaled(many)[-1] == 1 and _scaled(many)[99] == 1 and _scaled(many)[49] == 0.5


def test_what_has_no_share_is_grey():
    image = np.full((1, 3, 1), 100, np.uint8)
    found = _over(image, np.array([[0.0, 1.0, -1.0]]))
    grey = 100 * 0.5 + 96
    np.testing.assert_array_equal(found[0, 0], [grey] * 3)
    for place, tint in ((1, FOR), (2, AGAINST)):
        np.testing.assert_allclose(found[0, place], [grey * 0.15 + part * 0.85 for part in tint], atol=0.5)
