"""Compiled programs are shared between runs, for as long as the process has room for them."""

from __future__ import annotations

from pathlib import Path

import pytest

import jaxfer
from jaxfer.training import programs
from tests.experiments import tiny_config


@pytest.fixture
def empty():
    programs.drop()
    yield
    programs.drop()


def compiled(folder):
    """(training programs that a run compiled, that are kept after it, the run's parameters)."""
    before = programs._train_program.cache_info().misses
    result = jaxfer.run(tiny_config("resnet_basic", steps=2), folder, quiet=True)
    now = programs._train_program.cache_info()
    return now.misses - before, now.currsize, result["lineage"]["sha256"]


def test_in_a_full_process_each_run_compiles_its_own(empty, tmp_path, monkeypatch):
    """Linux ends a process whose programs need more mappings than it allows."""
    assert compiled(tmp_path / "first")[:2] == (1, 1) and compiled(tmp_path / "second")[:2] == (0, 1)
    monkeypatch.setattr(programs, "ROOM", 0.0)
    programs.drop()
    results = [jaxfer.run(tiny_config("resnet_basic", steps=2), tmp_path / name, quiet=True) for name in ("a", "b")]
    assert programs._train_program.cache_info().currsize == 0
    monkeypatch.undo()
    last = compiled(tmp_path / "last")
    assert last[0] == 1 and {result["lineage"]["sha256"] for result in results} == {last[2]}


def test_what_is_dropped_gives_its_mappings_back(empty, tmp_path):
    compiled(tmp_path / "run")
    taken = programs._mapped()
    programs.drop()
    assert (0 < programs._mapped() < taken < 1) or not Path("/proc/self/maps").exists(), "where the system counts them"
