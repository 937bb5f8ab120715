"""Comparisons whose settings Optuna chooses: what it is told, the seal, and the same selection after kills."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

import jaxfer
from jaxfer import comparison
from jaxfer.commands import main
from jaxfer.comparison.samplers import make
from jaxfer.errors import CellsFailed, InputError
from jaxfer.sweeps.attempts import Outcome
from jaxfer.sweeps.samplers.study import Asking, Study
from jaxfer.training import loop
from tests.comparison import example
from tests.sweeps.example import kill_after

ROOT = Path(__file__).parents[2]
TRIALS, SEEDS = 5, 2
FIELDS = {"steps": 6, "compare.methods": "probe+full", "compare.seeds": SEEDS, "compare.trials": TRIALS}


def argv(spec, folder, *more):
    given = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    return ["compare", spec, "--workdir", str(folder), *given, "--sampler=optuna", "--ask=2", "--sampler-seed=1", *more]


def sampler():
    return make("optuna", ask=2, sampler_seed=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(config, folder, variables)"""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = example.write(folder)
    real = comparison.seal.write_selection

    def sealed(place, record, opened):
        results = list(Path(place).glob("cells/*/result.json"))
        assert len(results) == 1 + 2 * TRIALS * SEEDS
        assert all(set(json.loads(path.read_text())["metrics"]) == {"val"} for path in results)
        with pytest.raises(InputError, match="its test split is sealed until"):
            jaxfer.evaluate(results[0].parent, split="test")
        return real(place, record, opened)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFER_CACHE", str(folder / "cache"))
        patch.setattr(comparison.seal, "write_selection", sealed)
        assert main(argv(spec, folder / "run")) == 0
    return spec, folder / "run", {**os.environ, "JAXFER_CACHE": str(folder / "cache")}


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def studies(folder):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal")))
    return [
        optuna.load_study(study_name=name, storage=storage)
        for name in sorted(optuna.get_all_study_names(storage), key=storage.get_study_id_from_name)
    ]


def test_a_study_of_each_arm_is_told_the_mean_over_the_seeds(undisturbed):
    _, folder, _ = undisturbed
    protocol, selection, cells = (read(folder, name) for name in ("protocol", "selection", "cells"))
    runs = {cell["name"]: folder / cell["folder"] for cell in cells}
    assert len(runs) == 1 + 2 * TRIALS * SEEDS
    for study, chosen in zip(studies(folder), selection["selected"], strict=True):
        values = []
        for trial in range(TRIALS):
            each = [runs[f"{chosen['arm']} 3 labels trial {trial} seed {seed}"] for seed in range(SEEDS)]
            values.append(statistics.fmean(read(run, "result")["metrics"]["val"]["accuracy"] for run in each))
        assert [trial.value for trial in study.trials] == chosen["val"] == values
        assert study.trials[0].params == protocol["arms"][chosen["arm"]][0], "the default"
        assert chosen["setting"] == study.trials[chosen["trial"]].params
        ends = protocol["sampler"]["ranges"][chosen["arm"]]
        assert all(low <= trial.params[name] <= high for trial in study.trials for name, (low, high) in ends.items())
    expected = {"name": "optuna", "algorithm": "TPE", "seed": 1, "ask": 2, "trials": TRIALS}
    assert expected.items() <= protocol["sampler"].items()
    assert [len(settings) for settings in protocol["arms"].values()] == [1, 1] and len(protocol["cells"]) == 2 * SEEDS


def kept(folder):
    """The files but Optuna's journal, which has a line more for each opening."""
    return {path: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "optuna.journal"}


def test_again_it_only_reads_and_others_are_refused(undisturbed, monkeypatch, capsys):
    spec, folder, variables = undisturbed
    monkeypatch.setenv("JAXFER_CACHE", variables["JAXFER_CACHE"])
    before, told = kept(folder), [study.trials for study in studies(folder)]
    monkeypatch.setattr("jaxfer.training.loop._train", None)
    assert main(argv(spec, folder)) == 0
    for more in (["--sampler-seed=2"], ["--algorithm=Random"], ["--config.compare.grid.full.lr=1e-4,1e-2"]):
        assert main(argv(spec, folder, *more)) == 2
        assert "finished selection of another protocol (differing: sampler)" in capsys.readouterr().err
    assert kept(folder) == before and [study.trials for study in studies(folder)] == told


