from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxfer.data.encodings.pixels import decode
from jaxfer.data.sources import folder
from jaxfer.errors import InputError
from jaxfer.registry import SOURCES
from jaxfer.training.preflight import preflight
from tests.data import shared
from tests.experiments import tiny_config


def origins(split):
    return split.rows.tolist()


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
    assert [train.example("image", i)[0, 0, 0] for i in range(3)] == [20, 40, 0]
    assert (train.example("image", 0).shape, train.labels.dtype) == ((3, 4, 3), np.int32)


def test_folder_of_splits(tmp_path):
    path = write(tmp_path, "train/b/0.png", "train/a/0.png", "val/b/1.png", "test/a/0.png", "test/b/0.jpg")
    data = folder.source(path=path)
    assert data.classes == ("a", "b")
    assert {name: split.labels.tolist() for name, split in data.splits.items()} == {
        "train": [0, 1],
        "val": [1],
        "test": [0, 1],
    }
    assert data.splits["val"].example("image", 0)[0, 0, 0] == 40


LEFT_OUT = ["cat/0.jpg", "dog/0.PNG", "cat/2.tif", "cat/3.gif", "dog/4.TIF", "cat/more/5.jpg", "dog/a/b/6.png", "7.jpg",
            "cat/.8.jpg", ".9.jpg"]  # fmt: skip


def test_files_left_out_are_counted_with_the_option_that_reads_them(tmp_path):
    path = write(tmp_path, *LEFT_OUT)
    (tmp_path / "cat" / "8").write_bytes((tmp_path / "cat" / "0.jpg").read_bytes())
    (tmp_path / "cat" / ".DS_Store").write_text("of no interest")
    (tmp_path / "dog" / "up").symlink_to(tmp_path / "dog")
    data = folder.source(path=path)
    assert data.splits["train"].labels.tolist() == [0, 1]
    assert data.notes == (
        "4 files left out by suffix (1 without a suffix, 1 .gif, 2 .tif); data.suffixes lists those to read",
        "2 files left out in folders below a class (1 .jpg, 1 .png); data.nested=true reads them",
        "1 file left out beside the class folders (1 .jpg); move them into one",
        "1 file left out as hidden (1 .jpg); rename those that start with a dot to read them",
    )
    assert folder.source(path=write(tmp_path / "all", "train/a/0.jpg", "val/a/1.jpg")).notes == ()


def test_other_suffixes_and_nested_folders_are_read_on_request(tmp_path):
    path = write(tmp_path, *LEFT_OUT)
    (tmp_path / "cat" / "8").write_bytes((tmp_path / "cat" / "0.jpg").read_bytes())
    data = folder.source(path=path, suffixes=("", ".tif", ".jpg", ".png"), nested=True)
    assert data.splits["train"].columns["image"].names == (
        "cat/0.jpg", "cat/2.tif", "cat/8", "cat/more/5.jpg", "dog/0.PNG", "dog/4.TIF", "dog/a/b/6.png"
    )  # fmt: skip
    assert data.splits["train"].labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert data.splits["train"].example("image", 1)[0, 0, 0] == 40
    assert [note.split(" (")[0] for note in data.notes] == [
        "1 file left out by suffix",
        "1 file left out beside the class folders",
        "1 file left out as hidden",
    ]
    assert data.fingerprint != folder.source(path=path).fingerprint


def test_images_beside_the_class_folders_of_each_split_are_counted(tmp_path):
    path = write(tmp_path, "train/a/0.jpg", "train/1.jpg", "val/a/0.jpg", "val/2.jpg", "3.png")
    assert folder.source(path=path).notes == (
        "3 files left out beside the class folders (2 .jpg, 1 .png); move them into one",
    )


def test_file_names_that_are_not_utf8(tmp_path):
    path = write(tmp_path, "a/0.png", "a/1.png")
    before = folder.source(path=path).fingerprint
    os.rename(tmp_path / "a" / "1.png", os.fsencode(tmp_path / "a") + b"/caf\xe9.png")
    data = folder.source(path=path)
    assert [data.splits["train"].example("image", i)[0, 0, 0] for i in range(2)] == [0, 20]
    assert data.fingerprint != before
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(InputError, match=r"expected class folders named in UTF-8, found '.*caf\\udce9'; rename it"):
        folder.source(path=path)


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


