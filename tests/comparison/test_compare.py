"""A comparison: its verdicts on cases whose answer is known, its seal, and that a kill changes nothing."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

import jaxfer
from jaxfer import comparison
from jaxfer.commands import main
from jaxfer.comparison import protocol, simple
from jaxfer.errors import CellsFailed, InputError
from jaxfer.registry import Room
from jaxfer.runs import seal
from jaxfer.training import cached, loop, programs
from jaxfer.training.programs import compiles
from tests.comparison import example
from tests.sweeps.example import without_seconds

FILES = {
    *(
        "protocol.json",
        "selection.json",
        "opened.json",
        "baselines.json",
        "comparison.json",
        "cells.json",
        "table.csv",
        "table.md",
        "verdict.md",
    ),
    *(f"{name}.{kind}" for name in ("methods", "curves", "cost") for kind in ("png", "svg")),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return example.source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(config, folder, result) of a comparison that nothing disturbed: four arms, two trials, two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    spec = example.write(folder, SMALL)
    return spec, folder / "run", jaxfer.compare(spec, folder / "run", quiet=True)


SMALL = """
    whole = get_config

    def get_config(arg=""):
        config = whole(arg)
        config.update(steps=6)
        config.compare.update(methods=("probe", "full", "probe+full"), seeds=2, trials=2)
        return config
"""


def only(found, arm):
    return next(f for f in found.findings if f.arm == arm)


def compare(source, folder, **overrides):
    overrides = {f"compare.{name.replace('__', '.')}": value for name, value in overrides.items()}
    spec = example.write(folder)
    return jaxfer.compare(spec, folder / "run", overrides={"init": f"run:{source}", **overrides}, quiet=True)


@pytest.mark.system
def test_planted_a_source_that_saw_these_classes_helps(source, tmp_path):
    found = only(compare(source, tmp_path), "probe")
    assert found.verdict.outcome == "helps" and found.verdict.effect.low > 0.05
    assert found.verdict.sentence.startswith("probe helps: test accuracy +0.")


@pytest.mark.system
def test_planted_shuffled_weights_are_no_evidence(source, tmp_path):
    shuffled = example.shuffled(source, tmp_path / "shuffled")
    found = only(compare(shuffled, tmp_path / "b", methods=("full",), stage__full__lr=3e-3), "full")
    assert found.verdict.outcome == "no evidence"
    assert found.verdict.effect.low < 0 < found.verdict.effect.high


@pytest.mark.system
def test_planted_a_source_that_hurts_is_negative_transfer(source, tmp_path):
    shuffled = example.shuffled(source, tmp_path / "shuffled")
    found = compare(shuffled, tmp_path / "b")
    assert only(found, "probe").verdict.outcome == "negative transfer"
    assert "probe shows negative transfer" in found.sentences


@pytest.mark.system
def test_planted_a_rate_that_hurts_is_negative_transfer(source, tmp_path):
    found = only(compare(source, tmp_path, stage__probe__lr=1e-6, seeds=8), "probe")
    assert found.verdict.outcome == "negative transfer" and found.verdict.effect.high < -0.1


@pytest.mark.system
def test_what_a_comparison_leaves(undisturbed):
    spec, folder, found = undisturbed
    assert {path.name for path in folder.iterdir()} - {".lock", "cells"} == FILES
    protocol, selection = (json.loads((folder / name).read_text()) for name in ("protocol.json", "selection.json"))
    assert {arm: len(trials) for arm, trials in protocol["arms"].items()} == {
        "scratch": 2, "probe": 2, "full": 2, "probe+full": 2,
    }  # fmt: skip
    assert len(protocol["cells"]) == 4 * 2 * 2
    for chosen in selection["selected"]:
        assert chosen["trial"] == int(np.argmax(chosen["val"])), "the earlier of equals"
        assert chosen["setting"] == protocol["arms"][chosen["arm"]][chosen["trial"]]
    read = [
        path.parent.name
        for path in folder.glob("cells/*/result.json")
        if "test" in json.loads(path.read_text())["metrics"]
    ]
    assert sorted(read) == selection["opened"] and 8 <= len(read) <= 16
    for f in found.findings:
        assert len(f.test) == len(f.default) == 2 and (f.verdict is None) == (f.arm == "scratch")
        assert f.steps == 2 * 2 * 6, "of two trials and two seeds, as their results say"
        trial = protocol["arms"][f.arm].index(dict(f.setting))
        assert (f.test == f.default) or trial == 1
    assert [b.name for b in found.baselines] == ["majority class", "logistic regression on pixels"]
    assert found.baselines[0].test == (0.2, 0.2)
    assert found.sentences.endswith("seeds=2, too few: a 95 % interval is ± 9.0 standard deviations, ± 1.2 with 5.")
    assert (
        "an arm has at most 24 steps at each number of labels, and took as many." in (folder / "verdict.md").read_text()
    )
    assert "negative transfer" in found.sentences or "no evidence" in found.sentences or "helps" in found.sentences


@pytest.mark.system
def test_probe_and_full_take_half_of_the_steps_each(undisturbed):
    _, folder, _ = undisturbed
    cells = json.loads((folder / "cells.json").read_text())
    both = next(cell for cell in cells if cell["group"] == "probe+full")
    config = json.loads((folder / both["folder"] / "config.json").read_text())
    assert (config["stage"]["probe"]["steps"], config["stage"]["full"]["steps"]) == (3, 3)
    assert all(
        json.loads((folder / cell["folder"] / "result.json").read_text())["steps"] == 6
        for cell in cells
        if cell["group"]
    )


@pytest.mark.system
def test_all_arms_of_a_seed_see_the_same_labels_and_batches(undisturbed):
    """Paired: the first batch of full and of scratch is the same examples; losses differ by the weights alone."""
    _, folder, _ = undisturbed
    configs = [json.loads(path.read_text()) for path in folder.glob("cells/*/config.json")]
    transfers = [c for c in configs if c["init"].startswith("sibling") or c["data"]["labels_per_class"] == 3]
    assert len(transfers) == 16
    sizes = {c.get("batch_size") or c["stage"]["full"]["batch_size"] for c in transfers}
    assert sizes == {25} and all(c["data"] == transfers[0]["data"] for c in transfers)
    assert sorted(c["seed"] for c in transfers) == [0] * 8 + [1] * 8


@pytest.mark.system
def test_the_test_split_is_read_with_one_opening_and_one_program_a_shape(tmp_path, monkeypatch):
    """Of 4 arms x 2 seeds: scratch, full and l2sp share a program, and probe's is on stored features."""
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    counts, opened, real = [], [], (comparison._read_test, Room.make)

    def counted():
        return len(opened), programs._eval_program.cache_info().misses, cached._step.cache_info().misses, compiles()

    def make(room, name, /, *args, **options):
        opened.extend([name] * (room.kind == "data source"))
        return real[1](room, name, *args, **options)

    def read(*args, **options):
        # As in a process that has trained and evaluated none of them.
        for build in (programs._train_program, programs._block_program, programs._eval_program, cached._step):
            build.cache_clear()
        before = counted()
        found = real[0](*args, **options)
        counts.extend(after - at for after, at in zip(counted(), before, strict=True))
        return found

    monkeypatch.setattr(Room, "make", make)
    monkeypatch.setattr(comparison, "_read_test", read)
    overrides = {"compare.methods": ("probe", "full", "l2sp"), "compare.trials": 1}
    jaxfer.compare(example.write(tmp_path, SMALL), tmp_path / "run", overrides=overrides, quiet=True)
    assert counts == [1, 2, 1, 0], "openings, evaluations, programs of features, trainings"


