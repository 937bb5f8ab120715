"""One cell's attempt, without training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from etils import epath

from jaxfer.sweeps import executor
from jaxfer.sweeps.attempts import attempt
from jaxfer.sweeps.cells import FOLDER
from tests.experiments import tiny_stage


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ('{"message": "the loss is nan"}', executor.DIVERGED, "the loss is nan"),
        ("{}", executor.FAILED, "diverged.json: message: expected str, found nothing"),
        ('"x"', executor.FAILED, "diverged.json: expected a JSON object, found a str"),
        ("{", executor.FAILED, "diverged.json: expected a JSON file of a run"),
    ],
)
def test_the_record_of_a_diverged_cell_is_checked(text, status, message, tmp_path):
    """A damaged one fails its own cell; the others go on."""
    place = epath.Path(tmp_path) / FOLDER / "key"
    place.mkdir(parents=True)
    (place / "diverged.json").write_text(text)
    cell = SimpleNamespace(key="key", config=SimpleNamespace(seed=0))
    told = []
    attempt((cell,), epath.Path(tmp_path), lambda cell, outcome: told.append(outcome), lambda progress: None)
    (outcome,) = told
    assert outcome.status == status and message in outcome.message and "\n" not in outcome.message


def test_what_is_read_again_is_shared_out_by_what_evaluates_it():
    """A part for each process; methods that differ in training alone are next to each other, probes for themselves."""
    stages = {name: tiny_stage("resnet_basic", method=name) for name in ("full", "lora", "l2sp", "probe")}

    def cell(method, seed):
        return SimpleNamespace(key=f"{method}-{seed}", programs=((stages[method].spec, 8),))

    cells = [cell(method, seed) for seed in (0, 1) for method in stages]
    wanted = ["full-0", "l2sp-0", "full-1", "l2sp-1", "lora-0", "lora-1", "probe-0", "probe-1"]
    assert executor.shared_out([], 2) == [], "all of them diverged"
    for processes, parts in ((1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (9, [1] * 8)):
        groups = executor.shared_out(cells, processes)
        assert [len(group) for group in groups] == parts
        assert [cell.key for group in groups for cell in group] == wanted


def test_groups_follow_from_the_cells_alone():
    def cell(key, alike, *sources):
        return SimpleNamespace(key=key, alike=alike, sources=sources)

    a, b = [cell(f"a{i}", "a") for i in range(70)], [cell(f"b{i}", "b", "a0") for i in range(2)]
    alone, other = [cell(f"c{i}", "") for i in range(2)], cell("d", "b")
    groups = executor.grouped([a[0], alone[0], b[0], *a[1:], other, alone[1], b[1]])
    assert groups == [tuple(a[:64]), (alone[0],), tuple(b), tuple(a[64:]), (other,), (alone[1],)]
