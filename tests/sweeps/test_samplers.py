"""Draws of a config's `space(trial)`: what they are, what is refused, and a sweep of them."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.runs.finished import open_run
from jaxfer.sweeps.attempts import DIVERGED, DONE, Outcome
from jaxfer.sweeps.samplers import Grid, Random, asha, make
from jaxfer.sweeps.samplers.halving import Bracket, carry, halving, hyperband
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
    assert few[1].group.startswith(f"lr={lr:.6g},method=")
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
        ("randm", {"trials": 3}, "--sampler=randm: no such sampler; nearest: 'random', 'hyperband'"),
        ("random", {}, "--sampler=random: how many trials? Set --trials, as in --trials=20"),
        ("random", {"trials": 0}, "--trials: expected a whole number from 1 on, found 0"),
        ("random", {"trials": 1, "sampler_seed": -1}, "--sampler-seed: expected a whole number from 0 on, found -1"),
        (
            None,
            {"trials": 3},
            "--trials: --sampler=grid has no such option; leave it out, or use --sampler=random or "
            "--sampler=halving or --sampler=asha or --sampler=optuna",
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


def test_a_sampler_says_what_asks_for_it():
    assert dict(make().options) == {}
    assert make("random", trials=3).options == {"sampler": "random", "trials": 3, "sampler_seed": 0}
    asked = {"sampler": "halving", "trials": 9, "sampler_seed": 1, "eta": 3}
    assert make("halving", trials=9, sampler_seed=1).options == asked
    assert make("hyperband", eta=2, least=4).options == dict(sampler="hyperband", sampler_seed=0, eta=2, least=4)


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
    options = {"sampler": "random", "trials": 4, "sampler_seed": 0}
    assert json.loads((folder / "command.json").read_text()) == dict(config=spec, overrides={}, options=options)
    jaxfer.sweep(spec, tmp_path / "once", sampler=make("random", trials=4), quiet=True)
    grown, once = (example.without_seconds((f / "table.csv").read_text()) for f in (folder, tmp_path / "once"))
    assert grown == once and len(once) == 5


LONG = """
    def sweep():
        yield Cell(name="source")

    def space(trial):
        trial.loguniform("lr", 1e-4, 1e-1)
        trial.choice("method", ("probe", "full"))