@pytest.mark.system
def test_again_it_says_the_same_and_trains_nothing(undisturbed, monkeypatch):
    spec, folder, found = undisturbed
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.setattr("jaxfer.training.loop._train", None)
    read = simple.Scores._read
    monkeypatch.setattr("jaxfer.comparison.simple.Scores._read", None)  # no baseline is fitted
    again = jaxfer.compare(spec, folder, quiet=True)
    assert again.sentences == found.sentences
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    monkeypatch.setattr("jaxfer.comparison.simple.Scores._read", read)
    for damage in ("{", "[1]", '{"x": "y"}'):
        (folder / "baselines.json").write_text(damage)
        assert jaxfer.compare(spec, folder, quiet=True).baselines == found.baselines


@pytest.mark.system
def test_killed_and_in_two_processes_it_gives_the_same_table(undisturbed, tmp_path):
    spec, folder, _ = undisturbed
    argv = [sys.executable, "-m", "jaxfer", "compare", spec, "--workdir", str(tmp_path / "killed"), "--processes=2"]
    rng = random.Random(0)
    environment = {**os.environ, "JAXFER_CACHE": str(tmp_path / "cache")}
    for _ in range(4):
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
        time.sleep(rng.uniform(3, 12))
        process.kill()
        process.wait()
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    ours, theirs = ((f / "table.csv").read_text() for f in (tmp_path / "killed", folder))
    assert without_seconds(ours) == without_seconds(theirs)
    assert (tmp_path / "killed/selection.json").read_text() == (folder / "selection.json").read_text()


