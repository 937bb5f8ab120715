from __future__ import annotations

import os
import time
import zipfile

import numpy as np
import pytest

from jaxfer.data.sources import npz
from jaxfer.errors import InputError
from jaxfer.registry import SOURCES
from tests.data import shared


def arrays(n=6, **more):
    rng = np.random.default_rng(0)
    made = {
        "train_image": rng.integers(0, 256, (n, 4, 5), np.uint8),
        "train_label": np.arange(n) % 3,
        "test_image": rng.integers(0, 256, (3, 4, 5), np.uint8),
        "test_label": np.array([2, 1, 0]),
    }
    return {name: value for name, value in (made | more).items() if value is not None}


def saved(tmp_path, **values):
    np.savez(tmp_path / "data.npz", **values)
    return str(tmp_path / "data.npz")


def test_npz(tmp_path):
    values = arrays()
    data = npz.source(path=saved(tmp_path, **values))
    assert data.classes == ("0", "1", "2")
    assert set(data.splits) == {"train", "test"}
    for name, split in data.splits.items():
        assert (split.labels.dtype, split.labels.tolist()) == (np.int32, values[f"{name}_label"].tolist())
        np.testing.assert_array_equal(split.example("image", 1), values[f"{name}_image"][1][..., None])


def test_npz_arrays_that_are_not_read_are_noted(tmp_path):
    assert npz.source(path=saved(tmp_path, **arrays())).notes == ()
    data = npz.source(path=saved(tmp_path, **arrays(), valid_image=np.zeros(1), valid_label=np.zeros(1)))
    (note,) = data.notes
    assert note == (
        "2 arrays not read (valid_image, valid_label); data.image_key and data.label_key choose the arrays to read"
    )
    assert data.provenance == {"train": "train_image, train_label", "test": "test_image, test_label"}


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        (("{}_images", "{}_labels"), {}),
        (("x_{}", "y_{}"), {}),
        (("{}/pixels", "{}/y"), {"image_key": "{split}/pixels", "label_key": "{split}/y"}),
    ],
)
def test_npz_layouts(tmp_path, layout, options):
    values = arrays()
    renamed = {}
    for name in ("train", "test"):
        renamed[layout[0].format(name)] = np.repeat(values[f"{name}_image"][..., None], 3, axis=3)
        renamed[layout[1].format(name)] = values[f"{name}_label"][:, None]  # [n, 1], as MedMNIST has them
    data = npz.source(path=saved(tmp_path, **renamed), **options)
    assert data.splits["test"].labels.tolist() == [2, 1, 0]
    assert data.splits["train"].example("image", 0).shape == (4, 5, 3)


def test_npz_labels_become_classes_in_the_order_of_their_values(tmp_path):
    labels = {"train_label": np.array([10, 7, 7, 10, 300, 7]), "test_label": np.array([300, 7, 10])}
    data = npz.source(path=saved(tmp_path, **arrays(**labels)))
    assert data.classes == ("7", "10", "300")
    assert data.splits["train"].labels.tolist() == [1, 0, 0, 1, 2, 0]
    assert data.splits["test"].labels.tolist() == [2, 0, 1]


def test_npz_regression(tmp_path):
    labels = {"train_label": np.linspace(-1, 1, 6), "test_label": np.array([1, 2, 3])}
    data = npz.source(path=saved(tmp_path, **arrays(**labels)), target="value")
    assert data.classes == ()
    assert data.splits["test"].labels.dtype == np.float32
    np.testing.assert_allclose(data.splits["train"].labels, [-1, -0.6, -0.2, 0.2, 0.6, 1], rtol=1e-6)


def test_npz_fingerprint_is_of_the_content(tmp_path):
    first = npz.source(path=saved(tmp_path, **arrays())).fingerprint
    assert npz.source(path=saved(tmp_path, **arrays())).fingerprint == first
    assert npz.source(path=saved(tmp_path, **other_arrays())).fingerprint != first


def aged(path, seconds=100):
    """The path, its file that old: no longer one that may change within a step of the clock."""
    now = time.time_ns()
    os.utime(path, ns=(now, now - seconds * 10**9))
    return path


