"""The picture of a confusion matrix: counts and names to be read, colours by share, the same bytes twice."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jaxfer.errors import InputError
from jaxfer.figures import confusion

ZOO = ("cat", "dog", "an animal with a name that is too long")
CELLS = np.asarray([[40, 10, 0], [1, 99, 0], [0, 0, 0]])


def texts_of(path):
    return [text.text for text in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def pixels_of(path):
    return np.round(255 * matplotlib.image.imread(str(path))[..., :3]).astype(int)


def count_of(pixels, share):
    colour = np.round(255 * np.asarray(to_rgb(confusion.SHARES(share**0.5)))).astype(int)
    return int((np.abs(pixels - colour).max(-1) <= 1).sum())


def test_counts_names_and_shares(tmp_path):
    confusion.confusion(CELLS, ZOO, tmp_path / "a", "val")
    texts = texts_of(tmp_path / "a.svg")
    assert {"40", "10", "1", "99"} <= set(texts) and "0" not in texts
    assert {"cat", "cat (50)", "dog (100)", "an animal wi…is too long (0)"} <= set(texts)
    assert {"predicted", "true class of val (examples)"} <= set(texts)
    pixels = pixels_of(tmp_path / "a.png")
    cell = count_of(pixels, 0.8)
    assert cell > 1000
    for share in (0.2, 0.01, 0.99):
        assert count_of(pixels, share) > 0.7 * cell
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge == 255).all()


def test_many_classes_are_named_without_counts(tmp_path):
    names = [f"kind {i}" for i in range(24)]
    confusion.confusion(np.eye(24, dtype=int), names, tmp_path / "a.png", "test")
    texts = texts_of(tmp_path / "a.svg")
    assert texts.count("kind 23") == texts.count("kind 23 (1)") == 1 and "1" not in texts


def test_the_pictures_of_a_run(tmp_path):
    report = {"confusion": {"cat": {"cat": 40, "dog": 10}, "dog": {"cat": 1, "dog": 99}}}
    result = {
        **{"metrics": {}, "seed": 0, "steps": 1, "checkpoint_step": 1, "examples": {}, "versions": {}},
        **{"classes": ZOO, "report": {"val": report}, "lineage": {"init": "scratch", "sha256": "", "data_sha256": ""}},
        "cost": {"params_trainable": 1, "params_total": 1, "seconds": 1.0},
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert [path.name for path in confusion.of_run(tmp_path)] == ["confusion_val.png"]
    confusion.confusion(CELLS, ZOO, tmp_path / "again", "val")
    for suffix in ("png", "svg"):
        assert (tmp_path / f"again.{suffix}").read_bytes() == (tmp_path / f"confusion_val.{suffix}").read_bytes()
    del result["report"]
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert confusion.of_run(tmp_path) == () and len(os.listdir(tmp_path)) == 5


def test_a_matrix_of_another_size(tmp_path):
    with pytest.raises(InputError, match=r"expected counts \[3, 3\] for 3 classes, found \[2, 2\]"):
        confusion.confusion(np.eye(2, dtype=int), ZOO, tmp_path / "a", "val")
