"""Image preprocessing read from checkpoints, against what transformers' processors answered (golden/processors.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxfer.data.encodings.image import preprocess
from jaxfer.pretrained.families import by_model_type
from tests.pretrained.processors import CASES, FILTERS, photos, port_of

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "processors.npz")


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize("case", CASES)
def test_every_filter_is_transformers(case, filter_):
    config, preprocessor = CASES[case]
    number = FILTERS.index(filter_)
    port = port_of(config, {**preprocessor, "resample": number})
    assert port.encoding.interpolation == filter_
    # Written by export and read again, it is the same.
    written = by_model_type(config["model_type"]).preprocessor(port)
    assert written["resample"] == number
    assert port_of(config, written).encoding == port.encoding
    for photo, expected in zip(photos(), GOLDEN[case][number], strict=True):
        found = preprocess(photo, port.encoding)
        assert found.shape == expected.shape and np.abs(found - expected).max() <= 1 / 255
