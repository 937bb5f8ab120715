"""The tables of experiments' READMEs are those that their scripts make of the numbers kept beside them."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHODS, CLAIMS, WHICH = (ROOT / "experiments" / name for name in ("methods", "claims", "which_transfer"))
KEPT = sorted(METHODS.glob("*/*.csv"))


def script(folder, name, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module(name)


def read(file):
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def tables(file, monkeypatch):
    """What a script makes of a file."""
    kind, name = file.parent.name, file.stem
    module, found = script(METHODS, f"{kind}_table", monkeypatch), read(file)
    if kind == "domains":
        return [module.table(name, found, measure) for measure in module.MEASURES if measure in found[0]]
    if kind == "continual":
        return [module.table(found)]
    return [module.table(found) if kind == "unlabelled" else module.table(name, found)]


@pytest.mark.parametrize("file", KEPT, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_methods(file, monkeypatch):
    shown = (METHODS / "README.md").read_text()
    made = tables(file, monkeypatch)
    assert made and all(table.count("\n") > 2 for table in made)
    for table in made:
        assert table in shown, table


def test_few_labels():
    """A line for each network and number of labels; columns are the rules, as in the file."""
    shown, rows = (METHODS / "README.md").read_text(), read(METHODS / "fewshot.csv")
    told = [f"{float(row['accuracy']):.3f} ± {float(row['half_width']):.3f}" for row in rows]
    for i in range(0, len(rows), 3):
        row = rows[i]
        cells = (row["set"], row["backbone"], row["labels a class"], *told[i : i + 3])
        assert "| " + " | ".join(cells) + " |" in shown


def test_claims(monkeypatch):
    module, shown = script(CLAIMS, "claims_table", monkeypatch), (CLAIMS / "README.md").read_text().splitlines()
    for file in sorted(module.KEPT.glob("*.csv")):
        for amount in ("few", "all"):
            assert "| " + " | ".join(module.row(file.stem, amount, read(file))) + " |" in shown, file.stem


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in WHICH.glob("*/sweep.csv")))
def test_which_transfer(folder, monkeypatch):
    module, shown = script(WHICH, "which_transfer_table", monkeypatch), (WHICH / "README.md").read_text()
    for table in module.tables(WHICH / folder):
        assert table in shown, table