@pytest.mark.system
def test_the_seal(undisturbed, tmp_path, monkeypatch):
    """`run` and `evaluate` read no test split before the selection, and after it the selected runs' alone."""
    spec, _, _ = undisturbed
    folder, real = tmp_path / "run", seal.write_selection

    def before_selection(comparison, record, opened):
        results = list(folder.glob("cells/*/result.json"))
        assert len(results) == 17
        assert all(set(json.loads(path.read_text())["metrics"]) == {"val"} for path in results)
        for path in (results[0].parent, results[-1].parent):
            config = ConfigDict(json.loads((path / "config.json").read_text()))
            config.test = True
            with pytest.raises(InputError, match="its test split is sealed until .* has a selection.json"):
                jaxfer.run(config, path, quiet=True)
            with pytest.raises(InputError, match="its test split is sealed until"):
                jaxfer.evaluate(path, split="test")
            assert "accuracy" in jaxfer.evaluate(path, split="val")
        return real(comparison, record, opened)

    monkeypatch.setattr(comparison.seal, "write_selection", before_selection)
    jaxfer.compare(spec, folder, quiet=True)
    opened = set(json.loads((folder / "selection.json").read_text())["opened"])
    closed = [path for path in (folder / "cells").iterdir() if path.name not in opened]
    with pytest.raises(InputError, match="sealed: .*selection.json selected other runs"):
        jaxfer.evaluate(closed[0], split="test")
    assert "accuracy" in jaxfer.evaluate(folder / "cells" / min(opened), split="test")


def test_a_tuning_run_that_asks_for_test_is_refused(tmp_path, capsys):
    spec = example.write(tmp_path)
    assert main(["compare", spec, "--workdir", str(tmp_path / "run"), "--config.test=true"]) == 2
    assert "config.test: a comparison opens the test split itself, after its selection" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.system
def test_another_protocol_after_the_selection_is_refused(undisturbed, tmp_path):
    spec, folder, _ = undisturbed
    with pytest.raises(InputError, match=r"finished selection of another protocol \(differing: .*seeds\)"):
        jaxfer.compare(spec, folder, overrides={"compare.seeds": 3}, quiet=True)
    with pytest.raises(InputError, match="records another selection"):
        seal.write_selection(epath.Path(folder), {"selected": []}, [])


@pytest.mark.system
def test_failed_runs_leave_test_sealed_and_diverged_trials_are_out(undisturbed, tmp_path, monkeypatch, capsys):
    real = loop.preflight

    def flaky(config, folder):
        if config.seed == 1 and config.method == "probe":
            raise OSError(28, "No space left on device")
        return real(config, folder)

    spec = example.write(tmp_path, SMALL)
    monkeypatch.setattr(loop, "preflight", flaky)
    argv = ["compare", spec, "--workdir", str(tmp_path / "run"), "--config.compare.methods=probe"]
    argv.append("--config.compare.grid.scratch.lr=1e30,1e-3")
    argv.append("--config.optimizer=sgd")
    assert main(argv) == 1
    assert "2 of 9 runs failed" in capsys.readouterr().err and not (tmp_path / "run/selection.json").exists()
    monkeypatch.undo()
    assert main(argv) == 0
    chosen = json.loads((tmp_path / "run/selection.json").read_text())["selected"]
    assert chosen[0]["arm"] == "scratch" and chosen[0]["val"][1] is None and chosen[0]["trial"] == 0


@pytest.mark.system
def test_several_label_counts(undisturbed, tmp_path):
    spec, _, _ = undisturbed
    overrides = {"compare.labels": "8,2", "compare.methods": "probe", "compare.trials": 1}
    found = jaxfer.compare(spec, tmp_path / "run", overrides=overrides, quiet=True)
    assert [(f.labels, f.arm) for f in found.findings] == [(2, "scratch"), (2, "probe"), (8, "scratch"), (8, "probe")]
    assert (tmp_path / "run/labels.png").exists()
    saved = found.findings[1].saved
    assert saved is not None and (saved.needed in (2, 8, math.inf) or 2 < saved.needed < 8)
    assert "2 labels a class:" in found.sentences and "At 2 labels a class" in found.sentences


