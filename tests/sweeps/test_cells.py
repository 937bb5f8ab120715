"""Addresses of cells: what makes two runs the same run."""

from __future__ import annotations

import pytest

from jaxfer.errors import InputError
from jaxfer.sweeps import cells
from jaxfer.sweeps.cells import Cell
from jaxfer.training.preflight import preflight
from tests.experiments import tiny_config


def key(**fields):
    return cells.identity_hash(preflight(tiny_config("resnet_basic", **fields)))


def test_what_is_part_of_an_address_and_what_is_not():
    assert key() == key() and len(key()) == 16
    assert key() == key(log_every=7) == key(test=True) == key(save_every=3), "what does not change the run"
    assert key() == key(lr=1e-3), "the method's own rate, written out"
    different = [key(), key(steps=5), key(seed=1), key(lr=1e-2), key(method="probe"), key(freeze=("stem/.*",))]
    assert len(set(different)) == len(different)


def test_other_data_is_another_address(monkeypatch):
    config = tiny_config("resnet_basic")
    before = cells.identity_hash(preflight(config))
    config.data.noise = 0.123
    assert cells.identity_hash(preflight(config)) != before


def test_a_source_is_part_of_the_address_of_what_starts_from_it():
    config = tiny_config("resnet_basic", init="sibling:source", head="reset")
    addresses = set()
    for steps in (2, 3):
        source = cells.address(Cell(name="source"), tiny_config("resnet_basic", steps=steps), {})
        found = cells.address(Cell(name="x", group="x"), config, {"source": source})
        assert found.sources == (source.key,) and found.config.init == f"sibling:{source.key}"
        addresses.add(found.key)
    assert len(addresses) == 2


def test_a_cell_has_the_model_of_the_one_it_starts_from():
    """Before that one is done."""
    source = cells.address(Cell(name="source"), tiny_config("resnet_basic"), {})
    known = source.config.model.to_dict()
    for name in ("auto", "resnet"):
        config = tiny_config("resnet_basic", init="sibling:source", head="reset")
        config.model = dict(name=name, stochastic_depth=0.2)
        found = cells.address(Cell(name="x", group="x"), config, {"source": source}).config.model.to_dict()
        assert found == {**known, "stochastic_depth": 0.2} != {**known}


def test_a_run_that_was_trained_again_is_another_source(tmp_path):
    config = tiny_config("resnet_basic", init=f"run:{tmp_path}", head="reset")
    before = cells.identity_hash(preflight(config))
    for sha256 in ("a", "b"):
        (tmp_path / "result.json").write_text(f'{{"lineage": {{"sha256": "{sha256}"}}}}')
        after = cells.identity_hash(preflight(config))
        assert after != before
        before = after


def test_a_sweep_with_an_argument(tmp_path):
    file = tmp_path / "mine.py"
    head = "import jaxfer.config\nfrom jaxfer.sweeps import Cell\n\n\ndef get_config(arg=''):\n"
    config = "    config = jaxfer.config.base()\n    config.steps = 7 if arg == 'long' else 3\n    return config\n\n\n"
    cells_of = "    yield Cell(group='a')\n    yield Cell(arg='short', group='b')\n"
    file.write_text(f"{head}{config}def sweep(arg):\n{cells_of}")
    expanded = cells.expand(f"{file}:long")
    assert [(cell.name, cell.arg) for cell in expanded] == [("base", "long"), ("short", "short")]
    jobs = cells.make_jobs(f"{file}:long", expanded)
    assert [job.config.steps for job in jobs] == [7, 3]
    assert [cell.arg for cell in cells.expand(str(file))] == ["", "short"]
    file.write_text(f"{head}{config}def sweep():\n{cells_of}")
    with pytest.raises(InputError, match="its sweep\\(\\) takes no argument, found 'long'; leave it out"):
        cells.expand(f"{file}:long")
    file.write_text(f"{head}{config}")
    with pytest.raises(InputError, match="expected a config file with sweep\\(\\), found none"):
        cells.expand(f"{file}:long")


def test_names_and_rows_of_plain_dicts():
    found = [cells._named(cell, "x.py") for cell in ({"seed": 1, "lr": 0.1}, {"seed": 2}, {})]
    assert [(cell.name, cell.group) for cell in found] == [
        ("seed=1,lr=0.1", "lr=0.1"),
        ("seed=2", "all"),
        ("base", "all"),
    ]
