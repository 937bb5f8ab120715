from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from jaxfer.data.prepare import DataConfig, build
from jaxfer.data.sources import digits
from jaxfer.registry import SOURCES


def origins(split):
    return split.origin()[1].tolist()


def test_every_source_is_found_by_its_file():
    assert {"digits", "folder", "npz", "synthetic", "table", "tfds"} <= set(SOURCES.names())
    assert SOURCES.schema("folder") == {
        "path": (str, ""),
        "test_fraction": (float, 0.0),
        "suffixes": (tuple[str, ...], (".jpg", ".jpeg", ".png", ".bmp", ".webp")),
        "nested": (bool, False),
    }


def test_digits():
    data, raw = digits.source(), load_digits()
    test, train = data.splits["test"], data.splits["train"]
    assert data.classes == tuple("0123456789")
    assert np.bincount(test.labels).tolist() == [50] * 10
    assert sorted(origins(test) + origins(train)) == list(range(1797))
    for split in (test, train):
        np.testing.assert_array_equal(split.labels, raw.target[origins(split)])
    first = train.fetch(0)
    assert (first.shape, first.dtype) == ((8, 8, 1), np.uint8)
    # 16 grey levels: 16 -> 255, 8 -> 127.5 rounded to even
    table = np.array([0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255])
    np.testing.assert_array_equal(first[..., 0], table[raw.images[origins(train)[0]].astype(int)])
    assert digits.source() is data, "made once in a process"
    assert digits.source.__wrapped__().fingerprint == data.fingerprint


def test_digits_five_to_nine_leave_a_hundred_labels_a_class():
    config = DataConfig(classes=tuple("56789"), val_per_class=20, labels_per_class=100)
    data = build(config, {}, seed=3, with_test=True)
    counts = {name: np.bincount(split.labels).tolist() for name, split in data.splits.items()}
    assert counts == {"train": [100] * 5, "val": [20] * 5, "test": [50] * 5}
    rows = [origins(split) for split in data.splits.values()]
    assert len({row for part in rows for row in part}) == sum(map(len, rows))
