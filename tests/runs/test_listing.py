"""The table of runs: differences alone, filters and order by hand, text, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json

import pytest

from jaxfer.errors import InputError
from jaxfer.runs import listing
from jaxfer.runs.survey import Run
from jaxfer.terminal import Page

BASE = {"seed": 0, "stages": [], "method": "full", "lr": 0.01, "freeze": [], "model.name": "resnet", "model.width": 8}


def run(name, score=None, state="finished", monitor="accuracy", **config):
    scores = {} if score is None else {"val.accuracy": score, "val.loss": 1.0}
    cost = {"seconds": 12.5, "params_trainable": 1234} if score is not None else {}
    told = {"step": 60 if state == "finished" else 20, "steps": 60, "scores": scores, "cost": cost, "monitor": monitor}
    return Run(name=name, folder=f"runs/{name}", state=state, config=BASE | config, **told)


RUNS = (
    run("a", 0.75),
    run("b", 0.875, lr=0.1, freeze=["stem/.*", "block_0/.*"]),
    run("c", lr=0.001, state="unfinished"),
)


def names(runs=RUNS, **asked):
    return [row["name"] for row in listing.table(runs, **asked)[1]]


def test_the_table():
    columns, rows = listing.table(RUNS)
    assert columns == ["name", "state", "lr", "freeze", "val.accuracy", "seconds", "params_trainable"]
    assert listing.as_text(columns, rows).splitlines() == [
        "name  state             lr  freeze              val.accuracy  seconds  params_trainable",
        "a     finished        0.01                            0.7500     12.5             1,234",
        "b     finished         0.1  stem/.*,block_0/.*        0.8750     12.5             1,234",
        "c     step 20 of 60  0.001",
    ]
    assert listing.as_text(columns, rows, Page(40)).splitlines()[:3] == [
        "a",
        "  state: finished  lr: 0.01",
        "  val.accuracy: 0.7500  seconds: 12.5",
    ]


def test_csv_and_json_hold_the_numbers_in_full():
    columns, rows = listing.table((run("a", 1 / 3), run("b", lr=0.1)), columns=["lr", "accuracy", "folder"])
    assert list(csv.DictReader(io.StringIO(listing.as_csv(columns, rows)))) == [
        {"name": "a", "lr": "0.01", "val.accuracy": "0.3333333333333333", "folder": "runs/a"},
        {"name": "b", "lr": "0.1", "val.accuracy": "", "folder": "runs/b"},
    ]
    assert json.loads(listing.as_json(columns, rows))[1] == {
        "name": "b",
        "lr": 0.1,
        "val.accuracy": None,
        "folder": "runs/b",
    }


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        (["lr>0.01"], "b"),
        (["lr >= 1e-2"], "ab"),
        (["lr<0.01"], "c"),
        (["lr<=0.01", "state=finished"], "a"),
        (["lr=0.1"], "b"),
        (["lr!=0.1"], "ac"),
        (["accuracy>0"], "ab"),
        (["val.accuracy==0.75"], "a"),
        (["state!=finished"], "c"),
        (["freeze=stem/.*,block_0/.*"], "b"),
        (["width=8", "step<60"], "c"),
    ],
)
def test_filters(filters, kept):
    assert names(filters=filters) == list(kept)


def test_order():
    assert names(sort="lr") == ["c", "a", "b"]
    assert names(sort="-lr") == ["b", "a", "c"]
    assert names(sort="-accuracy") == ["b", "a", "c"], "a run without the field comes last"
    assert names(sort="accuracy") == ["a", "b", "c"]
    assert names(sort="-state") == ["c", "a", "b"]


def test_only_differences_that_are_a_users():
    vit = {name: value for name, value in BASE.items() if name != "model.width"} | {"model.name": "vit"}
    runs = [run("a", 0.5), Run(name="b", folder="", state="finished", config=vit)]
    assert listing.differing(runs) == ["model.name"], "a ViT has no width of this meaning"
    runs = [run("a"), run("b", min_lr=0.1)]  # written only where it is set
    assert listing.differing(runs) == ["min_lr"]
    runs = [run("a", **{"options.rank": 4}, method="lora"), run("b")]
    assert listing.differing(runs) == ["method"]
    runs = [run("a", **{"options.rank": 4}, method="lora"), run("b", **{"options.rank": 8}, method="lora"), run("c")]
    assert listing.differing(runs) == ["method", "options.rank"]
    assert listing.differing([*runs, Run(name="d", folder="", state="damaged")]) == ["method", "options.rank"]


def test_every_score_where_no_monitor_is_known():
    assert listing.default_columns([run("a", 0.5, monitor="")])[1:3] == ["val.accuracy", "val.loss"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"filters": ["lr"]}, "--filter='lr': expected FIELD, one of <= >= != == = < >, and a value"),
        ({"filters": ["rl>1"]}, "--filter='rl>1': no run has a field 'rl'; nearest: 'lr'"),
        ({"filters": ["lr>much"]}, "expected a number to compare lr with, found 'much'"),
        ({"filters": ["method>a"]}, r"method is no number \('full'\); compare it by = or !="),
        ({"sort": "-accurcy"}, "--sort=-accurcy: no run has a field 'accurcy'"),
        ({"columns": ["name", "widht"]}, "--columns: no run has a field 'widht'"),
    ],
)
def test_what_is_refused(asked, message):
    with pytest.raises(InputError, match=message):
        listing.table(RUNS, **asked)


def test_an_ambiguous_end_of_a_name():
    runs = [run("a", 0.5, **{"test.accuracy": 0.5})]
    with pytest.raises(InputError, match="'accuracy' could be test.accuracy, val.accuracy; write one of them"):
        listing.table(runs, sort="accuracy")
