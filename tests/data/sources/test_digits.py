from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxfer.data.prepare import DataConfig, build
from jaxfer.data.sources import digits
from jaxfer.errors import InputError
from jaxfer.registry import SOURCES


def origins(split):
    return split.rows.tolist()


def test_every_source_is_found_by_its_file():
    assert {"digits", "folder", "npz", "synthetic", "table", "tfds"} <= set(SOURCES.names())
    assert SOURCES.schema("folder") == {
        "path": (str, ""),
        "test_fraction": (float, 0.0),
        "suffixes": (tuple[str, ...], (".jpg", ".jpeg", ".png", ".bmp", ".webp")),
        "nested": (bool, False),
        "exif_orientation": (bool | None, None),
        "bad_rows": (int | str | None, None),
        "group": (tuple[str, ...] | None, None),
        "group_table": (str | None, None),
        "prompts": (tuple[str, ...] | None, None),
        "names": (tuple[str, ...] | None, None),
    }


def test_digits():
    data, raw = digits.source(), load_digits()
    test, train = data.splits["test"], data.splits["train"]
    assert data.classes == tuple("0123456789")
    assert np.bincount(test.labels).tolist() == [50] * 10
    assert sorted(origins(test) + origins(train)) == list(range(1797))
    for split in (test, train):
        np.testing.assert_array_equal(split.labels, raw.target[origins(split)])
    first = train.example("image", 0)
    assert (first.shape, first.dtype) == ((8, 8, 1), np.uint8)
    # 16 grey levels: 16 -> 255, 8 -> 127.5 rounded to even
    table = np.array([0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255])
    np.testing.assert_array_equal(first[..., 0], table[raw.images[origins(train)[0]].astype(int)])
    assert digits.source() is data, "made once in a process"
    assert digits.source.__wrapped__().fingerprint == data.fingerprint


def test_noise_changes_the_pixels_and_mixed_labels_the_training_labels_alone():
    clean, noisy, mixed = digits.source(), digits.source(noise=64.0), digits.source(mixed_labels=True)
    assert len({data.fingerprint for data in (clean, noisy, mixed)}) == 3
    for name in ("train", "test"):
        rows = origins(clean.splits[name])
        assert rows == origins(noisy.splits[name]) == origins(mixed.splits[name]), "the same images in each split"
        np.testing.assert_array_equal(noisy.splits[name].labels, clean.splits[name].labels)
    before, after = (data.splits["train"].columns["image"].values for data in (clean, noisy))
    inner = (before > 100) & (before < 150)  # away from 0 and 255, where noise is clipped
    assert 60 < (after.astype(int) - before)[inner].std() < 68
    np.testing.assert_array_equal(mixed.splits["test"].labels, clean.splits["test"].labels)
    own, given = (data.splits["train"].labels for data in (clean, mixed))
    assert np.bincount(own).tolist() == np.bincount(given).tolist() and 0.05 < (own == given).mean() < 0.15
    with pytest.raises(InputError, match=r"expected data.noise >= 0 grey levels, found -1"):
        digits.source(noise=-1.0)


def test_digits_five_to_nine_leave_a_hundred_labels_a_class():
    config = DataConfig(classes=tuple("56789"), val_per_class=20, labels_per_class=100)
    data = build(config, {}, seed=3, with_test=True)
    counts = {name: np.bincount(split.labels).tolist() for name, split in data.splits.items()}
    assert counts == {"train": [100] * 5, "val": [20] * 5, "test": [50] * 5}
    rows = [origins(split) for split in data.splits.values()]
    assert len({row for part in rows for row in part}) == sum(map(len, rows))