@pytest.mark.rest
def test_killed_it_selects_the_same(undisturbed, tmp_path):
    """Killed three times with trials under way: the same bytes, as cells are trained together with the same ones."""
    spec, folder, variables = undisturbed
    command = [sys.executable, "-m", "jaxfer", *argv(spec, tmp_path / "run")]
    options = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables, cwd=ROOT)
    for done in (3, 8, 14):
        kill_after(done, tmp_path / "run", command, **options)
        assert not (tmp_path / "run/selection.json").exists()
    ended = subprocess.run(command, **options)
    assert ended.returncode == 0, ended.stderr
    for name in ("protocol.json", "selection.json", "cells.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.rest
def test_after_a_failure_it_draws_no_more_and_then_the_same(undisturbed, tmp_path, monkeypatch):
    spec, folder, variables = undisturbed
    monkeypatch.setenv("JAXFER_CACHE", variables["JAXFER_CACHE"])
    real = loop.preflight

    def flaky(config, place):
        if config.seed == 1 and config.init == "scratch" and config.lr not in (None, 3e-3):
            raise OSError(5, "Input/output error", "disk")
        return real(config, place)

    monkeypatch.setattr(loop, "preflight", flaky)
    with pytest.raises(CellsFailed, match="1 of 9 runs failed"):
        jaxfer.compare(spec, tmp_path / "run", overrides=FIELDS, sampler=sampler(), quiet=True)
    states = [[trial.state.name for trial in study.trials] for study in studies(tmp_path / "run")]
    assert (
        states == [["COMPLETE", "RUNNING"], ["COMPLETE", "RUNNING"]] and not (tmp_path / "run/selection.json").exists()
    )
    monkeypatch.setattr(loop, "preflight", real)
    jaxfer.compare(spec, tmp_path / "run", overrides=FIELDS, sampler=sampler(), quiet=True)
    assert (tmp_path / "run/selection.json").read_bytes() == (folder / "selection.json").read_bytes()


def test_a_trial_with_a_diverged_seed_is_pruned_and_a_failed_one_stays_open(tmp_path):
    done = Outcome(status="done", result={"metrics": {"val": {"accuracy": 0.5}}})
    outcomes = {"a": done, "b": Outcome(status="diverged"), "c": Outcome(status="failed"), "d": done}
    pairs = ("ad", "ab", "ac", "bc")

    def jobs(number, trial):
        trial.uniform("x", 0, 1)
        return [SimpleNamespace(key=key, metric="accuracy") for key in pairs[number]]

    study = Study(Asking(), 4, jobs)
    study.begin(optuna.storages.InMemoryStorage(), "key", maximize=True)
    study.more(outcomes)
    assert [trial.state.name for trial in study.study.trials] == ["COMPLETE", "PRUNED", "RUNNING", "RUNNING"]
    assert study.study.trials[0].value == 0.5


@pytest.mark.parametrize("algorithm", ["TPE", "Random"])
def test_a_kill_between_two_fields_of_a_trial_changes_neither(algorithm):
    """The second field of trial 1 is drawn by another start than the first."""

    class Killed(Exception):
        pass

    def run(storage, stop):
        def jobs(number, trial):
            trial.loguniform("lr", 1e-4, 1e-1)
            if stop and number == 1:
                raise Killed
            trial.uniform("weight", 0, 1)
            return [SimpleNamespace(key=str(number))]

        study = Study(Asking(algorithm=algorithm), 3, jobs, first={"lr": 1e-3, "weight": 0.5})
        study.begin(storage, "key", maximize=True)
        study.more({})
        return [trial.params for trial in study.study.trials]

    storage = optuna.storages.InMemoryStorage()
    with pytest.raises(Killed):
        run(storage, True)
    whole = run(optuna.storages.InMemoryStorage(), False)
    assert run(storage, False) == whole and whole[0] == {"lr": 1e-3, "weight": 0.5} and len(whole) == 3
    assert all(math.isfinite(value) for params in whole for value in params.values())