def test_files_that_stay_are_opened_once_a_process(tmp_path, monkeypatch):
    path, settled = write(tmp_path, "a/0.png", "a/1.png", "b/0.png"), time.time() - 10
    for file in tmp_path.rglob("*.png"):
        os.utime(file, (settled, settled))
    opened = []
    monkeypatch.setattr(folder, "verify", lambda file: opened.append(file.name) or 1)
    first = SOURCES.make("folder", path=path)
    assert opened and SOURCES.make("folder", path=path).fingerprint == first.fingerprint
    count, changed = len(opened), sorted(tmp_path.rglob("*.png"))[0]
    assert SOURCES.make("folder", path=path).splits["train"].columns is first.splits["train"].columns
    # Another of the same name, size and time is another inode.
    copy = changed.with_name("copy")
    copy.write_bytes(changed.read_bytes()[:-1] + b"?")
    os.utime(copy, (settled, settled))
    copy.replace(changed)
    assert SOURCES.make("folder", path=path).fingerprint != first.fingerprint
    assert opened[count:] == [changed.name], "the others are known"


def test_images_replaced_by_others_of_the_same_size_are_seen(tmp_path):
    path = write(tmp_path, "a/0.bmp", "a/1.bmp")
    before = SOURCES.make("folder", path=path)
    (tmp_path / "a" / "1.bmp").write_bytes((tmp_path / "a" / "0.bmp").read_bytes())
    after = SOURCES.make("folder", path=path)
    assert after.splits["train"].example("image", 1).max() == 0
    assert before.fingerprint != after.fingerprint


BAD_FOLDERS = [
    (["a/0.png", "b/c/0.png"], {}, r"expected images \(.jpg .*\) in '.*b', found none; it has folders \(c\): set"),
    (["a/0.tif", "a/1.gif"], {}, r"in '.*a', found none; it has .gif .tif: list the suffixes to read in data.suffixes"),
    (["a/0.png"], {"suffixes": ("png",)}, "expected data.suffixes such as '.jpg', in lower case, found 'png'"),
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
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"data.path: expected a file or a folder, found '.*pipe'"):
        folder.source(path=str(tmp_path / "pipe"))
    with pytest.raises(InputError, match="data.path='~nobody-at-all/x': Could not determine home directory; write"):
        folder.source(path="~nobody-at-all/x")


def test_shared_flowers5():
    data = folder.source(path=shared("vision/flowers5"))
    assert data.classes == ("daisy", "dandelion", "rose", "sunflower", "tulip")
    assert {name: np.bincount(split.labels).tolist() for name, split in data.splits.items()} == {
        "train": [200] * 5,
        "test": [60] * 5,
    }
    first = Path(shared("vision/flowers5")) / "test" / "rose"
    np.testing.assert_array_equal(data.splits["test"].example("image", 120), decode(min(first.iterdir())))
    assert data.splits["test"].example("image", 120).shape == (128, 128, 3)


@pytest.mark.parametrize("inside", [".", "a", "runs/x"])
def test_a_run_in_the_data_folder_is_refused_before_it_becomes_a_class(tmp_path, inside):
    config = tiny_config("resnet_basic")
    config.data = dict(source="folder", path=write(tmp_path / "data", *(f"{c}/{i}.png" for c in "abc" for i in "01")))
    with pytest.raises(
        InputError, match="is inside the data folder '.*data', where it would become a class; use a --wo"
    ):
        preflight(config, epath.Path(tmp_path / "data" / inside))
    assert preflight(config, epath.Path(tmp_path / "data2")).data.listed == tmp_path / "data"


def photo(file, orientation):
    """2 x 3 pixels (rows x columns), 10 to 60 by rows, with this EXIF orientation; None for no tag."""
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(np.arange(10, 70, 10, np.uint8).reshape(2, 3)).save(file, exif=exif)