def other_arrays():
    """The same shapes, one pixel another."""
    other = arrays()
    other["train_image"][0, 0, 0] ^= 1
    return other


def test_an_unchanged_npz_is_read_once(tmp_path):
    path = aged(saved(tmp_path, **arrays()))
    first = SOURCES.make("npz", path=path)
    assert SOURCES.make("npz", path=path) is first
    assert SOURCES.make("npz", path=path, target="value").classes == ()


def test_a_changed_npz_of_the_same_size_is_read_again(tmp_path):
    path = saved(tmp_path, **arrays())
    before, size = SOURCES.make("npz", path=aged(path)), os.path.getsize(path)
    saved(tmp_path, **other_arrays())
    after = SOURCES.make("npz", path=aged(path, seconds=50))
    assert os.path.getsize(path) == size
    assert after.splits["train"].example("image", 0)[0, 0, 0] == before.splits["train"].example("image", 0)[0, 0, 0] ^ 1
    assert after.fingerprint != before.fingerprint


def test_an_npz_replaced_by_one_of_the_same_size_and_time_is_read_again(tmp_path):
    path = aged(saved(tmp_path, **arrays()))
    before, was = SOURCES.make("npz", path=path), os.stat(path)
    saved(tmp_path, **other_arrays())
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    while os.stat(path).st_ctime_ns == was.st_ctime_ns:  # within one step of the file system's clock
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (os.stat(path).st_size, os.stat(path).st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    assert SOURCES.make("npz", path=path).fingerprint != before.fingerprint


def test_an_npz_of_this_instant_is_not_kept(tmp_path):
    path = saved(tmp_path, **arrays())
    assert SOURCES.make("npz", path=path) is not SOURCES.make("npz", path=path)


def test_one_relative_path_in_two_folders_is_two_npz_files(tmp_path, monkeypatch):
    made = []
    for name, labels in (("one", [0, 1, 2]), ("two", [2, 1, 1])):
        (tmp_path / name).mkdir()
        aged(saved(tmp_path / name, **arrays(test_label=np.array(labels))))
        monkeypatch.chdir(tmp_path / name)
        made.append(SOURCES.make("npz", path="data.npz").splits["test"].labels.tolist())
    assert made == [[0, 1, 2], [2, 1, 1]]


def test_npz_paths_are_looked_up_in_the_data_folder(tmp_path, monkeypatch):
    saved(tmp_path, **arrays())
    monkeypatch.setenv("JAXFER_DATA", str(tmp_path))
    assert len(npz.source(path="data.npz").splits["train"]) == 6


FLOAT = np.zeros((6, 4, 5), np.float32)
BAD_NPZ = [
    ({"train_label": None}, {}, "expected arrays train_image/train_label or train_images/train_labels or x_train/y_tr"),
    ({"test_label": None}, {}, r"expected test_image and test_label in '.*', found test_image; add the other"),
    ({"train_image": FLOAT}, {}, "expected train_image of '.*' to be uint8, found float32; scale it to 0..255"),
    ({"train_image": FLOAT[0].astype(np.uint8)}, {}, r"expected train_image to be .*, found \[4, 5\]"),
    ({"train_image": np.zeros((6, 4, 5, 7), np.uint8)}, {}, r"expected train_image to be .*, found \[6, 4, 5, 7\]"),
    ({"train_image": np.zeros((0, 4, 5), np.uint8)}, {}, r"expected train_image to be .*, found \[0, 4, 5\]"),
    ({"train_label": np.arange(5)}, {}, r"expected train_label to have shape \[6\] .*, found \[5\]"),
    ({"train_label": np.zeros((6, 2), int)}, {}, r"expected train_label to have shape \[6\] .*, found \[6, 2\]"),
    ({"train_label": np.zeros(6)}, {}, "expected integer labels of train in '.*', found float64; .*target='value'"),
    ({"test_label": np.array([0, 1, 9])}, {}, "expected the labels of train, found 9 in test"),
    ({"train_label": np.array(["a"] * 6)}, {"target": "value"}, "expected finite targets of train in '.*', found <U1"),
    ({"train_label": np.full(6, np.nan)}, {"target": "value"}, "expected finite targets of train in '.*', found NaN"),
    (
        {"train_label": np.full(6, 1e300)},
        {"target": "value"},
        "expected finite .*, found numbers beyond float32; clean",
    ),
    ({}, {"target": "values"}, "unknown data.target 'values'; nearest: 'value'"),
    ({}, {"image_key": "{split}_image"}, "data.image_key and data.label_key go together"),
    ({}, {"image_key": "image", "label_key": "{split}"}, "expected data.image_key to contain '{split}', found 'image'"),
    ({}, {"image_key": "{split}", "label_key": "y_{split}"}, "expected arrays train/y_train in '.*', found test_image"),
    ({"train_label": np.array([None] * 6)}, {}, "expected an .npz of plain arrays"),
]


@pytest.mark.parametrize(("changes", "options", "message"), BAD_NPZ)
def test_bad_npz(tmp_path, changes, options, message):
    with pytest.raises(InputError, match=message) as caught:
        npz.source(path=saved(tmp_path, **arrays(**changes)), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_files_that_are_no_npz(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"expected an .npz of plain arrays, found '.*data\.npz'"):
        npz.source(path=str(tmp_path / "data.npz"))


def header(text: bytes) -> bytes:
    """A .npy file, version 1, with this header."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


DAMAGED = {
    "members that are no .npy": lambda archive: archive.writestr("train_image", b"text"),
    "a header that does not end": lambda archive: archive.writestr("train_image.npy", header(b"(" * 500 + b"\n")),
    "a header that claims too much": lambda archive: archive.writestr(
        "train_image.npy", header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1 << 62,), }\n")
    ),
    "a shape beyond memory": lambda archive: archive.writestr(
        "train_image.npy", header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904,), }\n")
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_members_that_are_no_arrays(case, tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        DAMAGED[case](archive)
    refused(tmp_path / "data.npz")


@pytest.mark.parametrize("how", ["LZMA", "BZIP2", "unknown", "encrypted"])
def test_zips_that_cannot_be_unpacked(how, tmp_path):
    path = tmp_path / "data.npz"
    kind = getattr(zipfile, f"ZIP_{how}", zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("train_image.npy", bytes(range(256)) * 8)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    if how == "unknown":
        data[8] = data[central + 10] = 77  # the method
    elif how == "encrypted":
        data[6] |= 1  # the flag
        data[central + 8] |= 1
    else:
        data[central - 60 : central - 20] = b"\xff" * 40
    path.write_bytes(data)
    refused(path)


def refused(path):
    with pytest.raises(
        InputError, match=r"expected an .npz of plain arrays, found '.*data\.npz' \(.+\); use"
    ) as caught:
        npz.source(path=str(path))
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(InputError, match=r"expected a file or a folder, found '.*data\.npz'"):
        npz.source(path=str(tmp_path / "data.npz"))


def test_absent_npz(tmp_path):
    with pytest.raises(InputError, match="data.path does not exist: expected '.*no.npz'"):
        npz.source(path=str(tmp_path / "no.npz"))


def test_a_single_array_is_no_npz(tmp_path):
    np.save(tmp_path / "one.npy", FLOAT)
    with pytest.raises(InputError, match="expected an .npz of plain arrays"):
        npz.source(path=str(tmp_path / "one.npy"))


@pytest.mark.parametrize(
    ("name", "sizes", "classes"),
    [
        ("mnist", {"train": 8000, "test": 2000}, 10),
        ("pneumonia_mnist", {"train": 4708, "val": 524, "test": 624}, 2),
    ],
)
def test_shared_npz(name, sizes, classes):
    data = npz.source(path=shared(f"vision/{name}.npz"))
    assert {split: len(part) for split, part in data.splits.items()} == sizes
    assert data.classes == tuple(str(i) for i in range(classes))
    with np.load(shared(f"vision/{name}.npz")) as raw:
        np.testing.assert_array_equal(data.splits["test"].example("image", 7)[..., 0], raw["test_image"][7])
        np.testing.assert_array_equal(data.splits["train"].labels, raw["train_label"])
