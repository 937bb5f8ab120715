"""Draws of a config's `space(trial)`: what they are, what is refused, and a sweep of them."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.sweeps.samplers import Grid, Random, make
from jaxfer.sweeps.samplers.random import Drawn
from jaxfer.sweeps.samplers.space import trial_cell
from tests.sweeps import example

SPACE = """
    def sweep():
        yield Cell(name="source")
        yield Cell(name="left out", arg="probe", group="probe")

    def space(trial):
        trial.loguniform("lr", 1e-3, 1e-1)
        if trial.choice("method", ("probe", "full")) == "full":
            trial.integer("warmup", 0, 2)
"""


def test_draws_have_the_distributions_they_are_called_by():
    """Means and ranges over 4000 trials, within 4 standard errors."""
    count = 4000
    trials = [Drawn(0, number) for number in range(count)]

    def check(values, low, high, mean, deviation):
        assert min(values) >= low and max(values) <= high
        assert abs(np.mean(values) - mean) < 4 * deviation / math.sqrt(count)

    check([t.uniform("a", -1.0, 3.0) for t in trials], -1.0, 3.0, 1.0, 4 / math.sqrt(12))
    logs = [math.log10(t.loguniform("b", 1e-4, 1e-1)) for t in trials]
    check(logs, -4 - 1e-9, -1 + 1e-9, -2.5, 3 / math.sqrt(12))
    check([t.integer("c", 1, 4) for t in trials], 1, 4, 2.5, math.sqrt(15 / 12))
    check([t.choice("d", (0, 1)) for t in trials], 0, 1, 0.5, 0.5)
    share = np.mean([t.integer("e", 1, 100, log=True) <= 7 for t in trials])
    expected = math.log(7.5 / 0.5) / math.log(100.5 / 0.5)
    assert abs(share - expected) < 4 * 0.5 / math.sqrt(count)
    both = np.corrcoef([t.uniform("f", 0, 1) for t in trials], [t.uniform("g", 0, 1) for t in trials])[0, 1]
    assert abs(both) < 4 / math.sqrt(count), "fields are drawn independently"


def test_a_draw_follows_from_seed_number_and_field_alone():
    first, again = Drawn(1, 5), Drawn(1, 5)
    again.uniform("other", 0, 1)
    value = first.uniform("lr", 0, 1)
    assert again.uniform("lr", 0, 1) == value
    assert value not in (Drawn(1, 6).uniform("lr", 0, 1), Drawn(2, 5).uniform("lr", 0, 1))


def test_more_trials_keep_the_first_ones(tmp_path):
    spec = example.write(tmp_path, SPACE)
    few, many = Random(3).first(spec, {}), Random(6).first(spec, {})
    assert many[:4] == few and [cell.name for cell in few] == ["source", "trial 0", "trial 1", "trial 2"]
    assert {cell.overrides["method"] for cell in many[1:]} == {"probe", "full"}
    assert all(("warmup" in cell.overrides) == (cell.overrides["method"] == "full") for cell in many[1:])
    lr = few[1].overrides["lr"]
    assert few[1].group.startswith(f"lr={lr:.4g},method=")
    assert Random(1).first(spec, {"steps": "3"})[1].overrides["steps"] == "3"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("space = 3", "expected a function space, found 3"),
        ("def space(trial):\n    pass", "space(trial) draws nothing"),
        (
            "def space(trial):\n    trial.uniform('lr', 1, 0)",
            "expected bounds of which the first is lower, found 1",
        ),
        ("def space(trial):\n    trial.loguniform('lr', 0, 1)", "lr: expected bounds, above 0, of which the first"),
        ("def space(trial):\n    trial.uniform('lr', 0, float('nan'))", "lr: expected bounds of which"),
        ("def space(trial):\n    trial.integer('seed', 0, 1.5)", "seed: expected whole numbers as bounds, found 0"),
        ("def space(trial):\n    trial.choice('lr', ())", "lr: expected a list of texts, numbers, booleans or None"),
        ("def space(trial):\n    trial.choice('lr', 'ab')", "lr: expected a list of texts, numbers, booleans or None"),
        ("def space(trial):\n    trial.uniform(3, 0, 1)", "expected the dotted name of a field, found 3"),
        ("def space(trial):\n    [trial.uniform('lr', 0, 1) for _ in 'ab']", "lr is drawn twice"),
        ("def space(trial):\n    1 / 0", "failed: ZeroDivisionError: division by zero (line "),
        ("", "expected a config file with space(trial)"),
    ],
)
def test_a_wrong_space_is_one_line(space, message, tmp_path):
    spec = example.write(tmp_path, "\n" + space)
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        trial_cell(spec, 0, Drawn(0, 0), {})
    assert "\n" not in str(refused.value)


def test_a_drawn_field_can_not_be_overridden(tmp_path):
    with pytest.raises(InputError, match="--config.lr: space"):
        Random(1).first(example.write(tmp_path, SPACE), {"lr": "0.1"})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("randm", {"trials": 3}, "--sampler=randm: no such sampler; nearest: 'random'"),
        ("random", {}, "--sampler=random: how many trials? Set --trials, as in --trials=20"),
        ("random", {"trials": 0}, "--trials: expected a whole number from 1 on, found 0"),
        ("random", {"trials": 1, "sampler_seed": -1}, "--sampler-seed: expected a whole number from 0 on, found -1"),
        (
            None,
            {"trials": 3},
            "--trials: --sampler=grid has no such option; leave it out, or use --sampler=random or --sampler=optuna",
        ),
        (
            "random",
            {"trials": 3, "storage": "x"},
            "--storage: --sampler=random has no such option; leave it out, or use --sampler=optuna",
        ),
    ],
)
def test_what_no_sampler_does_is_refused(name, options, message):
    with pytest.raises(InputError) as refused:
        make(name, **options)
    assert str(refused.value) == message


def test_the_sampler_that_is_meant():
    assert isinstance(make(), Grid) and make("random", trials=3) == Random(3, 0)


@pytest.mark.system
def test_a_random_sweep_grows(tmp_path, monkeypatch):
    """Four trials after two: the table of four at once, and the first two are not run again."""
    spec, folder = example.write(tmp_path, SPACE), tmp_path / "sweep"
    argv = ["sweep", spec, "--workdir", str(folder), "--sampler=random"]
    assert main([*argv, "--trials=2"]) == 0
    names = [cell["name"] for cell in json.loads((folder / "cells.json").read_text())]
    assert names == ["source", "trial 0", "trial 1"]
    times = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    assert len(times) == 3
    assert main([*argv, "--trials=4"]) == 0
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    jaxfer.sweep(spec, tmp_path / "once", sampler=make("random", trials=4), quiet=True)
    grown, once = (example.without_seconds((f / "table.csv").read_text()) for f in (folder, tmp_path / "once"))
    assert grown == once and len(once) == 5
