"""The picture of a rising rate: one file, the same bytes when redrawn, and drawn without a suggestion too."""

from __future__ import annotations

import numpy as np

from jaxfer.figures import rates


def test_redrawn(tmp_path):
    ramp = np.geomspace(1e-4, 1, 5)
    for name, rate in (("a.png", 0.01), ("b.png", 0.01), ("c.png", None)):
        rates.curve(ramp, [3.0, 2.0, 1.0, 2.0, 9.0], [3.0, 2.5, 1.5, 2.0, 6.0], {"rule": rate}, tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c and a[1:4] == b"PNG"
    assert len(list(tmp_path.iterdir())) == 3
