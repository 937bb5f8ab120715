"""Faults of every kind planted in small real sets are found where they are, and the sets as they come are clean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import jaxfer
from tests.doctor import plants_of_images, plants_of_others, real

PLANTS = [*plants_of_images.PLANTS, *plants_of_others.PLANTS]
SETS = (real.digits, real.photos, real.questions, real.patients, real.heartbeats)
# A kind of note on what could not be looked at, which another test makes.
ELSEWHERE = {"domain_unread"}
# What could not be looked at, or a line of the plan; neither has a number.
NO_ROWS = {"features_unread", "plan"}
PAGE = Path(__file__).parents[2] / "docs/evidence.md"


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
    assert all((f.value is not None and f.threshold is not None) == (f.kind not in NO_ROWS) and f.fix for f in findings)
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
