"""Sweeps whose trials Optuna chooses: bitwise the same in one process, in two and killed; what it is told."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.sweeps.samplers import make
from tests.full_disk import LINE, full
from tests.sweeps import example

ROOT = Path(__file__).parents[2]
SPACE = """
    def sweep():
        yield Cell(name="source")

    def space(trial):
        trial.loguniform("lr", 1e-3, 1e-1)
        if trial.choice("method", ("probe", "full")) == "full":
            trial.integer("warmup", 0, 2)
"""
TRIALS = 6


def argv(spec, folder, *more):
    return ["sweep", spec, "--workdir", str(folder), "--sampler=optuna", f"--trials={TRIALS}", "--ask=2", *more]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(config, folder, variables)"""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = example.write(folder, SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFER_CACHE", str(folder / "cache"))
        assert main(argv(spec, folder / "sweep")) == 0
    return spec, folder / "sweep", {**os.environ, "JAXFER_CACHE": str(folder / "cache")}


def study(folder):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def table(folder):
    return example.without_seconds((folder / "table.csv").read_text())


def test_optuna_is_told_the_metric_on_val(undisturbed):
    _, folder, _ = undisturbed
    found = study(folder)
    assert found.direction.name == "MAXIMIZE" and [t.state.name for t in found.trials] == ["COMPLETE"] * TRIALS
    cells = {cell["name"]: cell for cell in json.loads((folder / "cells.json").read_text())}
    assert list(cells) == ["source", *(f"trial {number}" for number in range(TRIALS))]
    for trial in found.trials:
        cell = cells[f"trial {trial.number}"]
        result = json.loads((folder / cell["folder"] / "result.json").read_text())
        assert trial.value == result["metrics"]["val"]["accuracy"] and "test" not in result["metrics"]
        assert cell["overrides"] == trial.params, "warmup, too, where it was drawn and nowhere else"
        assert ("warmup" in trial.params) == (trial.params["method"] == "full")
    shares = list(csv.reader((folder / "importance.csv").read_text().splitlines()))
    assert shares[0] == ["field", "importance"] and {field for field, _ in shares[1:]} == {"lr", "method"}
    assert sum(float(share) for _, share in shares[1:]) == pytest.approx(1, abs=1e-5)


def test_again_it_only_reads(undisturbed):
    spec, folder, _ = undisturbed
    results = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    before, told = table(folder), study(folder).trials
    assert main(argv(spec, folder)) == 0
    assert table(folder) == before and study(folder).trials == told
    assert {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")} == results


def test_two_processes_draw_the_same_trials(undisturbed, tmp_path, monkeypatch):
    spec, folder, variables = undisturbed
    monkeypatch.setenv("JAXFER_CACHE", variables["JAXFER_CACHE"])
    assert main(argv(spec, tmp_path, "--processes=2")) == 0
    assert table(tmp_path) == table(folder)
    assert (tmp_path / "cells.json").read_bytes() == (folder / "cells.json").read_bytes()
    assert (tmp_path / "importance.csv").read_bytes() == (folder / "importance.csv").read_bytes()


def test_a_killed_study_resumes(undisturbed, tmp_path):
    """Killed once with trials under way, then with a torn journal: the same trials, values and table."""
    spec, folder, variables = undisturbed
    command = [sys.executable, "-m", "jaxfer", *argv(spec, tmp_path / "sweep")]
    options = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables, cwd=ROOT)
    for done in (2, 4):
        example.kill_after(done, tmp_path / "sweep", command, **options)
        with open(tmp_path / "sweep/optuna.journal", "a") as file:
            file.write('{"op_code": 5, "wor')
        (tmp_path / "sweep/optuna.journal.lock").symlink_to("nowhere")
    ended = subprocess.run(command, **options)
    assert ended.returncode == 0, ended.stderr
    assert table(tmp_path / "sweep") == table(folder)
    ours, theirs = study(tmp_path / "sweep"), study(folder)
    assert [(t.params, t.value) for t in ours.trials] == [(t.params, t.value) for t in theirs.trials]


def test_a_journal_on_a_full_disk_goes_on(undisturbed, tmp_path, capsys, monkeypatch):
    """The trials before stay, and the same command goes on."""
    spec, folder, variables = undisturbed
    monkeypatch.setenv("JAXFER_CACHE", variables["JAXFER_CACHE"])
    shutil.copytree(folder, tmp_path / "sweep")
    journal = tmp_path / "sweep/optuna.journal"
    command = [word.replace(f"--trials={TRIALS}", f"--trials={TRIALS + 2}") for word in argv(spec, tmp_path / "sweep")]
    with full(journal.stat().st_size + 50):
        assert main(command) == 2
    assert LINE in capsys.readouterr().err
    assert main(command) == 0
    assert table(tmp_path / "sweep")[: TRIALS + 1] == table(folder)
    assert [t.state.name for t in study(tmp_path / "sweep").trials] == ["COMPLETE"] * (TRIALS + 2)


def test_a_database_holds_the_study_as_well(undisturbed, tmp_path, monkeypatch):
    """Killed with trials under way it goes on too."""
    spec, folder, variables = undisturbed
    monkeypatch.setenv("JAXFER_CACHE", variables["JAXFER_CACHE"])
    command = argv(spec, tmp_path / "sweep", f"--storage=sqlite:///{tmp_path}/studies.db")
    options = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables, cwd=ROOT)
    example.kill_after(3, tmp_path / "sweep", [sys.executable, "-m", "jaxfer", *command], **options)
    assert main(command) == 0
    assert table(tmp_path / "sweep") == table(folder) and not (tmp_path / "sweep/optuna.journal").exists()


