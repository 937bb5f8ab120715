"""Features of frozen backbones as rows: side by side, of the same examples, under one head."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jaxfer
import jaxfer.config
from jaxfer.conformance.sources import PROPERTIES
from jaxfer.data.sources import features
from jaxfer.errors import InputError
from jaxfer.runs.finished import open_run

ROWS = {"train": [3, 0, 2, 5], "val": [1, 4], "test": [0, 1, 2]}


def written(folder, name, width, split, **changes):
    """A file as `jaxfer features` writes it; its first numbers are 10 x the row."""
    rows = np.array(ROWS[split], np.int64)
    values = 10 * rows[:, None] + np.arange(width, dtype=np.float32)
    about = {"unit": "features", "pool": None, "split": split, "weights_sha256": name, "data_sha256": "d"}
    about |= {"encodings": [{"size": 8}]}
    about |= {"classes": ["cat", "dog"]} | changes.pop("about", {})
    arrays = {"features": values.astype(np.float32), "row": rows, "label": rows % 2, "about": json.dumps(about)}
    arrays = {key: value for key, value in (arrays | changes).items() if value is not None}
    np.savez(folder / f"{name}_{split}.npz", **arrays)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ROWS:
        written(tmp_path, "a", 2, split)
        written(tmp_path, "b", 3, split)
    return tmp_path


BOTH = ("a_{split}.npz", "b_{split}.npz")


def test_side_by_side(folder):
    data = features.source(paths=BOTH)
    assert all(check(data) is None for check in PROPERTIES)
    assert data.classes == ("cat", "dog") and list(data.splits) == ["train", "val", "test"]
    train = data.splits["train"]
    assert train.example("row", 0) == {"a_0": 30, "a_1": 31, "b_0": 30, "b_1": 31, "b_2": 32}
    assert train.labels.tolist() == [1, 0, 0, 1]
    assert data.notes == () and data.provenance["val"] == "a_val.npz, b_val.npz"


def test_of_one_and_of_what_is_there(folder):
    (folder / "a_val.npz").unlink()
    data = features.source(paths=("a_{split}.npz",))
    assert list(data.splits) == ["train", "test"] and data.splits["test"].example("row", 1) == {"a_0": 10, "a_1": 11}
    assert data.fingerprint != features.source(paths=("b_{split}.npz",)).fingerprint


def test_numbers_are_targets_where_there_are_no_classes(folder):
    written(folder, "a", 2, "train", about={"classes": []}, label=np.array([0.5, 1, 2, 3]))
    for split in ("val", "test"):
        (folder / f"a_{split}.npz").unlink()
    data = features.source(paths=("a_{split}.npz",))
    assert data.classes == () and data.splits["train"].labels.tolist() == [0.5, 1, 2, 3]


def test_sets_of_classes(folder):
    sets = np.array([[True, False], [True, True], [False, False], [False, True]])
    written(folder, "a", 2, "train", label=sets)
    for split in ("val", "test"):
        (folder / f"a_{split}.npz").unlink()
    data = features.source(paths=("a_{split}.npz",))
    assert data.splits["train"].columns["label"].kind == "classes"
    np.testing.assert_array_equal(data.splits["train"].labels, sets)
    assert all(check(data) is None for check in PROPERTIES)


@pytest.mark.parametrize(
    ("paths", "name", "split", "changes", "message"),
    [
        ((), "", "", {}, "needs paths; set data.paths"),
        (("a.npz",), "", "", {}, r"expected data.paths to contain '\{split\}', found 'a.npz'"),
        (("a_{split}.npz",) * 2, "", "", {}, "occurs twice; name each backbone once"),
        (("c_{split}.npz",), "", "", {}, "data.paths does not exist"),
        (BOTH, "a", "train", {"about": None}, "expected features with labels in .*, found no 'about'; write it by"),
        (BOTH, "a", "train", {"about": ["x"]}, "expected features with labels in .*, found"),
        (BOTH, "a", "train", {"features": np.zeros((3, 2))}, "found features, row and label of 3, 4 and 4"),
        (BOTH, "a", "train", {"label": np.array(["x"] * 4)}, r"found features float32, label <U1\[\] of 2 classes"),
        (BOTH, "a", "train", {"label": np.full(4, 0.5)}, r"found features float32, label float64\[\] of 2 classes"),
        (BOTH, "a", "train", {"features": np.full((4, 2), 1e300)}, "found NaN or infinity"),
        (BOTH, "a", "val", {"about": {"encodings": []}}, "expected encodings=.* in .*a_val.*, as train has it"),
        (BOTH, "a", "val", {"about": {"classes": ["cat"]}}, "expected the classes of train in .*a_val.*1 for 2"),
        (BOTH, "a", "train", {"features": np.zeros((4, 2, 3))}, r"found \[2, 3\]; write it with --pool=mean"),
        (BOTH, "a", "train", {"features": np.full((4, 2), np.nan)}, "found NaN or infinity"),
        (BOTH, "a", "train", {"label": None}, "found no 'label'; write it by"),
        (
            BOTH,
            "b",
            "train",
            {"row": np.arange(4)},
            "expected features of the same examples in .*a_train.* and .*b_train",
        ),
        (BOTH, "b", "test", {"about": {"data_sha256": "e"}}, "expected features of the same examples"),
        (BOTH, "b", "test", {"about": {"weights_sha256": "c"}}, 'expected weights_sha256="b" in .*b_test.*found "c"'),
        (BOTH, "b", "val", {"about": {"unit": "stem"}}, 'expected unit="features" in .*b_val.*, as train has it'),
    ],
)
def test_what_is_refused(folder, paths, name, split, changes, message):
    if name:
        if not isinstance(changes.get("about", {}), dict):
            about = {} if changes["about"] is None else {"about": json.dumps(changes["about"])}
            np.savez(
                folder / f"{name}_{split}.npz", features=np.zeros((4, 2)), row=np.arange(4), label=np.zeros(4), **about
            )
        else:
            written(folder, name, {"a": 2, "b": 3}[name], split, **changes)
    with pytest.raises(InputError, match=message):
        features.source(paths=paths)


def test_a_backbone_without_a_split(folder):
    (folder / "b_val.npz").unlink()
    with pytest.raises(InputError, match=r"val has 'a_\{split\}.npz' and not 'b_\{split\}.npz'; write both"):
        features.source(paths=BOTH)


def test_the_split_may_be_a_folder_and_names_alike(folder, monkeypatch):
    """What is called alike is told apart by its place; a relative path is also looked up in JAXFER_DATA."""
    for split in ROWS:
        for width in (2, 3):
            (folder / f"w{width}" / split).mkdir(parents=True)
            written(folder / f"w{width}" / split, "a", width, split)
    paths = ("w2/{split}/a_{split}.npz", "w3/{split}/a_{split}.npz")
    monkeypatch.chdir("/")
    monkeypatch.setenv("JAXFER_DATA", str(folder))
    data = features.source(paths=paths)
    assert list(data.splits) == ["train", "val", "test"]
    assert list(data.splits["train"].example("row", 0)) == ["0_a_0", "0_a_1", "1_a_0", "1_a_1", "1_a_2"]


def test_another_split_is_noted(folder):
    (folder / "b_train.npz").rename(folder / "b_test.npz")
    written(folder, "b", 3, "train")
    data = features.source(paths=("b_{split}.npz",))
    assert data.notes == ("b_test.npz is of the split 'train', and is read as test",)


@pytest.mark.system
def test_late_fusion_is_a_run(tmp_path):
    """Two networks' features of the same digits, by `jaxfer features`, under one new head."""
    paths = []
    for width in (4, 8):
        config = jaxfer.config.base()
        config.model = dict(name="resnet", stage_sizes=(1,), width=width, stem="cifar", image=(8, 8, 1))
        config.data = dict(source="digits", classes=("3", "8"), val_per_class=20)
        config.parallel.devices = 1
        config.update(batch_size=16, steps=4, save_every=0)
        jaxfer.run(config, tmp_path / f"of_{width}", quiet=True)
        for split in ("train", "val"):
            jaxfer.features(tmp_path / f"of_{width}", split=split).write(tmp_path / f"width{width}_{split}.npz")
        paths.append(str(tmp_path / f"width{width}_{{split}}.npz"))
    config = jaxfer.config.base()
    config.model = dict(name="row_mlp")
    config.data = dict(source="features", paths=tuple(paths))
    config.parallel.devices = 1
    config.update(batch_size=16, steps=30, lr=1e-2, save_every=0)
    result = jaxfer.run(config, tmp_path / "fused", quiet=True)
    assert result["classes"] == ["3", "8"] and result["examples"]["val"] == 40
    assert result["metrics"]["val"]["accuracy"] > 0.8
    numbers = dict(open_run(tmp_path / "fused").experiment.model.options)["numbers"]
    assert numbers[:2] == ("width4_0", "width4_1") and "width8_0" in numbers