def test_photographs_stand_upright_and_the_rest_keeps_its_bits(tmp_path):
    for name, orientation in (("a/0.png", 6), ("b/0.png", None), ("b/1.png", 1)):
        photo(tmp_path / "turned" / name, orientation)
        photo(tmp_path / "plain" / name, None)
    path, plain = str(tmp_path / "turned"), str(tmp_path / "plain")
    data, stored = folder.source(path=path), folder.source(path=path, exif_orientation=False)
    train = data.splits["train"]
    assert train.example("image", 0)[..., 0].tolist() == [[40, 10], [50, 20], [60, 30]]
    assert train.example("image", 1)[..., 0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert stored.splits["train"].example("image", 0)[..., 0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert data.notes == (
        "1 of 3 images are turned upright by their EXIF orientation; data.exif_orientation=false leaves them as stored",
    )
    # What depends on turned pixels is kept apart; where nothing is turned, it stays under the name it had.
    assert stored.notes == () and stored.fingerprint != data.fingerprint
    assert train.columns["image"].sha256 != stored.splits["train"].columns["image"].sha256
    upright, left = folder.source(path=plain), folder.source(path=plain, exif_orientation=False)
    assert upright.fingerprint == left.fingerprint
    assert upright.splits["train"].columns["image"].sha256 == left.splits["train"].columns["image"].sha256


def test_unreadable_files_stop_the_run_or_are_left_out_and_counted(tmp_path):
    path = write(tmp_path, "a/0.png", "a/1.png", "b/0.png", "b/1.png")
    clean = folder.source(path=path).fingerprint
    (tmp_path / "a" / "2.png").write_text("no image")
    whole = (tmp_path / "b" / "0.png").read_bytes()
    (tmp_path / "b" / "2.png").write_bytes(whole[: len(whole) // 2])
    for stop in (None, 0, "stop"):
        with pytest.raises(InputError, match=r"expected a readable image, found '.*2\.png'"):
            folder.source(path=path, bad_rows=stop)
    with pytest.raises(InputError, match=r"2 of 6 images in .* are bad .*leave them out with data.bad_rows=2"):
        folder.source(path=path, bad_rows=1)
    for skip in ("skip", 2):
        data = folder.source(path=path, bad_rows=skip)
        assert data.splits["train"].columns["image"].names == ("a/0.png", "a/1.png", "b/0.png", "b/1.png")
        (note,) = data.notes
        assert note.startswith(f"2 of 6 images in {path!r} are bad (a/2.png: expected a readable image, found")
        assert note.endswith("and left out")
        assert data.left_out == 2
        assert data.fingerprint == clean  # as if they were not there
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "0.png").write_text("no image")
    with pytest.raises(InputError, match="class 'c' has no readable file; replace them or remove its folder"):
        folder.source(path=path, bad_rows="skip")
    with pytest.raises(InputError, match="expected data.bad_rows to be a number >= 0, 'stop' or 'skip', found 'some'"):
        folder.source(path=path, bad_rows="some")


@pytest.mark.parametrize("name", ["val", "dev", "valid", "validation"])
def test_a_validation_folder_by_its_usual_names(tmp_path, name):
    path = write(tmp_path, "train/a/0.png", f"{name}/a/1.png")
    data = folder.source(path=path)
    assert (set(data.splits), data.provenance["val"]) == ({"train", "val"}, f"{name}/")
    write(tmp_path, "val/a/0.png", "dev/a/0.png", f"{name}/a/0.png")
    with pytest.raises(InputError, match="found both dev and val"):
        folder.source(path=path)


def test_classes_may_be_called_valid(tmp_path):
    assert folder.source(path=write(tmp_path, "valid/0.png", "invalid/1.png")).classes == ("invalid", "valid")


def test_prompts_make_texts_of_classes(tmp_path):
    path = write(tmp_path, "train/b_c/0.png", "train/b_c/1.png", "train/b_c/2.png", "train/a/0.png", "val/b_c/0.png")
    prompts = ("a photo of {}.", "a {}")
    data = folder.source(path=path, prompts=prompts)
    told = {name: [split.example("text", i) for i in range(len(split))] for name, split in data.splits.items()}
    assert told["train"] == ["a photo of a.", "a photo of b c.", "a b c", "a photo of b c."]
    assert told["val"] == ["a photo of b c."]
    assert data.splits["train"].input[0] == "image" and data.fingerprint != folder.source(path=path).fingerprint
    named = folder.source(path=path, prompts=prompts[1:], names=("x", "y"))
    assert named.splits["val"].example("text", 0) == "a y"
    for options, message in (
        (dict(prompts=prompts, names=("x",)), "data.names: expected a name for each of the 2 classes, found 1"),
        (dict(prompts=("a photo",)), "data.prompts: expected one {} for the class's name, found 'a photo'"),
        (dict(names=("x", "y")), "data.names are for data.prompts, of which there are none"),
    ):
        with pytest.raises(InputError, match=message):
            folder.source(path=path, **options)
