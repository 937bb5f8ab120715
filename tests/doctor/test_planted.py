"""Faults of every kind planted in small real sets are found where they are, and the sets as they come are clean."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageFilter

import jaxfer
from tests.doctor import real
from tests.doctor.real import Small

SETS = (real.digits, real.photos, real.questions, real.patients, real.heartbeats)
# Kinds of notes on what could not be looked at, which other tests make.
ELSEWHERE = {"features_unread", "domain_unread"}
# Of one number, or a line of the plan.
NO_ROWS = {"rate", "warmup", "part_of_an_epoch", "plan"}
PAGE = Path(__file__).parents[2] / "docs/evidence.md"


class Plant(NamedTuple):
    """A fault.

    Attributes:
      make: the set it is planted in.
      group: those of one group and set are planted together.
      kind: of the finding.
      severity: likewise.
      plant: plants it; returns the examples, or some of them: (split, row), or the names of what is no row.
    """

    make: Callable[[Path], Small]
    group: str
    kind: str
    severity: str
    plant: Callable[[Small], set]


PLANTS: list[Plant] = []


def planted(make, group, kind, severity):
    def added(plant):
        PLANTS.append(Plant(make, group, kind, severity, plant))
        return plant

    return added


@planted(real.digits, "copies", "copies_across_splits", "severe")
def in_test_too(small):
    small.data["test_image"][3] = small.data["train_image"][6]
    return {("test", 3)}


@planted(real.digits, "copies", "copies_within_split", "warning")
def twice_in_train(small):
    images, labels = small.data["train_image"], small.data["train_label"]
    copies = [i for i in range(20, 160) if labels[i] == labels[7]][:2]
    images[copies] = images[7]
    return {("train", i) for i in copies}


@planted(real.digits, "copies", "copies_with_other_labels", "severe")
def twice_with_two_labels(small):
    images, labels = small.data["train_image"], small.data["train_label"]
    other = next(i for i in range(20, 160) if labels[i] != labels[8])
    images[other] = images[8]
    return {("train", 8)}


def fainter(image):
    """Almost the same for the eye, and another one for the model."""
    return (image * 0.9).astype(np.uint8)


@planted(real.digits, "copies", "near_copies_across_splits", "warning")
def fainter_in_val(small):
    small.data["val_image"][2] = fainter(small.data["train_image"][11])
    return {("val", 2)}


@planted(real.digits, "copies", "near_copies_within_split", "warning")
def fainter_in_train(small):
    small.data["train_image"][[151, 152]] = fainter(small.data["train_image"][[12, 13]])
    return {("train", 151), ("train", 152)}


@planted(real.digits, "copies", "near_copies_within_split", "warning")
def fainter_in_test(small):
    small.data["test_image"][40] = fainter(small.data["test_image"][41])
    return {("test", 41)}


@planted(real.digits, "labels", "label_issues", "warning")
def other_labels(small):
    labels = small.data["train_label"]
    labels[50:62] = (labels[50:62] + 1) % 4
    return {("train", i) for i in range(50, 62)}


@planted(real.digits, "labels", "label_issues", "warning")
def other_labels_of_val(small):
    labels = small.data["val_label"]
    labels[50:58] = (labels[50:58] + 1) % 4
    return {("val", i) for i in range(50, 58)}


STRIPES = np.array([255, 0, 0, 255] * 4, np.uint8)


@planted(real.digits, "labels", "outliers", "warning")
def stripes(small):
    small.data["train_image"][:3] = STRIPES[:, None]
    return {("train", i) for i in range(3)}


@planted(real.digits, "labels", "outliers", "note")
def stripes_in_val(small):
    small.data["val_image"][:2] = STRIPES[None, :]
    return {("val", 0), ("val", 1)}


@planted(real.digits, "drift", "drift", "warning")
def rotated(small):
    small.data["val_image"][:] = np.rot90(small.data["val_image"], axes=(1, 2))
    return set()


def of_class(small, split, c, most):
    """Drops all but `most` examples of a class."""
    labels = small.data[f"{split}_label"]
    kept = np.setdiff1d(np.arange(len(labels)), np.flatnonzero(labels == c)[most:])
    for name in (f"{split}_image", f"{split}_label"):
        small.data[name] = small.data[name][kept]


@planted(real.digits, "classes", "few_examples", "warning")
def three_of_a_class(small):
    of_class(small, "train", 3, 3)
    return {"3"}


@planted(real.digits, "classes", "imbalance", "warning")
def a_large_class(small):
    return {"3"}  # the same three: the largest class has ten times as many


@planted(real.digits, "classes", "absent_class", "warning")
def none_in_val(small):
    of_class(small, "val", 2, 0)
    return {"2"}


@planted(real.digits, "classes", "small_val", "note")
def a_small_val(small):
    for name in ("val_image", "val_label"):
        small.data[name] = small.data[name][:40]
    return {"3"}


@planted(real.digits, "classes", "order", "note")
def sorted_by_class(small):
    order = np.argsort(small.data["train_label"], kind="stable")
    for name in ("train_image", "train_label"):
        small.data[name] = small.data[name][order]
    return {("train", 0)}


@planted(real.digits, "few", "labels_unchecked", "note")
def four_labels_a_class(small):
    small.config.data.labels_per_class = 4
    return {"0", "1", "2", "3"}


@planted(real.digits, "plan", "rate", "severe")
def a_high_rate(small):
    small.config.update(method="full", lr=0.5)
    return set()


@planted(real.digits, "plan", "only_head", "warning")
def all_but_the_head_frozen(small):
    small.config.freeze = ("(?!head).*",)
    return set()


@planted(real.digits, "plan", "warmup", "warning")
def a_long_warmup(small):
    small.config.update(steps=4, warmup=3)
    return set()


@planted(real.digits, "plan", "part_of_an_epoch", "warning")
def few_steps(small):
    return set()  # the same four


@planted(real.digits, "plan", "sampled", "note")
def not_all_looked_at(small):
    small.examples = 50
    return {"train", "val", "test"}


def photo(small, i, name="cat"):
    return sorted((small.data["train"] / name).iterdir())[i]


def changed(small, i, change):
    """Changes a photo, kept without loss under its name; returns the name that findings have."""
    file = photo(small, i)
    with Image.open(file) as image:
        change(image.convert("RGB")).save(file, format="PNG")
    return f"train/cat/{file.name}"


def blended(colour, part):
    return lambda image: Image.blend(image, Image.new("RGB", image.size, colour), part)


@planted(real.photos, "looks", "blank", "severe")
def one_colour(small):
    return {changed(small, 0, blended("gray", 1.0))}


@planted(real.photos, "looks", "dark", "warning")
def in_the_dark(small):
    return {changed(small, 1, blended("black", 0.85))}


@planted(real.photos, "looks", "bright", "warning")
def overexposed(small):
    return {changed(small, 2, blended("white", 0.92))}


@planted(real.photos, "looks", "blurry", "warning")
def out_of_focus(small):
    return {changed(small, 3, lambda image: image.filter(ImageFilter.GaussianBlur(30)))}


@planted(real.photos, "looks", "aspect", "warning")
def a_strip(small):
    return {changed(small, 4, lambda image: image.crop((0, 0, image.width, image.width // 5)))}


@planted(real.photos, "looks", "small", "note")
def a_thumbnail(small):
    return {changed(small, 5, lambda image: image.resize((12, 12)))}


@planted(real.photos, "looks", "left_out", "severe")
def cut_short(small):
    for i in (6, 7):
        photo(small, i).write_bytes(photo(small, i).read_bytes()[:900])
    return {f"train/cat/{photo(small, i).name}" for i in (6, 7)}


@planted(real.photos, "looks", "undecodable", "severe")
def a_bit_in_the_middle(small):
    name, file = changed(small, 8, lambda image: image), photo(small, 8)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(bytes(content))
    return {name}


@planted(real.photos, "dogs at night", "shortcut", "severe")
def dark_dogs(small):
    for i in range(30):
        file = photo(small, i, "dog")
        with Image.open(file) as image:
            blended("black", 0.8)(image.convert("RGB")).save(file)
    return set()


@planted(real.questions, "texts", "empty", "severe")
def no_word(small):
    for row in (3, 4):
        small.data["train"][row][0] = "? !"
    return {("train", 3), ("train", 4)}


@planted(real.questions, "texts", "cut", "warning")
def long_texts(small):
    for row in range(10, 20):
        small.data["train"][row][0] += " and how" * 40
    return {("train", row) for row in range(10, 20)}


@planted(real.questions, "texts", "unknown_tokens", "warning")
def another_script(small):
    for row in range(30, 45):
        small.data["val"][row][0] = "что такое осень это небо плачущее небо под ногами"
    return {("val", row) for row in range(30, 45)}


@planted(real.questions, "texts", "near_copies_across_splits", "warning")
def in_capitals(small):
    small.data["val"][50][0] = small.data["train"][60][0].upper().replace(" ?", "?! ")
    return {("val", 50)}


@planted(real.questions, "texts", "left_out", "severe")
def a_field_too_many(small):
    small.data["train"] += [["which", "of", "DESC"], ["what", "DESC", ""]]
    return {"train.tsv:162", "train.tsv:163"}


@planted(real.patients, "columns", "constant_column", "warning")
def one_value(small):
    for row in small.data["rows"]:
        row["sex"] = "1"
    return {"sex"}


@planted(real.patients, "columns", "missing_values", "warning")
def gaps(small):
    for i, row in enumerate(small.data["rows"]):
        row["thalach"] = row["thalach"] if i % 3 == 0 else ""
    return {("train", i) for i in range(303) if i % 3}


@planted(real.patients, "columns", "shortcut", "severe")
def the_treatment(small):
    """What is known once the disease is."""
    for i, row in enumerate(small.data["rows"]):
        row["treated"] = float(row["disease"]) + (i % 7) / 20
    small.config.data.numbers = (*small.config.data.numbers, "treated")
    return set()


@planted(real.heartbeats, "copies", "copies_across_splits", "severe")
def a_beat_in_test_too(small):
    small.data["test_series"][[5, 6]] = small.data["train_series"][[20, 21]]
    return {("test", 5), ("test", 6)}


@planted(real.digits, "source", "worse_than_inputs", "warning")
def a_source_that_learned_nothing(small):
    """One step on digits in white, after which the features are still those of random weights."""
    (small.folder / "white").mkdir()
    made = real.digits(small.folder / "white")
    for split in ("train", "val", "test"):
        made.data[f"{split}_image"] = 255 - made.data[f"{split}_image"]
    made.write()
    made.config.steps = 1
    jaxfer.run(made.config, small.folder / "white/run", quiet=True)
    small.config.update(init=f"run:{small.folder / 'white/run'}", head="reset", method="probe")
    return set()


@planted(real.digits, "source", "pilot", "note")
def a_probe_of_it(small):
    return {"0", "1", "2", "3"}


@planted(real.digits, "source", "domain_gap", "note")
def white_digits(small):
    return set()  # those of the source


@planted(real.digits, "source", "preprocessing", "warning")
def another_mean(small):
    small.config.model.mean = (0.1,)
    small.config.differs = ("mean",)
    return {"mean"}


@planted(real.digits, "source", "plan", "note")
def frozen_twice(small):
    small.config.freeze = ("(?!head).*",)  # by the method too
    return set()


def found(small):
    small.write()
    return jaxfer.doctor(small.config, examples=small.examples, quiet=True, place=small.folder / "run")


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory):
    """(set, group) -> (its diagnosis, {plant: what it returned}), made once; group "" is the set as it comes."""
    made = {}

    def of(make, group=""):
        if (make, group) not in made:
            small = make(tmp_path_factory.mktemp(make.__name__))
            told = {p.plant: p.plant(small) for p in PLANTS if (p.make, p.group) == (make, group)}
            made[make, group] = found(small), told
        return made[make, group]

    return of


def of_kind(diagnosis, kind, severity):
    return [f for f in diagnosis.findings if (f.kind, f.severity) == (kind, severity)]


def told(findings):
    """The examples as plants return them: rows, but files by their names, and what is no row by its name."""
    examples = [example for finding in findings for example in finding.examples]
    files = [re.match(r"train/\w+/\w+\.jpg|\w+\.tsv:\d+", example.name) for example in examples]
    rows = [(e.split, e.row) if e.row is not None else e.name or e.split for e in examples]
    return {row if file is None else file[0] for row, file in zip(rows, files, strict=True)}


def cases():
    for plant in PLANTS:
        marks = [pytest.mark.system] if plant.group == "source" else []
        yield pytest.param(plant, id=f"{plant.make.__name__}-{plant.plant.__name__}", marks=marks)


@pytest.mark.parametrize("plant", [*cases()])
def test_what_is_planted_is_found(plant, diagnosed):
    """With its number, its threshold and its examples, and not in the set as it comes."""
    diagnosis, expected = diagnosed(plant.make, plant.group)
    findings = of_kind(diagnosis, plant.kind, plant.severity)
    assert findings, diagnosis.text()
    assert all((f.value is not None and f.threshold is not None) == (f.kind != "plan") and f.fix for f in findings)
    rows = expected[plant.plant]
    seen = told(findings)
    assert rows <= seen or len(rows & seen) >= 4, (rows, seen, diagnosis.text())
    assert seen or plant.kind in NO_ROWS
    if plant.kind != "pilot":  # of every set
        clean = of_kind(diagnosed(plant.make)[0], plant.kind, plant.severity)
        assert not rows & told(clean) and (rows or not clean)


@pytest.mark.parametrize("make", SETS, ids=lambda make: make.__name__)
def test_sets_as_they_come_have_nothing_severe(make, diagnosed):
    diagnosis, _ = diagnosed(make)
    assert not diagnosis.counts["severe"], diagnosis.text()
    assert {f.kind for f in diagnosis.findings} & {"pilot", "label_issues"}


def test_every_kind_of_the_page_is_planted():
    table = PAGE.read_text().partition("| kind | what it is |")[2].partition("\n\n")[0]
    kinds = {kind for line in table.splitlines()[2:] for kind in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert kinds == {plant.kind for plant in PLANTS} | ELSEWHERE
