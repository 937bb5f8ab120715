from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfer.data.encodings.image import decode
from jaxfer.data.sources import folder
from jaxfer.errors import InputError
from jaxfer.registry import SOURCES

from . import shared


def origins(split):
    return split.origin()[1].tolist()


def write(root, *names):
    """Images of 3 x 4, the i-th filled with 20 i."""
    for i, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 4, 3), 20 * i, np.uint8)).save(file)
    return str(root)


def test_folder_of_classes_is_all_train(tmp_path):
    path = write(tmp_path, "dog/b.png", "cat/z.PNG", "dog/a.bmp", ".hidden/x.png", "cat/.thumb.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = folder.source(path=path)
    assert data.classes == ("cat", "dog")
    assert set(data.splits) == {"train"}
    train = data.splits["train"]
    assert train.labels.tolist() == [0, 1, 1]
    assert [train.fetch(i)[0, 0, 0] for i in range(3)] == [20, 40, 0]
    assert (train.fetch(0).shape, train.labels.dtype) == ((3, 4, 3), np.int32)


def test_folder_of_splits(tmp_path):
    path = write(tmp_path, "train/b/0.png", "train/a/0.png", "val/b/1.png", "test/a/0.png", "test/b/0.jpg")
    data = folder.source(path=path)
    assert data.classes == ("a", "b")
    assert {name: split.labels.tolist() for name, split in data.splits.items()} == {
        "train": [0, 1],
        "val": [1],
        "test": [0, 1],
    }
    assert data.splits["val"].fetch(0)[0, 0, 0] == 40


def test_folder_test_fraction_is_a_fixed_stratified_draw(tmp_path):
    path = write(tmp_path, *(f"{name}/{i}.png" for name in "ab" for i in range(5)))
    first, second = (folder.source(path=path, test_fraction=0.4) for _ in range(2))
    assert first.splits["test"].labels.tolist() == [0, 0, 1, 1]
    assert sorted(origins(first.splits["test"]) + origins(first.splits["train"])) == list(range(10))
    assert origins(first.splits["test"]) == origins(second.splits["test"])
    assert first.fingerprint == second.fingerprint != folder.source(path=path).fingerprint


def test_folder_fingerprint_is_of_names_and_content_and_survives_copying(tmp_path):
    one, named = (write(tmp_path / name, "a/0.png", "b/0.png") for name in ("one", "named"))
    (tmp_path / "named" / "a" / "0.png").rename(tmp_path / "named" / "a" / "1.png")
    same = str(shutil.copytree(one, tmp_path / "same", copy_function=shutil.copyfile))
    os.utime(tmp_path / "same" / "a" / "0.png", (1e9, 1e9))
    prints = [folder.source(path=path).fingerprint for path in (one, same, named)]
    assert prints[0] == prints[1] != prints[2]


def padded(root, size, at=None):
    """The fingerprint of a folder whose one image, black, is a file of that size, the byte `at` changed."""
    (root / "a").mkdir(parents=True)
    file = root / "a" / "0.bmp"
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(file)
    content = bytearray(file.read_bytes().ljust(size, b"\0"))
    if at is not None:
        content[at] = 1
    file.write_bytes(content)
    return folder.source(path=str(root)).fingerprint


@pytest.mark.parametrize("size", [100, 4096, 4097, 8192])
def test_folder_fingerprint_sees_every_byte_of_a_small_file(tmp_path, size):
    prints = [padded(tmp_path / str(byte), size, byte) for byte in (54, 69, size // 2 + 20, size - 2, size - 1)]
    prints += [padded(tmp_path / "same", size), padded(tmp_path / "longer", size + 1)]
    assert len(set(prints)) == 7


def test_folder_fingerprint_sees_the_first_and_last_4_kib_of_a_large_file(tmp_path):
    size = 20_000
    same = padded(tmp_path / "same", size)
    assert len({same, *(padded(tmp_path / str(at), size, at) for at in (54, 4095, size - 4096, size - 1))}) == 5
    # What the docstring says is not covered.
    assert {padded(tmp_path / str(at), size, at) for at in (4096, size - 4097)} == {same}


def test_a_changed_folder_is_listed_again(tmp_path):
    path = write(tmp_path, "a/0.png", "b/0.png")
    before = SOURCES.make("folder", path=path)
    write(tmp_path, "c/9.png", "c/0.png")
    after = SOURCES.make("folder", path=path)
    assert [len(data.splits["train"]) for data in (before, after)] == [2, 4]
    assert before.fingerprint != after.fingerprint


def test_images_replaced_by_others_of_the_same_size_are_seen(tmp_path):
    path = write(tmp_path, "a/0.bmp", "a/1.bmp")
    before = SOURCES.make("folder", path=path)
    (tmp_path / "a" / "1.bmp").write_bytes((tmp_path / "a" / "0.bmp").read_bytes())
    after = SOURCES.make("folder", path=path)
    assert after.splits["train"].fetch(1).max() == 0
    assert before.fingerprint != after.fingerprint


BAD_FOLDERS = [
    (["a/0.png", "b/c/0.png"], {}, r"expected images \(.jpg .*\) in '.*b', found none; it has folders \(c\): set"),
    (["train/a/0.png", "extra/a/0.png"], {}, "expected folders train, val and test in '.*', found also 'extra'"),
    (["test/a/0.png"], {}, "expected folders train, val and test in '.*', found no train"),
    (["train/a/0.png", "test/b/0.png"], {}, "expected the classes of train, found '.*b'"),
    (["train/a/0.png", "test/a/0.png"], {"test_fraction": 0.5}, "data.test_fraction=0.5 has no effect"),
    (["a/0.png"], {"test_fraction": 1.0}, "expected data.test_fraction from 0 to below 1, found 1.0"),
    (["a/0.png"], {"test_fraction": -0.1}, "expected data.test_fraction from 0 to below 1, found -0.1"),
    (["0.png"], {}, "expected class folders in '.*', found none"),
]


@pytest.mark.parametrize(("names", "options", "message"), BAD_FOLDERS)
def test_bad_folders(tmp_path, names, options, message):
    with pytest.raises(InputError, match=message) as caught:
        folder.source(path=write(tmp_path, *names), **options)
    assert "\n" not in str(caught.value)


def test_an_empty_class_folder(tmp_path):
    path = write(tmp_path, "a/0.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"in '.*b', found none; add some or remove it"):
        folder.source(path=path)


def test_an_unreadable_image_stops_before_training(tmp_path):
    path = write(tmp_path, "a/0.png", "a/1.png")
    (tmp_path / "a" / "1.png").write_bytes(b"oops")
    with pytest.raises(InputError, match=r"expected a readable image, found '.*1\.png'.*; replace or remove the file"):
        folder.source(path=path)


def test_a_path_that_is_no_folder(tmp_path):
    write(tmp_path, "a/0.png")
    with pytest.raises(InputError, match=r"expected a folder of class folders, found the file '.*0\.png'"):
        folder.source(path=str(tmp_path / "a" / "0.png"))
    with pytest.raises(InputError, match="data.path does not exist"):
        folder.source(path=str(tmp_path / "none"))


def test_shared_flowers5():
    data = folder.source(path=shared("vision/flowers5"))
    assert data.classes == ("daisy", "dandelion", "rose", "sunflower", "tulip")
    assert {name: np.bincount(split.labels).tolist() for name, split in data.splits.items()} == {
        "train": [200] * 5,
        "test": [60] * 5,
    }
    first = Path(shared("vision/flowers5")) / "test" / "rose"
    np.testing.assert_array_equal(data.splits["test"].fetch(120), decode(min(first.iterdir())))
    assert data.splits["test"].fetch(120).shape == (128, 128, 3)
