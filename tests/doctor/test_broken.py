"""Every row and file that can't be read is found, however many of them the config lets its source leave out."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import jaxfer
from jaxfer.diagnosis import broken
from jaxfer.diagnosis.finding import NOTE, WARNING, Example, Finding
from jaxfer.errors import InputError
from tests.doctor.test_duplicates_and_classes import by_kind, photos


@pytest.fixture
def folder(tmp_path):
    """18 images of two classes, and two files that are none."""
    rng = np.random.default_rng(0)
    for i in range(20):
        file = tmp_path / "photos" / "ab"[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(file)
    for name in ("a/04.png", "b/07.png"):
        (tmp_path / "photos" / name).write_bytes(b"no image")
    config = photos(tmp_path)
    config.data = dict(source="folder", path=str(tmp_path / "photos"), val_per_class=2)
    return config


@pytest.mark.parametrize(
    "bad_rows, severity, threshold",
    [(None, "severe", 1 / 20), ("stop", "severe", 1 / 20), (1, "severe", 2 / 20), (2, "warning", 0.01)]
    + [("skip", "warning", 0.01)],
)
def test_what_the_config_allows(bad_rows, severity, threshold, folder):
    folder.data.bad_rows = bad_rows
    diagnosis = jaxfer.doctor(folder, quiet=True)
    found = by_kind(diagnosis)["left_out"]
    assert (found.severity, found.value, found.threshold) == (severity, 2 / 20, threshold)
    assert [example.name for example in found.examples] == ["a/04.png", "b/07.png"]
    assert all(example.says.startswith("expected a readable image") for example in found.examples)
    assert "2 of 20" in found.message
    assert sum(diagnosis.examples.values()) == 18 and folder.data.bad_rows == bad_rows  # the caller's stays as it is


def test_a_run_refuses_as_before(folder, tmp_path):
    with pytest.raises(InputError, match=r"a/04\.png"):
        jaxfer.run(folder, tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="bad_rows"):
        folder.data.bad_rows = -1
        jaxfer.doctor(folder, quiet=True)


def test_a_stream_has_its_own(folder, tmp_path):
    shutil.copytree(tmp_path / "photos", tmp_path / "clean")
    for name in ("a/04.png", "b/07.png"):
        shutil.copy(tmp_path / "photos/a/00.png", tmp_path / "clean" / name)
    folder.stream.other = dict(source="folder", path=str(tmp_path / "photos"))
    folder.data.path = str(tmp_path / "clean")
    found = by_kind(jaxfer.doctor(folder, quiet=True))["left_out"]
    assert "config.stream.other" in found.message and found.severity == "severe"
    assert "config.stream.other.bad_rows=2" in found.fix


def test_a_finding_has_a_number_and_its_threshold_or_is_a_note():
    told = dict(kind="x", message="It is.", fix="y")
    for wrong in (dict(value=1), dict(threshold=1.0), dict(severity=WARNING)):
        with pytest.raises(ValueError, match="expected a value and a threshold"):
            Finding(**{"severity": NOTE, **told, **wrong})
    assert Finding(severity=NOTE, **told).text() == "note     x: It is.\n  fix: y"


def test_examples_of_rows_and_of_others():
    assert str(Example(split="val", row=0, name="a\n b", says="so")) == "val 0 a b: so"
    assert broken._example("t.tsv:7 has 3 fields: a") == Example(name="t.tsv:7", says="has 3 fields: a")
    assert str(broken._example("a b.png: no image: x")) == "a b.png: no image: x"
    assert broken._example("row") == Example(name="row")
    assert Example(split="train", name="cat", says="3").to_dict() == {"split": "train", "name": "cat", "says": "3"}