"""


def test_brackets_by_hand():
    """Li et al., 2018, table 1: R = 81, eta = 3."""
    found = [(bracket.sizes, bracket.steps) for bracket in hyperband(81, 3, 1)]
    assert found == [
        ((81, 27, 9, 3, 1), (1, 3, 9, 27, 81)),
        ((34, 11, 3, 1), (3, 9, 27, 81)),
        ((15, 5, 1), (9, 27, 81)),
        ((8, 2), (27, 81)),
        ((5,), (81,)),
    ]
    assert halving(9, 45, 3, 1) == Bracket((9, 3, 1), (5, 15, 45))
    assert halving(9, 45, 3, 6) == Bracket((9, 3), (15, 45)) and halving(2, 45, 3, 1) == Bracket((2,), (45,))


def test_halving_extends_the_best(tmp_path):
    """Its last run is, bit for bit, the one that had all steps from the start; a second call runs nothing."""
    spec = example.write(tmp_path, LONG)
    fields = {"schedule": "constant", "steps": 8, "save_every": 0}
    found = jaxfer.sweep(spec, tmp_path / "h", overrides=fields, sampler=make("halving", trials=4, eta=2), quiet=True)
    index = json.loads((tmp_path / "h/cells.json").read_text())
    cells = {cell["name"]: cell for cell in index if cell["group"]}
    assert [name.split(" at ")[1] for name in cells] == ["2 steps"] * 4 + ["4 steps"] * 2 + ["8 steps"]
    scores = {}
    for name, cell in cells.items():
        result = json.loads((tmp_path / "h" / cell["folder"] / "result.json").read_text())
        assert result["steps"] == int(name.split(" at ")[1].split()[0])
        scores[name] = result["metrics"]["val"]["accuracy"]
    for fewer, more, count in ((2, 4, 2), (4, 8, 1)):
        before = {n: s for n, s in scores.items() if n.endswith(f" {fewer} steps")}
        best = sorted(before, key=lambda n: (-before[n], int(n.split()[1])))[:count]
        assert {n.split(" at ")[0] for n in best} == {
            n.split(" at ")[0] for n in scores if n.endswith(f" {more} steps")
        }
    (last,) = (cell for name, cell in cells.items() if name.endswith("8 steps"))
    jaxfer.run(jaxfer.load(spec, last["overrides"]), tmp_path / "straight", quiet=True)
    long, short = (open_run(folder) for folder in (tmp_path / "straight", tmp_path / "h" / last["folder"]))
    leaves = [jax.tree.leaves((run.state.params, run.state.model_state, run.state.opt_state)) for run in (long, short)]
    assert all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))
    assert short.result["lineage"]["extended"] == [{"at": 2, "from": 2, "to": 4}, {"at": 4, "from": 4, "to": 8}]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    again = jaxfer.sweep(spec, tmp_path / "h", overrides=fields, sampler=make("halving", trials=4, eta=2), quiet=True)
    assert [row.scores for row in again.rows] == [row.scores for row in found.rows]
    assert {path: path.stat().st_mtime_ns for path in before} == before


class Scored:
    """ASHA on scores that are given, in place of runs; what ends next is drawn."""

    def __init__(self, scores, *, trials, eta=2, steps=8):
        self.scores = scores  # {(number, steps): score, None where it diverges}
        self.sampler = make("asha", trials=trials, eta=eta)
        self.sampler._brackets = (halving(trials, steps, eta, 1),)
        self.sampler._folder = epath.Path("folder")
        self.sampler._job = lambda number, steps: SimpleNamespace(
            key=f"{number} at {steps}", number=number, steps=steps, maximize=True, metric="accuracy"
        )

    def run(self, places, rng):
        """(the runs in the order of the table, and in that in which they began), so many beside each other."""
        sampler, outcomes, waiting, under_way, begun = self.sampler, {}, [], [], []
        while True:
            waiting = [*sampler.more(outcomes), *waiting]
            while waiting and len(under_way) < places:
                under_way.append(waiting.pop(0))
                begun.append(under_way[-1].key)
            if not under_way:
                assert sampler.left == 0
                ordered = sorted((job for rung in sampler._entered for _, job in rung), key=sampler.order)
                return [job.key for job in ordered], begun
            job = under_way.pop(rng.integers(len(under_way)))
            score = self.scores[job.number, job.steps]
            result = {"metrics": {"val": {"accuracy": score}}}
            outcomes[job.key] = Outcome(status=DIVERGED if score is None else DONE, result=result)


@pytest.fixture
def copied(monkeypatch):
    """The copies that ASHA makes, in place of making them."""
    calls = []
    monkeypatch.setattr(asha, "carry", lambda folder, before, after: calls.append((before, after)))
    return calls


def test_asha_by_hand(copied):
    """Eta 2. Of one trial none goes on; of 0.5 and 0.7 the second; of three that of 0.8; of four these two."""
    of = {(0, 2): 0.5, (1, 2): 0.7, (2, 2): 0.8, (3, 2): 0.6, (1, 4): 0.9, (2, 4): 0.6, (1, 8): 1.0}
    found, begun = Scored(of, trials=4).run(1, np.random.default_rng(0))
    assert begun == ["0 at 2", "1 at 2", "1 at 4", "2 at 2", "2 at 4", "1 at 8", "3 at 2"]
    assert found == ["0 at 2", "1 at 2", "2 at 2", "3 at 2", "1 at 4", "2 at 4", "1 at 8"]
    assert copied == [("1 at 2", "1 at 4"), ("2 at 2", "2 at 4"), ("1 at 4", "1 at 8")]
    # One that diverged is among those read, and does not go on.
    of |= {(1, 2): None, (0, 4): 0.5, (3, 4): 0.55, (2, 8): 1.0}
    found, _ = Scored(of, trials=4).run(1, np.random.default_rng(0))
    assert found == ["0 at 2", "1 at 2", "2 at 2", "3 at 2", "0 at 4", "2 at 4", "3 at 4", "2 at 8"]


def test_what_asha_extends_is_no_matter_of_time(copied):
    rng = np.random.default_rng(1)
    scores = {(number, steps): float(rng.uniform()) for number in range(30) for steps in (1, 3, 9, 27)}
    tables = {tuple(Scored(scores, trials=30, eta=3, steps=27).run(n, rng)[0]) for n in (1, 2, 5, 40) for _ in range(5)}
    (table,) = tables
    count = [sum(key.endswith(f" at {steps}") for key in table) for steps in (1, 3, 9, 27)]
    assert count[0] == 30 and count[1] >= 10 and count[2] >= 3 and count[3] >= 1


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, {}, "schedule=cosine is another one for each number of steps; expected one without an end: constant"),
        ({"schedule": "constant", "test": True}, {}, "--sampler selects by val"),
        ({"schedule": "constant"}, {"eta": 1}, "--eta: expected a whole number from 2 on, found 1"),
        ({"schedule": "constant"}, {"least": 0}, "--least: expected a whole number from 1 on, found 0"),
        ({"schedule": "constant"}, {"algorithm": "TPE"}, "--algorithm: --sampler=halving has no such option"),
    ],
)
def test_what_halving_refuses(tmp_path, fields, options, message):
    spec = example.write(tmp_path, LONG)
    with pytest.raises(InputError, match=re.escape(message)):
        chosen = make("halving", trials=4, **options)
        jaxfer.sweep(spec, tmp_path / "h", overrides=fields, sampler=chosen, quiet=True)


def test_a_torn_copy_is_made_again_and_a_begun_run_left_alone(tmp_path):
    (tmp_path / "before").mkdir()
    (tmp_path / "before/result.json").write_text("short")
    (tmp_path / "before/.lock").write_text("")
    (tmp_path / ".after").mkdir()
    (tmp_path / ".after/half").write_text("torn")
    carry(epath.Path(tmp_path), "before", "after")
    assert [path.name for path in (tmp_path / "after").iterdir()] == ["result.json"]
    assert not (tmp_path / ".after").exists()
    (tmp_path / "after/result.json").write_text("long")
    carry(epath.Path(tmp_path), "before", "after")
    assert (tmp_path / "after/result.json").read_text() == "long"


@pytest.mark.system
def test_asha_on_processes_gives_the_table_of_one(tmp_path, monkeypatch):
    """And, extended, the runs of halving: bit for bit as long from the start."""
    spec = example.write(tmp_path, LONG)
    fields = {"schedule": "constant", "steps": 8, "save_every": 0}
    tables = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        chosen = make("asha", trials=4, eta=2)
        jaxfer.sweep(spec, folder, overrides=fields, sampler=chosen, processes=processes, quiet=True)
        tables.append((example.without_seconds((folder / "table.csv").read_text()), names(folder)))
    assert tables[0] == tables[1]
    assert [name.split(" at ")[1] for name in tables[0][1]][:4] == ["2 steps"] * 4
    assert tables[0][1][-1].endswith("8 steps")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    jaxfer.sweep(spec, tmp_path / "1", overrides=fields, sampler=make("asha", trials=4, eta=2), quiet=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert names(tmp_path / "1") == tables[0][1]


def names(folder):
    """Of the trials, as cells.json has them."""
    return [cell["name"] for cell in json.loads((folder / "cells.json").read_text()) if cell["group"]]
