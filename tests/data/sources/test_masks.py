"""Images with masks: what is read, and what is refused before a run."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfer.conformance import sources
from jaxfer.data.sources import masks
from jaxfer.errors import InputError

MASKED = Path(__file__).parent.parent / "masked"


@pytest.fixture
def root(tmp_path):
    return Path(shutil.copytree(MASKED, tmp_path / "masked"))


def _mask(file: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(file)


@pytest.mark.parametrize("check", sources.PROPERTIES, ids=lambda check: check.__name__)
def test_the_source_keeps(check):
    assert check(masks.source(path=str(MASKED))) is None


def test_pairs_are_read_by_name(root):
    dataset = masks.source(path=str(root))
    assert dataset.classes == ("background", "red", "blue") and dataset.notes == ()
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "val": 4, "test": 4}
    split = pickle.loads(pickle.dumps(dataset.splits["train"]))
    assert {name: column.kind for name, column in split.columns.items()} == {"image": "image", "mask": "mask"}
    for row in range(len(split)):
        image, mask = split.example("image", row), split.example("mask", row)
        assert mask.dtype == np.uint8 and mask.shape == image.shape[:2] and set(np.unique(mask)) <= {0, 1, 2, 255}
    assert set(dataset.splits["test"].sealed().columns) == {"image"}


def test_classes_are_counted_without_names(root):
    (root / "classes.txt").unlink()
    assert masks.source(path=str(root)).classes == ("class_0", "class_1", "class_2")


def test_a_palette_is_read_by_its_indices(root):
    file = root / "masks/train/0.png"
    before = masks.source(path=str(root))
    palette = Image.fromarray(before.splits["train"].example("mask", 0)).convert("L")
    coloured = Image.new("P", palette.size)
    coloured.putdata(list(palette.getdata()))
    coloured.putpalette([200, 10, 30] * 256)
    coloured.save(file)
    after = masks.source(path=str(root))
    np.testing.assert_array_equal(after.splits["train"].example("mask", 0), np.asarray(palette))
    assert after.fingerprint != before.fingerprint


def test_masks_beyond_the_sample_are_noted(root, monkeypatch):
    monkeypatch.setattr(masks, "SAMPLE", 4)
    assert masks.source(path=str(root)).notes == ("4 of the 8 masks of train were read to check their numbers",)


def _absent(root):
    (root / "masks/train/3.png").unlink()


def _alone(root):
    (root / "images/val/2.png").unlink()


def _size(root):
    _mask(root / "masks/train/0.png", np.zeros((5, 6), np.uint8))


def _number(root):
    mask = np.asarray(Image.open(root / "masks/test/1.png")).copy()
    mask[0, 0] = 3
    _mask(root / "masks/test/1.png", mask)


def _colours(root):
    Image.open(root / "masks/train/2.png").convert("RGB").save(root / "masks/train/2.png")


def _text(root):
    (root / "masks/train/0.png").write_text("no image")


def _cut(root):
    content = (root / "masks/train/0.png").read_bytes()
    (root / "masks/train/0.png").write_bytes(content[: len(content) // 2])


def _image(root):
    (root / "images/train/0.png").write_text("no image")


def _twice(root):
    shutil.copy(root / "images/train/0.png", root / "images/train/0.jpg")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_absent, "expected a .png mask for each file in '.*images/train', found 1 without, such as '3.png'; add"),
        (_alone, "expected an image for each file in '.*masks/val', found 1 without, such as '2.png'; add"),
        (_size, "expected a mask of 16 x 12 pixels for '.*images/train/0.png', found 5 x 6; redraw it"),
        (_number, r"expected numbers 0\.\.2 or 255 in '.*masks/test/1.png', found 3; list every class in classes.txt"),
        (_colours, "expected a mask of one byte a pixel, found '.*2.png' of mode RGB; save it as"),
        (_text, r"expected a readable mask, found '.*masks/train/0.png' \(.*\); replace or remove the file"),
        (_cut, r"expected a readable mask, found '.*masks/train/0.png' \(.*\); replace or remove the file"),
        (_image, r"expected a readable image, found '.*images/train/0.png' \(.*\); replace or remove the file"),
        (_twice, "expected one file called '0' in '.*images/train', found two; rename one"),
        (lambda root: shutil.rmtree(root / "masks/train"), "found no masks/train; correct data.path or move the files"),
        (lambda root: shutil.rmtree(root / "masks/val"), "found no masks/val; add or rename the folder"),
        (lambda root: (root / "images/extra").mkdir(), "found images/extra; add or rename the folder"),
        (lambda root: (root / "classes.txt").write_text("a\na\n"), "expected 2 to 255 different names in"),
    ],
)
def test_wrong_files_are_refused_in_one_line(root, damage, message):
    damage(root)
    with pytest.raises(InputError) as refused:
        masks.source(path=str(root))
    assert re.search(message, str(refused.value)) and "\n" not in str(refused.value)


def test_bad_pairs_may_be_left_out(root):
    """As if they were not there; others are read as before, and what can't be read is counted."""
    for damage in (_size, _number, _cut):
        damage(root)
    _text_of(root / "images/val/1.png")
    with pytest.raises(InputError, match=r"3 of 16 pairs in '.*' are bad \(images/train/0.png: .*data.bad_rows=3"):
        masks.source(path=str(root), bad_rows=2)
    data = masks.source(path=str(root), bad_rows=3)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 7, "val": 3, "test": 3}
    assert len(data.bad) == 3 and data.notes[-1].endswith("and left out")
    assert data.bad[0].startswith("images/train/0.png: expected a readable mask, found")
    assert data.bad[1].startswith("images/val/1.png: expected a readable image, found")
    assert data.bad[2].startswith("images/test/1.png: expected numbers 0..2 or 255 in")
    for name in ("images/train/0.png", "masks/train/0.png", "images/val/1.png", "masks/val/1.png"):
        (root / name).unlink()
    for tree in ("images", "masks"):
        (root / tree / "test/1.png").unlink()
    assert masks.source(path=str(root)).fingerprint == data.fingerprint


def test_no_pair_of_a_split_can_be_read(root):
    for file in (root / "images/val").iterdir():
        _text_of(file)
    with pytest.raises(InputError, match="val of .* has no readable pair; replace some or remove it"):
        masks.source(path=str(root), bad_rows="skip")


def _text_of(file):
    file.write_text("no image")
