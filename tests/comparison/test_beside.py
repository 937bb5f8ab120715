"""What a comparison measures beside its metric: the same numbers as of each run alone, and the verdicts over them."""

from __future__ import annotations

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

import jaxfer
from jaxfer.comparison import beside, beside_tables
from jaxfer.data.corruptions import KINDS
from jaxfer.errors import InputError
from jaxfer.evals.verdicts import holm, verdict
from jaxfer.training.robustness import mean, retention, robustness
from tests.comparison import example

ASKED = {
    "compare.metrics": "ece,macro_f1",
    "compare.severity": 2,
    "compare.retention": True,
    "compare.examples": "20,10",
    "compare.methods": "probe,side_tuning",
    "compare.seeds": 2,
    "compare.trials": 1,
    "steps": 6,
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(config, folder, source, what was found)."""
    folder = tmp_path_factory.mktemp("beside")
    source = example.source(folder / "source")
    spec, overrides = example.write(folder), {"init": f"run:{source}", **ASKED}
    return (
        spec,
        folder / "run",
        source,
        overrides,
        jaxfer.compare(spec, folder / "run", overrides=overrides, quiet=True),
    )


def runs(folder, arm, labels):
    cells = json.loads((folder / "cells.json").read_text())
    return [folder / c["folder"] for c in cells if c["name"].startswith(f"{arm} {labels} labels")]


@pytest.mark.system
def test_numbers_are_those_of_the_runs(compared):
    _, folder, source, _, found = compared
    assert [(f.labels, f.arm) for f in found.findings][:3] == [(10, "scratch"), (10, "probe"), (10, "side_tuning")]
    for f in found.findings:
        ece, f1, corrupted, kept = f.beside
        each = runs(folder, f.arm, f.labels)
        results = [json.loads((run / "result.json").read_text())["metrics"]["test"] for run in each]
        assert ece.test == tuple(r["ece"] for r in results) and f1.test == tuple(r["macro_f1"] for r in results)
        if f.labels == 10:  # the first seed's run alone: 15 corruptions each
            again = robustness(each[0], split="test", severity=2)
            assert len(corrupted.test) == len(each) and corrupted.test[0] == mean(again, "accuracy")
            for name in KINDS["image"]:
                assert corrupted.each[name][0] == again[name]["accuracy"]
        if f.arm == "probe":
            both = [retention(run, source) for run in each]
            assert kept.test == tuple(pair.after for pair in both) and kept.before == both[0].before == kept.test[0]
        else:  # scratch has no source, and no plain network is left of the other
            assert np.isnan(kept.test).all()


@pytest.mark.system
def test_verdicts_are_paired_and_corrected_together(compared):
    found = compared[-1].findings
    at = [f for f in found if f.labels == 10]
    judged = [part for f in at[1:] for part in f.beside if part.verdict is not None]
    assert len(judged) == 2 * 3 and all(part.verdict is None for part in at[0].beside)
    assert [part.p_holm for part in judged] == holm([part.verdict.p for part in judged])
    ece, words = at[1].beside[0], {"metric": "test ece", "maximize": False}
    assert ece.verdict == verdict("probe", ece.test, at[0].beside[0].test, **words)
    assert "10 labels in all:" in compared[-1].sentences and "ece against scratch:" in compared[-1].sentences
    assert f"on the source, {at[1].beside[3].before:.3f} before: " in compared[-1].sentences
    assert "side_tuning not known" in compared[-1].sentences


@pytest.mark.system
def test_what_is_written_and_read_again(compared, monkeypatch):
    spec, folder, _, overrides, found = compared
    with open(folder / "beside.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.findings) * (4 + len(KINDS["image"])) and rows[0]["measure"] == "ece"
    fog = next(row for row in rows if row["measure"] == "corrupted accuracy: fog")
    each = found.findings[0].beside[2].each["fog"]
    assert float(fog["mean"]) == pytest.approx(np.mean(each), abs=1e-6) and len(fog["scores"].split()) == len(each)
    with open(folder / "table.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["ece"]) == pytest.approx(np.mean(found.findings[0].beside[0].test), abs=1e-6)
    (head, *_) = (line for line in (folder / "table.md").read_text().splitlines() if "method" in line)
    assert "| verdict | ece | ece over scratch | macro_f1 |" in head and "| on the source | seconds |" in head
    content = json.loads((folder / "comparison.json").read_text())
    assert content["counted"] == "in all" and content["command"]["overrides"]["compare.examples"] == "20,10"
    assert [part["name"] for part in content["findings"][0]["beside"]][2:] == ["corrupted accuracy", "on the source"]
    assert content["findings"][0]["beside"][2]["each"]["fog"] == list(each)
    title = jaxfer.report(folder, evaluate=False).path.read_text().partition('id="shift-title">')[2]
    assert " most: " in title.partition("<")[0]
    assert json.loads((folder / "protocol.json").read_text())["beside"] == {
        "metrics": ["ece", "macro_f1"], "severity": 2, "retention": True,
    }  # fmt: skip
    asked = []

    def unread(run, source):
        asked.append(run)
        raise InputError("not there today")

    monkeypatch.setattr(beside, "robustness", None)  # nothing is computed twice
    monkeypatch.setattr(beside, "retention", unread)  # but for what was not known
    again = jaxfer.compare(spec, folder, overrides=overrides, quiet=True)
    assert [f.beside[:3] for f in again.findings] == [f.beside[:3] for f in found.findings]
    unknown = [f for f in found.findings if f.arm != "scratch" and math.isnan(f.beside[3].before)]
    assert len(asked) == sum(len(f.beside[3].test) for f in unknown) > 0
    assert [repr(f.beside[3]) for f in again.findings] == [repr(f.beside[3]) for f in found.findings]


def test_bad_measures_are_refused_before_anything_runs(tmp_path):
    spec = example.write(tmp_path)
    for overrides, message in [
        ({"metrics": "acuracy"}, "config.compare.metrics: 'acuracy': no such metric"),
        ({"metrics": "accuracy"}, "config.compare.metrics: 'accuracy': is what arms are compared by"),
        ({"metrics": "ece,ece"}, "expected distinct metrics"),
        ({"metrics": "worst_group_accuracy"}, "needs groups, which this data doesn't name"),
        ({"severity": 6}, "config.compare.severity: expected 1 to 5, or 0 for none, found 6"),
        ({"fractions": "0.1,1.5"}, "expected distinct shares above 0 and up to 1"),
        ({"fractions": "0.001,0.0011"}, "expected distinct numbers of labels, of 546 examples they are 1, 1"),
        (
            {"labels": "5", "examples": "50"},
            "expected one of labels, examples and fractions, found labels and examples",
        ),
        ({"examples": "50,50"}, "config.compare.examples: expected distinct positive counts"),
    ]:
        with pytest.raises(InputError) as refused:
            named = {f"compare.{name}": value for name, value in overrides.items()}
            jaxfer.compare(spec, tmp_path / "run", overrides={"head": "reset", **named}, quiet=True)
        assert message in str(refused.value), (message, str(refused.value))
        assert not (tmp_path / "run/cells").exists()


def test_fractions_are_of_all_there_are(tmp_path):
    from jaxfer.comparison.protocol import make_design

    spec = example.write(tmp_path)
    design = make_design(spec, {"compare.fractions": "0.5,0.1", "compare.trials": 1})
    whole = len(make_design(spec, {"compare.examples": "10"}).ready.data.splits["train"])
    assert design.in_all and design.labels == (round(0.1 * whole), round(0.5 * whole)) and whole == 546
    job = next(iter(design.tuning.values()))
    assert job.config.data.labels == design.labels[0] and job.config.data.labels_per_class == 0


def test_cells_have_the_measures_own_sign_and_a_star_for_what_stands():
    """A smaller error is a gain: shown as the fall that it is."""
    scores, base = (0.10, 0.11, 0.12), (0.20, 0.21, 0.23)
    told = verdict("probe", scores, base, metric="test ece", maximize=False)
    parts = [
        (beside.Beside(name="ece", maximize=False, test=base),),
        (beside.Beside(name="ece", maximize=False, test=scores, verdict=told, p_holm=0.01),),
    ]
    found = [
        SimpleNamespace(arm=arm, labels=5, beside=part) for arm, part in zip(("scratch", "probe"), parts, strict=True)
    ]
    rows = [beside_tables.cells(each, found[0]) for each in found]
    assert beside_tables.headers(found) == ["ece", "ece over scratch"] and rows[0][1] == ""
    assert rows[1][1].startswith("-0.103 [-0.118") and rows[1][1].endswith("]*")
    assert beside_tables.lines(found[1:]) == ["ece against scratch: better probe."]


def test_scores_under_each_corruption():
    """By seed; a run that diverged has none, and an older jaxfer kept the mean alone."""
    names = list(KINDS["text"])
    assert beside._each("text", [(0.5, 0.25, 0.75), (0.5, 0.5, 0.5)]) == dict(
        zip(names, ((0.25, 0.5), (0.75, 0.5)), strict=True)
    )
    found = beside._each("text", [(0.5, 0.25, 0.75), (math.nan,)])
    assert found[names[0]][0] == 0.25 and math.isnan(found[names[1]][1])
    assert beside._each("text", [(0.5, 0.25, 0.75), (0.5,)]) == {}
