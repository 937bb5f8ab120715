"""A sweep from its config to its table: alone, in two processes, killed, with cells that fail or diverge."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from etils import epath

import jaxfer
from jaxfer import sweeps
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.sweeps import Row, executor
from jaxfer.sweeps.executors import Pool
from jaxfer.sweeps.executors.processes import Worker
from jaxfer.training import loop, programs
from jaxfer.training.progress import Progress, Reporter
from tests.full_disk import LINE, full
from tests.sweeps import example

pytestmark = pytest.mark.system

FILES = ("table.csv", "table.md", "methods.png", "methods.svg", "cells.json")


@pytest.fixture
def config(tmp_path):
    return example.write(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(config, folder) of a sweep that nothing disturbed; on stored features, from which others differ by rounding."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = example.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFER_CACHE", str(folder / "cache"))
        jaxfer.sweep(spec, folder / "sweep", quiet=True)
    return spec, folder / "sweep"


def cells(folder):
    return {cell["name"]: cell for cell in json.loads((folder / "cells.json").read_text())}


def results(folder):
    return {
        name: json.loads((folder / cell["folder"] / "result.json").read_text()) for name, cell in cells(folder).items()
    }


def test_table_of_a_sweep(undisturbed, capsys):
    spec, folder = undisturbed
    assert all((folder / name).exists() for name in FILES)
    found = results(folder)
    table = example.without_seconds((folder / "table.csv").read_text())
    assert table[0] == ["method", "mean", "interval95", "params_trainable", "compiles", "failed", "diverged", "scores"]
    for row, method in zip(table[1:], ("probe", "full"), strict=True):
        scores = [found[f"{method}-{seed}"]["metrics"]["val"]["accuracy"] for seed in range(3)]
        assert row[0] == method and [float(score) for score in row[-1].split()] == pytest.approx(scores, abs=1e-6)
        assert float(row[1]) == pytest.approx(np.mean(scores), abs=1e-6)
        assert row[3] == str(found[f"{method}-0"]["cost"]["params_trainable"]) and row[5:7] == ["0", "0"]
    assert [row[4] for row in table[1:]] == ["1", "0"], "full runs the source's program"
    assert found["probe-1"]["cost"]["compile_seconds"] == 0, "seeds share one program"


def test_again_it_only_reads(undisturbed, monkeypatch):
    spec, folder = undisturbed
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*/*") if path.name != ".lock"}
    table = (folder / "table.csv").read_bytes()
    monkeypatch.setattr("jaxfer.training.loop.Checkpoints", None)  # nothing is opened
    jaxfer.sweep(spec, folder, quiet=True)
    assert (folder / "table.csv").read_bytes() == table
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*/*") if path.name != ".lock"} == before


@pytest.mark.parametrize("largest", [100, 20_000], ids=["cells.json", "methods.png"])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(undisturbed, tmp_path, largest, capsys):
    spec, folder = undisturbed
    shutil.copytree(folder, tmp_path / "sweep")
    for name in FILES:
        (tmp_path / "sweep" / name).unlink()
    argv = ["sweep", spec, "--workdir", str(tmp_path / "sweep")]
    with full(largest):
        assert main(argv) == 2
    assert LINE in capsys.readouterr().err
    assert main(argv) == 0
    for name in ("table.csv", "cells.json"):
        assert (tmp_path / "sweep" / name).read_bytes() == (folder / name).read_bytes()


def test_overrides_reach_the_table_and_of_the_sources_only_the_model(config, tmp_path):
    jaxfer.sweep(config, tmp_path / "sweep", overrides={"steps": "3", "model.width": "6"}, quiet=True)
    found = results(tmp_path / "sweep")
    assert {name: result["steps"] for name, result in found.items()} == {
        "source": 4,
        **{f"{method}-{seed}": 3 for method in ("probe", "full") for seed in range(3)},
    }


def test_cells_that_are_the_same_run_are_run_once(tmp_path):
    spec = example.write(
        tmp_path,
        """
        def sweep():
            yield {"steps": 2}
            yield Cell(name="again", overrides={"steps": 2, "lr": 1e-3}, group="default rate written out")
    """,
    )
    found = jaxfer.sweep(spec, tmp_path / "sweep", quiet=True)
    assert len(list((tmp_path / "sweep/cells").iterdir())) == 1
    assert [row.group for row in found.rows] == ["steps=2", "default rate written out"]
    assert found.rows[0].scores == found.rows[1].scores


def test_a_changed_config_leaves_other_cells_alone(undisturbed, tmp_path, capsys):
    _, folder = undisturbed
    spec = example.write(
        tmp_path,
        """
        def sweep():
            yield {"seed": 7, "steps": 2}
    """,
    )
    before = sorted(path.name for path in (folder / "cells").iterdir())
    jaxfer.sweep(spec, folder)
    assert "7 cells of other configs, data or code are left alone" in capsys.readouterr().err
    assert set(before) < {path.name for path in (folder / "cells").iterdir()}
    jaxfer.sweep(undisturbed[0], folder, quiet=True)


def test_two_processes_give_the_same_table(undisturbed, tmp_path, monkeypatch):
    spec, folder = undisturbed
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    jaxfer.sweep(spec, tmp_path / "two", processes=2, quiet=True)
    ours, theirs = ((f / "table.csv").read_text() for f in (tmp_path / "two", folder))
    assert example.without_seconds(ours) == example.without_seconds(theirs)
    assert (tmp_path / "two/cells.json").read_text() == (folder / "cells.json").read_text()
    mine, its = results(tmp_path / "two"), results(folder)
    assert all(mine[name]["lineage"] == its[name]["lineage"] for name in its), "bitwise the same parameters"


@pytest.mark.rest  # a killed comparison gives the same table too
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_twenty_times_it_gives_the_same_table(undisturbed, tmp_path, processes):
    """kill -9 of the sweep at random moments; its workers go with it."""
    spec, folder = undisturbed
    argv = [sys.executable, "-m", "jaxfer", "sweep", spec, "--workdir", str(tmp_path / "killed")]
    argv.append(f"--processes={processes}")
    rng, kills = random.Random(processes), 0
    environment = {**os.environ, "JAXFER_CACHE": str(tmp_path / "cache")}  # kills then fall into more than compiling
    while kills < 10:
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
        try:
            process.wait(timeout=rng.uniform(1.5, 6))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        kills += 1
        if (tmp_path / "killed/table.csv").exists() and kills < 10:  # it got through: take some of it away
            (tmp_path / "killed/table.csv").unlink()
            for cell in rng.sample(sorted((tmp_path / "killed/cells").iterdir()), 4):
                (cell / "result.json").unlink(missing_ok=True)
                for checkpoint in sorted(cell.glob("checkpoints/*"))[-1:]:
                    (checkpoint / "state" / "_METADATA").unlink(missing_ok=True)
    assert subprocess.run(argv, capture_output=True, env=environment).returncode == 0
    ours, theirs = ((f / "table.csv").read_text() for f in (tmp_path / "killed", folder))
    assert example.without_seconds(ours) == example.without_seconds(theirs)
    mine, its = results(tmp_path / "killed"), results(folder)
    assert all(mine[name]["lineage"]["sha256"] == its[name]["lineage"]["sha256"] for name in its)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.rest), 2])
def test_sigterm_saves_and_says_run_me_again(config, tmp_path, processes):
    argv = [sys.executable, "-m", "jaxfer", "sweep", config, "--workdir", str(tmp_path / "sweep")]
    argv += [f"--processes={processes}", "--config.steps=4000"]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("sweep/cells/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "run the same command again" in err and "Traceback" not in err


def test_failed_and_diverged_cells_are_counted_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    spec = example.write(
        tmp_path,
        """
        def sweep():
            for seed in (0, 1):
                yield Cell(name=f"good-{seed}", overrides={"seed": seed}, group="good")
            yield Cell(name="wild", overrides={"lr": 1e30, "optimizer": "sgd", "steps": 20}, group="wild")
            yield Cell(name="broken", overrides={"seed": 9}, group="good")
            yield Cell(name="after", arg="probe", overrides={"init": "sibling:broken"}, group="after")
    """,
    )
    real = loop.preflight

    def flaky(config, folder):
        if config.seed == 9:
            raise OSError(5, "Input/output error", "disk")
        return real(config, folder)

    monkeypatch.setattr(loop, "preflight", flaky)
    assert main(["sweep", spec, "--workdir", str(tmp_path / "sweep")]) == 1
    said = capsys.readouterr()
    assert "2 failed" in said.err and "1 diverged" in said.err and "2 cells failed, 1 diverged" in said.out
    assert "some rows have 2 runs, too few: a 95 % interval is ± 9.0 standard deviations" in said.out
    status = {name: cell["status"] for name, cell in cells(tmp_path / "sweep").items()}
    assert status == {"good-0": "done", "good-1": "done", "wild": "diverged", "broken": "failed", "after": "failed"}
    place = tmp_path / "sweep" / cells(tmp_path / "sweep")["broken"]["folder"]
    assert "OSError: [Errno 5] Input/output error: 'disk'" in (place / "error.txt").read_text()
    good, wild, after = jaxfer.sweep(spec, tmp_path / "sweep", quiet=True).rows
    assert (len(good.scores), good.failed, wild.diverged, wild.scores, after.failed) == (2, 1, 1, (), 1)
    monkeypatch.undo()
    assert main(["sweep", spec, "--workdir", str(tmp_path / "sweep")]) == 3, "what failed is tried again"
    assert not (place / "error.txt").exists()


def test_a_sweep_of_24_probe_cells_compiles_at_most_twice(tmp_path):
    spec = example.write(
        tmp_path,
        """
        def sweep():
            yield Cell(name="source")
            for rate in (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0):
                for seed in range(3):
                    overrides = {"lr": rate, "seed": seed, "steps": 2, "weight_decay": rate / 10}
                    yield Cell(arg="probe", overrides=overrides, group=f"lr={rate:g}")
    """,
    )
    programs._train_program.cache_clear()
    programs._block_program.cache_clear()
    found = jaxfer.sweep(spec, tmp_path / "sweep", quiet=True)
    assert programs.compiles() == 2, "the source and the probe"
    assert [row.compiles for row in found.rows] == [1, 0, 0, 0, 0, 0, 0, 0]
    losses = {result["metrics"]["val"]["loss"] for result in results(tmp_path / "sweep").values()}
    assert len(losses) == 25, "rates, decays or seeds had no effect"


def test_bad_sweeps_are_refused_before_anything_runs(config, tmp_path, capsys):
    assert main(["sweep", config, "--workdir", str(tmp_path / "sweep"), "--config.stepps=3"]) == 2
    assert "unknown field config.stepps" in capsys.readouterr().err
    for extra, message in [
        ("def sweep():\n    return []", "yields no cell with a group"),
        ("def sweep():\n    yield Cell(name='source')", "yields no cell with a group"),
        ("def sweep():\n    yield {'seed': 1}\n    yield {'seed': 1}", "two cells called 'seed=1'"),
        ("def sweep():\n    yield 3", "must yield jaxfer.sweeps.Cell or dicts of overrides, found 3"),
        (
            "def sweep():\n    yield {'lr': 0.1}\n    yield {'test': True}",
            "must share task and test, found test accuracy",
        ),
        ("def sweep():\n    yield Cell(arg='probe', group='x')", "no cell of that name before it"),
        ("def sweep():\n    yield {'batch_size': 7, 'parallel.devices': 4}", "can't be split over 4 devices"),
        ("sweep = 3", "expected a function sweep, found 3"),
        (
            "def sweep(x, y):\n    yield {}",
            "sweep('') failed: TypeError: sweep() missing 1",
        ),
        ("def sweep():\n    yield {'seed': 1 / 0}", "sweep() failed: ZeroDivisionError: division by zero (line "),
        ("def sweep():\n    raise SystemExit", "sweep() failed: SystemExit (line "),
        ("def sweep():\n    return None", "must yield jaxfer.sweeps.Cell or dicts of overrides, returned None"),
        ("def sweep():\n    return map(lambda x: 1 / x, [0])", "sweep() failed: ZeroDivisionError"),
        ("def sweep():\n    yield {3: 1}", "overrides of 3; expected the dotted name of a field"),
        ("def sweep():\n    yield Cell(group='a', overrides=None)", "whose overrides are None; expected a dict"),
        ("def sweep():\n    yield Cell(group=3)", "a Cell whose group is 3; expected text"),
        ("def sweep():\n    yield {'init': 'run:'}", "expected run:FOLDER or sibling:NAME, found 'run:'"),
        ("def sweep():\n    yield {'init': 'run:nowhere'}", "no run at nowhere; train it first"),
        ("def sweep():\n    yield {'freeze': ('steem/.*',)}", "cell \"freeze=('steem/.*',)\": freeze rule 'steem"),
    ]:
        (tmp_path / "bad").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=re.escape(message)):
            jaxfer.sweep(example.write(tmp_path / "bad", "\n" + extra), tmp_path / "sweep")
    with pytest.raises(InputError, match="expected a config file with sweep"):
        jaxfer.sweep("configs/ladder.py", tmp_path / "sweep")
    with pytest.raises(InputError, match="--processes: expected at least 1, found 0"):
        jaxfer.sweep(config, tmp_path / "other", processes=0)
    assert not (tmp_path / "sweep").exists()


def test_columns_of_counts_appear_where_there_are_any():
    row = Row(
        group="lora", scores=(0.5, 0.7), mean=0.6, interval=0.1, seconds=1.25, params_trainable=1234, compiles=1,
        failed=0, diverged=2,
    )  # fmt: skip
    assert sweeps.table.as_markdown([row], "val accuracy") == (
        "| method | val accuracy | 95 % interval | seconds | trainable parameters | compiles | diverged |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| lora | 0.600 | ± 0.100 | 1.2 | 1,234 | 1 | 2 |\n"
    )


def test_a_comparisons_folder_is_refused(config, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/protocol.json").write_text("{}")
    with pytest.raises(InputError, match="holds a comparison, whose runs are sealed"):
        jaxfer.sweep(config, tmp_path / "sweep")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_group_tells_how_far_it_is(processes, config, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    told, real = [], Reporter.together

    def together(reporter, key, name, progress, *, maximize):
        told.append((name, progress))
        real(reporter, key, name, progress, maximize=maximize)
        assert (key in reporter._together) == (progress is not None)

    monkeypatch.setattr(Reporter, "together", together)
    overrides = {"eval_every": 2, "save_every": 0}
    result = jaxfer.sweep(config, tmp_path / "sweep", overrides=overrides, processes=processes, quiet=True)
    found = [progress for name, progress in told if name == "3 x probe"]
    evaluated = [(progress.step, len(progress.scores)) for progress in found[:-1] if progress.evaluated]
    assert found[0] == Progress(0, 4, "accuracy") and evaluated == [(2, 3), (4, 3)] and found[-1] is None
    (probe,) = (row for row in result.rows if row.group == "probe")
    assert found[-2].scores == probe.scores
    assert all(progress is None for name, progress in told if name != "3 x probe"), "the others are run one by one"


def test_an_idle_worker_that_is_killed_is_replaced(config, tmp_path):
    """While the other runs the source, there is nothing for it to do; then there is."""
    planned = sweeps.cells.make_jobs(config, sweeps.cells.expand(config))[:3]
    with Pool(2) as pool:

        def told(cell, outcome):
            if cell.cell.name == "source":
                (idle,) = (worker for worker in pool.workers if worker.group is None)
                idle.process.kill()
                idle.process.join()

        outcomes = executor.execute(planned, epath.Path(tmp_path / "sweep"), executor=pool, told=told)
    assert [outcomes[p.key].status for p in planned] == ["done"] * 3


def test_a_pool_keeps_its_processes_and_their_programs(config, tmp_path):
    """For cells that come later, as the reading of a comparison's test split does; one killed meanwhile is replaced."""
    planned = sweeps.cells.make_jobs(config, sweeps.cells.expand(config))[:1]
    with Pool(1) as pool:
        (worker,) = pool.workers
        outcomes = [
            executor.execute(planned, epath.Path(tmp_path / name), executor=pool, told=lambda *_: None)[planned[0].key]
            for name in ("first", "second")
        ]
        assert [outcome.compiles for outcome in outcomes] == [1, 0] and pool.workers == [worker]
        worker.process.kill()
        worker.process.join()
        outcome = executor.execute(planned, epath.Path(tmp_path / "third"), executor=pool, told=lambda *_: None)
        assert outcome[planned[0].key].compiles == 1 and pool.workers != [worker]
        (worker,) = pool.workers
    assert worker.process.exitcode == 0


def test_a_pool_that_was_never_used_ends_at_once():
    """A config's mistake must not wait for the imports of processes that have nothing to do."""
    with Pool(2) as pool:
        processes = [worker.process for worker in pool.workers]
    assert [process.exitcode for process in processes] == [-signal.SIGTERM] * 2


def test_a_worker_that_dies_while_it_starts_fails_its_cell(config, tmp_path, monkeypatch):
    """It leaves what it was sent unread, and the reader learns of a reset connection."""
    here, there = multiprocessing.Pipe()

    class Doomed(Worker):
        def sent(self, cell, folder):
            found = super().sent(cell, folder)
            there.close()
            return found

    process = types.SimpleNamespace(join=lambda: None, exitcode=-9)
    pool = Pool(0)
    pool.workers.append(Doomed(process, here))
    monkeypatch.setattr(pool, "_start", lambda: types.SimpleNamespace(group=None))
    (cell,) = sweeps.cells.make_jobs(config, sweeps.cells.expand(config)[:1])
    outcomes = executor.execute([cell], epath.Path(tmp_path), executor=pool, told=lambda *_: None)
    assert outcomes[cell.key].status == "failed"
    assert outcomes[cell.key].message == "its process died (exit code -9); out of memory?"
