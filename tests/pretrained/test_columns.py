"""Transfer from one table to another: tokens of equal names are kept, others drawn anew, and the ledger says which."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jaxfer
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.pretrained import columns
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.folder import stored_experiment
from jaxfer.training.preflight import preflight

SMALL = dict(blocks=1, width=6, heads=2, mlp_width=8, attention_dropout=0.0, mlp_dropout=0.0)


def table(folder, numbers, colours, seed):
    rng = np.random.default_rng(seed)
    lines = [",".join((*numbers, "colour", "label"))]
    for i in range(24):
        row = [f"{x:.3f}" for x in rng.normal(size=len(numbers))]
        lines.append(",".join((*row, colours[i % len(colours)], "yes" if float(row[0]) > 0 else "no")))
    folder.mkdir()
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return str(folder)


def config_of(path, numbers, **fields):
    config = jaxfer.config.base()
    config.model = dict(name="ft_transformer", **SMALL)
    config.data = dict(source="csv_rows", path=path, numbers=numbers, categories=("colour",), val_fraction=0.25)
    config.update(**{"init": "scratch", "batch_size": 8, "steps": 2, "lr": 1e-2, "eval_every": 0, **fields})
    return config


def leaves(folder):
    finished = open_run(folder)
    return flatten({"params": finished.state.params})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    path = table(folder / "first", ("age", "weight"), ("blue", "red"), 0)
    jaxfer.run(config_of(path, ("age", "weight")), folder / "run", quiet=True)
    other = table(folder / "second", ("height", "weight"), ("green", "red"), 1)
    return folder, other, jaxfer.export(folder / "run", format="rtdl")


@pytest.mark.parametrize("how", ["run", "export"])
@pytest.mark.parametrize("name", ["auto", "ft_transformer"])
def test_tokens_of_equal_names_are_kept(source, how, name, tmp_path):
    folder, path, export = source
    init = f"run:{folder / 'run'}" if how == "run" else str(export)
    config = config_of(path, ("height", "weight"), init=init, head="keep", differs=("numbers", "categories"))
    config.model = dict(name=name)
    config.update(lr=0.0, weight_decay=0.0)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    there, here = leaves(folder / "run"), leaves(tmp_path / "run")
    stem = "params/stem/"
    for leaf in (f"{stem}numbers/scale", f"{stem}numbers/bias"):
        np.testing.assert_array_equal(here[leaf][1], there[leaf][1])  # weight
        assert (here[leaf][0] != there[leaf]).all()  # height is new
    table = f"{stem}categories/value_0/embedding"  # of none, blue, red; of none, green, red
    np.testing.assert_array_equal(np.asarray(here[table])[[0, 2]], np.asarray(there[table])[[0, 2]])
    assert (here[table][1] != there[table][1]).all()
    for leaf in there:
        if not leaf.startswith((f"{stem}numbers", table)):
            np.testing.assert_array_equal(here[leaf], there[leaf], err_msg=leaf)
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert "other columns: kept scale of weight; drawn anew scale of height" in json.dumps(ledger)


@pytest.mark.parametrize("name", ["auto", "ft_transformer"])
def test_columns_of_the_other_kind_stay_the_sources(source, name, tmp_path):
    folder, path, _ = source
    config = config_of(path, ("height", "weight"), init=f"run:{folder / 'run'}", head="keep", differs=("numbers",))
    config.model = dict(name=name)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    for found in (preflight(config).experiment, stored_experiment(tmp_path / "run")):
        options = dict(found.model.options)
        assert options["numbers"] == ("height", "weight") and len(options["means"]) == 2
        assert (options["categories"], options["values"]) == (("colour",), (("blue", "red"),))


def test_other_columns_that_are_not_announced_are_refused(source, tmp_path):
    folder, path, _ = source
    config = config_of(path, ("height", "weight"), init=f"run:{folder / 'run'}", head="keep")
    with pytest.raises(InputError, match="weight|height"):
        jaxfer.run(config, tmp_path / "run", quiet=True)


def test_rows_are_found_by_name_by_hand():
    first = tiny.make("ft_transformer")
    second = tiny.make("ft_transformer", categories=("shape",), values=(("round", "square"),))
    found = columns.shared(second, first)
    assert found["params/stem/numbers/scale"] == (("params/stem/numbers/scale", 0), ("params/stem/numbers/scale", 1))
    assert found["params/stem/categories/bias"] == (("params/stem/categories/bias", 1),)
    there = "params/stem/categories/value_1/embedding"
    assert found["params/stem/categories/value_0/embedding"] == ((there, 0), (there, 1), None)
    assert columns.entry(("a", "b"), (None, None), (2, 3))["what"] == "re-initialised"
    assert columns.entry(("a",), (("x", 0),), (1, 3))["what"] == "loaded"