def test_bad_comparisons_are_refused_before_anything_runs(tmp_path):
    spec = example.write(tmp_path)
    for overrides, message in [
        ({"init": "scratch"}, "config.init: nothing to transfer from"),
        ({"stages": ("probe", "full")}, "name arms in config.compare.methods"),
        ({"compare.methods": ("probe", "loraa")}, "unknown method 'loraa'; nearest: 'lora'"),
        ({"compare.methods": ("scratch",)}, "expected distinct methods beside scratch"),
        ({"compare.methods": ("full+full",)}, "'full.full' repeats a stage"),
        ({"compare.trials": 5}, "scratch has 4 settings, expected at least 5"),
        ({"compare.trials": 0}, "config.compare.trials: expected at least 1, found 0"),
        ({"compare.labels": (5, 5)}, "expected distinct positive counts"),
        (
            {"compare.labels": (5000,)},
            "scratch 5000 labels trial 0 seed 0: class '8' has 104 training examples besides validation",
        ),
        ({"compare.grid.probe.lrr": (1.0,)}, "config.compare.grid.probe.lrr: probe can tune only lr"),
        ({"compare.grid.loar.lr": (1.0,)}, "config.compare.grid.loar: no such method; nearest: 'lora'"),
        ({"compare.stage.probe.lrr": 1.0}, "unknown field config.compare.stage.probe.lrr; nearest"),
        ({"compare.stage.probe.steps": 3}, "config.compare.stage.probe.steps: the same for every arm"),
        ({"compare.stage.probe.freeze": ".*"}, "everything is frozen"),
        ({"compare.seed": 3}, "unknown field config.compare.seed; nearest: 'compare.seeds'"),
        ({"compare.seeds": 2.5}, "config.compare.seeds: expected int, found 2.5"),
        ({"lr": "0.1"}, r"config.lr has no effect in a comparison; set config.compare.stage.METHOD.lr, or its grid"),
        ({"rates.head": "0.1"}, "config.rates.head has no effect in a comparison; set config.compare.stage.METHOD"),
        ({"method": "probe"}, "config.method has no effect in a comparison; set config.compare.methods"),
        ({"seed": "3"}, "config.seed has no effect in a comparison; set config.compare.seeds"),
        (
            {"data.labels_per_class": "3", "compare.labels": "5"},
            "config.data.labels_per_class has no effect in a comparison; set config.compare.labels",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            jaxfer.compare(spec, tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_what_a_comparison_does_not_use_of_the_file_is_said(tmp_path):
    extra = """
        whole = get_config

        def get_config(arg=""):
            config = whole(arg)
            config.compare.update(seeds=1)
            config.update(lr=3e-3, seed=2)
            config.task.loss = "focal"
            return config
    """
    assert protocol.make_design(example.write(tmp_path, extra), {}).notes == (
        "config.lr=0.003 is not used in a comparison; set config.compare.stage.METHOD.lr, or its grid in "
        "config.compare.grid.METHOD.lr",
        "config.seed=2 is not used in a comparison; set config.compare.seeds, a number of seeds from 0",
        "config.task.loss='focal': the simple baselines minimise the plain loss",
    )


@pytest.mark.system
def test_regression_is_compared_where_less_is_better(tmp_path):
    """The pixels' ridge and the training mean are its baselines; the best setting is the smallest error."""
    spec = tmp_path / "mine.py"
    spec.write_text(REGRESSION)
    found = jaxfer.compare(str(spec), tmp_path / "run", quiet=True)
    assert [b.name for b in found.baselines] == ["training mean", "ridge on pixels"]
    assert all(b.best == min(b.val) for b in found.baselines)
    chosen = json.loads((tmp_path / "run/selection.json").read_text())["selected"]
    assert all(c["val"][c["trial"]] == min(c["val"]) for c in chosen)


REGRESSION = """
import jaxfer.config
from jaxfer.sweeps import Cell

def get_config(arg=""):
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1,), width=4, stem="cifar", image=(4, 4, 1))
    config.data = dict(source="synthetic", image=(4, 4, 1), examples=40, target="value")
    config.task = dict(name="regression")
    config.parallel.devices = 1
    config.update(batch_size=4, steps=4, head="reset", init="scratch" if arg else "sibling:source")
    config.compare.update(methods=("probe",), seeds=2, trials=2)
    return config

def sweep():
    yield Cell(name="source", arg="source")
"""


def test_a_sweeps_folder_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/cells.json").write_text("[]")
    with pytest.raises(InputError, match="holds a sweep, whose runs may have read test"):
        jaxfer.compare(example.write(tmp_path), tmp_path / "run")


def test_cells_failed_is_not_bad_input():
    assert CellsFailed.exit_code == 1 and not issubclass(CellsFailed, InputError)