def test_a_pruner_ends_runs_as_the_documented_objective_says(tmp_path, monkeypatch):
    """One that prunes whatever has not all right after its first evaluation, and one that prunes nothing."""
    page = (ROOT / "docs" / "runs.md").read_text()
    block = next(text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def objective" in text)
    names = {"jaxfer": jaxfer, "optuna": optuna}
    exec(block.replace('"eval_every": 10', '"eval_every": 2'), names)
    ends = {"PRUNED": optuna.pruners.ThresholdPruner(lower=1.1), "COMPLETE": optuna.pruners.NopPruner()}
    for end, pruner in ends.items():
        (tmp_path / end).mkdir()
        monkeypatch.chdir(tmp_path / end)
        example.write(Path())
        study = optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
        study.optimize(names["objective"], n_trials=2)
        assert [trial.state.name for trial in study.trials] == [end, end]
        result = json.loads(Path("runs/trial1/result.json").read_text())
        assert result.get("stopped") == ({"train": 2} if end == "PRUNED" else None)


def test_diverged_trials_are_worse_than_all_and_failed_ones_stay_open(tmp_path, monkeypatch):
    spec = example.write(
        tmp_path,
        """
        def sweep():
            return ()

        def space(trial):
            trial.choice("lr", (1e-3, 1e30))
            trial.choice("optimizer", ("sgd",))
            trial.choice("steps", (20,))
            trial.choice("seed", (0, 9))
    """,
    )
    real = jaxfer.training.loop.preflight

    def flaky(config, folder):
        if config.seed == 9:
            raise OSError(5, "Input/output error", "disk")
        return real(config, folder)

    monkeypatch.setattr(jaxfer.training.loop, "preflight", flaky)
    sampler = make("optuna", trials=8, algorithm="Random", sampler_seed=1)
    jaxfer.sweep(spec, tmp_path / "sweep", sampler=sampler, quiet=True)
    expected = {(1e-3, 0): "COMPLETE", (1e30, 0): "PRUNED", (1e-3, 9): "RUNNING", (1e30, 9): "RUNNING"}
    states = {(t.params["lr"], t.params["seed"]): t.state.name for t in study(tmp_path / "sweep").trials}
    assert states == {point: expected[point] for point in states} and len(states) >= 3
    monkeypatch.undo()
    jaxfer.sweep(spec, tmp_path / "sweep", sampler=make("optuna", trials=8), quiet=True)
    assert {t.state.name for t in study(tmp_path / "sweep").trials} == {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "TPEE"}, "--algorithm=TPEE: no such sampler of Optuna's; nearest: 'TPE'"),
        ({"algorithm": "Grid"}, "--algorithm=Grid needs more than a seed"),
        ({"ask": 0}, "--ask: expected a whole number from 1 on, found 0"),
        ({"storage": "nowhere"}, "--storage=nowhere: expected the URL of a database that answers"),
        ({"overrides": {"test": True}}, "config.test: --sampler=optuna selects by what it is told, which is val"),
        ({"overrides": {"stepps": 3}}, "unknown field config.stepps"),
    ],
)
def test_bad_input_is_one_line(undisturbed, options, message, tmp_path):
    spec, overrides = undisturbed[0], options.pop("overrides", {})
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        jaxfer.sweep(spec, tmp_path / "sweep", overrides=overrides, sampler=make("optuna", trials=2, **options))
    assert "\n" not in str(refused.value) and not (tmp_path / "sweep/cells").exists()
