"""Sweeps as jobs that need no SLURM: in this process, and as processes of this machine that are killed."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from etils import epath

import jaxfer
from jaxfer.errors import InputError, Preempted
from jaxfer.sweeps.executors import make, slurm
from jaxfer.sweeps.executors.base import Died, Saved
from jaxfer.sweeps.executors.job import There, events, serve
from tests.comparison import example as comparisons
from tests.sweeps import example

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """(config, folder, variables) of a sweep in one process."""
    return example.swept(tmp_path_factory.mktemp("here"))


def started(here, folder, *more):
    spec, _, variables = here
    argv = [sys.executable, "-m", "jaxfer", "sweep", spec, "--workdir", str(folder), "--executor=slurm", *more]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables, cwd=ROOT)


def serving(folder):
    """Processes of jobs of this sweep, none of srun."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:4] == [b"-u", b"-m", b"submitit.core._submit"] and str(folder / "jobs").encode() in words:
            found.append(int(process.name))
    return found


def wait_for(event, process=None, seconds=600):
    until = time.monotonic() + seconds
    while not event():
        assert process is None or process.poll() is None, example.said(process)
        assert time.monotonic() < until
        time.sleep(0.02)


def test_the_table_is_the_same_whatever_runs_the_cells(here, tmp_path, monkeypatch):
    spec, folder, variables = here
    monkeypatch.setenv("JAXFER_CACHE", variables["JAXFER_CACHE"])  # stored features: probes differ in their last bits
    jaxfer.sweep(spec, tmp_path, executor=make("slurm", cluster="debug"), quiet=True)
    example.check_same(tmp_path, folder)
    kept = {path.suffix for path in (tmp_path / "jobs").iterdir()}
    assert kept == {".err", ".out", ""}, "logs and the owner's token"


def test_a_comparison_is_the_same_whatever_runs_its_cells(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    comparisons.check_same_on(make("slurm", cluster="debug"), tmp_path)


ONE = """
    def sweep():
        yield Cell(name="full", overrides={{"steps": {steps}, "save_every": 500, "log_every": 20_000}}, group="full")
"""


@pytest.mark.rest
def test_time_that_runs_out_is_asked_for_again(tmp_path):
    """A job is told 25 seconds after its start that its minute will be over: it saves, and another one goes on."""
    (tmp_path / "measured").mkdir()
    _, folder, _ = example.swept(tmp_path / "measured", ONE.format(steps=5000))
    cost = json.loads(next(folder.glob("cells/*/result.json")).read_text())["cost"]
    steps = int(75 * 5000 / (cost["seconds"] - cost["compile_seconds"]))  # of more than a minute, less the start
    spec, folder, variables = example.swept(tmp_path, ONE.format(steps=steps))
    limits = ("--cluster=local", "--jobs=1", "--time=1", "--slurm=signal_delay_s=35")
    process = started((spec, folder, variables), tmp_path / "limited", *limits)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "Traceback" not in err and "failed" not in err
    assert len(list((tmp_path / "limited" / "jobs").glob("*.out"))) > 1, "more than one job"
    example.check_same(tmp_path / "limited", folder)


@pytest.mark.rest
def test_a_killed_job_is_submitted_again_and_its_cell_resumed(here, tmp_path):
    _, folder, _ = here
    process = started(here, tmp_path, "--cluster=local", "--jobs=2")
    wait_for(lambda: list(tmp_path.glob("cells/*/checkpoints/*")), process)
    for number in (signal.SIGKILL, signal.SIGTERM):
        wait_for(lambda: serving(tmp_path), process)
        (busy, *_) = serving(tmp_path)
        os.kill(busy, number)
        wait_for(lambda busy=busy: busy not in serving(tmp_path), process)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err and "failed" not in err
    example.check_same(tmp_path, folder)
    wait_for(lambda: not serving(tmp_path))


@pytest.mark.rest
def test_a_killed_sweep_loses_nothing(here, tmp_path):
    """The next call has its jobs save; SIGTERM saves every cell and says `run me again`."""
    _, folder, _ = here
    process = started(here, tmp_path, "--cluster=local", "--jobs=2")
    wait_for(lambda: list(tmp_path.glob("cells/*/checkpoints/*")), process)
    process.kill()
    process.communicate()
    process = started(here, tmp_path, "--cluster=local", "--jobs=2")  # at once: a job may still hold its cell
    done = len(list(tmp_path.glob("cells/*/result.json")))
    wait_for(lambda: len(list(tmp_path.glob("cells/*/result.json"))) > max(done, 1), process)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == Preempted.exit_code and "run the same command again" in err, err
    assert not serving(tmp_path)
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/result.json")}
    process = started(here, tmp_path, "--cluster=local", "--jobs=2")
    assert process.communicate(timeout=300) and process.returncode == 0
    example.check_same(tmp_path, folder)
    assert all(path.stat().st_mtime_ns == before for path, before in results.items()), "what is done stays"


def test_cells_whose_job_dies_three_times_fail(here, tmp_path, capsys):
    """Here before it begins, by a line of `setup`."""
    spec, _, _ = here
    result = jaxfer.sweep(spec, tmp_path, executor=make("slurm", cluster="local", jobs=2, slurm="setup=exit 3"))
    assert result.failed == 7 and result.exit_code == 1
    said = capsys.readouterr()
    assert f"its process died (killed, or it never began; its log: {tmp_path}/jobs/" in said.err
    assert "the cell it starts from is not done" in said.err


@pytest.fixture
def controller(monkeypatch, tmp_path):
    """A folder with `squeue`, which prints the file `states` and fails without it, and `scancel`, which keeps notes."""
    (tmp_path / "squeue").write_text(f"#!/bin/sh\nexec /bin/cat {tmp_path}/states\n")
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/notes\n')
    for name in ("sbatch", "srun", "squeue", "scancel"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm, "POLL", 0.0)
    return tmp_path


def test_jobs_without_a_last_word(controller, monkeypatch):
    """What SLURM no longer knows has ended, but not while it doesn't answer; a preempted job counts as no death."""
    executor = make("slurm", jobs=1)
    (worker,) = executor.__enter__().workers
    paths = SimpleNamespace(submitted_pickle=controller / "7_submitted.pkl", stderr=controller / "7_0_log.err")

    def told(states, late):
        monkeypatch.setattr(slurm, "LATE", late)
        (controller / "states").write_text(states) if states is not None else (controller / "states").unlink()
        return [event for _, event in executor.events()]

    def submitted():
        worker.job, worker.sent, worker.missing = SimpleNamespace(job_id="7", paths=paths), time.monotonic(), math.inf

    submitted()
    assert told("6 COMPLETED\n7 RUNNING\n8 PENDING\n", 0.0) == told("7 COMPLETING\n", 0.0) == []
    assert told(None, 0.0) == [], "what it said last counts"
    assert told("7 FAILED\n", 60.0) == [], "its last word may be on its way"
    assert told("7 FAILED\n", 0.0) == [Died(f"FAILED; its log: {controller}/7_0_log.err")]
    submitted()
    assert told("7 PREEMPTED\n", 0.0) == [Saved()]
    submitted()
    assert told(None, 0.0) == [], "no answer since it was submitted"
    assert told("6 COMPLETED\n", 0.0) == [Died(f"GONE; its log: {controller}/7_0_log.err")]


def test_jobs_of_a_killed_command_are_waited_for(controller, capfd):
    """Those that wait in SLURM are cancelled; the others see another owner's token, and save."""
    place = controller / "sweep" / "jobs"
    place.mkdir(parents=True)
    for name in ("12_0", "12_1", "9"):
        (place / f"{name}_submitted.pkl").touch()
    (place / "owner").write_text("a former command")
    (controller / "states").write_text("12_0 RUNNING\n12_1 CANCELLED\n9 COMPLETED\n")
    later = threading.Timer(1.0, lambda: (controller / "states").write_text("12_0 COMPLETED\n"))
    later.start()
    make("slurm")._open(epath.Path(controller / "sweep"))
    later.join()
    (cancelled,) = (controller / "notes").read_text().splitlines()
    assert cancelled.startswith("--quiet --state=PENDING ") and set(cancelled.split()[2:]) == {"12_0", "12_1", "9"}
    assert capfd.readouterr().err == "waiting for jobs of an earlier call to save: 12_0\n"
    assert [path.name for path in place.iterdir()] == ["owner"]
    assert (place / "owner").read_text() != "a former command"


def test_a_job_of_another_command_runs_nothing(tmp_path, monkeypatch):
    """It counts as a death, so that a --time too short to save anything is not asked for again and again."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process is no job
    (tmp_path / "owner").write_text("a later command")
    serve(str(tmp_path / "told"), str(tmp_path), [("key", {"seed": 0})], There("mine", os.getcwd(), None))
    assert events(tmp_path / "told", 0)[0] == [Died("stopped before it had anything to save")]
    assert not (tmp_path / "cells").exists()


def test_events_are_read_once_and_whole(tmp_path):
    told, whole = tmp_path / "told", pickle.dumps(("a", "outcome")) + pickle.dumps(Saved())
    assert events(told, 0) == ([], 0), "not there yet"
    told.write_bytes(whole[:-1])
    found, at = events(told, 0)
    assert found == [("a", "outcome")]
    told.write_bytes(whole + pickle.dumps(None))
    assert events(told, at) == ([Saved(), None], len(whole) + len(pickle.dumps(None)))


def test_wrong_options_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="this machine has no sbatch; start the command where jobs are submitted"):
        make("slurm")
    for options, line in [
        ({"cluster": "slrum"}, "--cluster=slrum: no such cluster; nearest: 'slurm'"),
        ({"jobs": 0}, "--jobs: expected a whole number of at least 1, found 0"),
        ({"time": 0}, "--time: expected a whole number of at least 1, found 0"),
        ({"cpus": 0.5}, "--cpus: expected a whole number of at least 1, found 0.5"),
        ({"gpus": 1.5}, "--gpus: expected a whole number of at least 0, found 1.5"),
        ({"mem": "8 GB"}, "--mem: expected megabytes, or a number and K, M, G or T such as 8G, found 8 GB"),
        ({"slurm": "account"}, "--slurm: expected KEY=VALUE,... such as account=me,qos=long, found 'account'"),
        ({"slurm": "time=5"}, "--slurm=time: use --time instead"),
        ({"slurm": "nodes=2"}, "--slurm=nodes: leave it out, a job is one process on one node"),
        ({"processes": 2}, "--processes: --executor=slurm has no such option; leave it out, or use processes"),
    ]:
        with pytest.raises(InputError) as refused:
            make("slurm", **{"cluster": "local", **options})
        assert str(refused.value) == line
    for folder in ("gs://x/y", "/x/100%/y"):
        with pytest.raises(InputError, match=f"a file system of all nodes, no % in its path, found {folder}"):
            make("slurm", cluster="debug")._open(epath.Path(folder))


def test_what_sbatch_is_told():
    from submitit.slurm.slurm import _make_sbatch_string

    from jaxfer.sweeps.executors.slurm_options import Options

    def flags(**given):
        text = _make_sbatch_string("command", "folder", **Options(**given).parameters())
        return {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}, text

    found, text = flags(
        time=4, cpus=2.0, gpus=1, mem="8G", partition="short",
        slurm=["account=me,nodelist=n1,n2,exclusive=true,reservation=mine", "setup=export A=1,B=2", "setup=true"],
    )  # fmt: skip
    wanted = "--time=4 --cpus-per-task=2 --gpus-per-node=1 --mem=8G --partition=short --account=me --nodelist=n1,n2"
    assert found >= {*wanted.split(), "--exclusive", "--reservation=mine", "--no-requeue", "--signal=TERM@60"}
    assert "\nexport A=1,B=2\ntrue\n" in text and "--cpus-per-task=2 command" in text, "srun's own"
    found, _ = flags()
    assert "--signal=TERM@90" in found
    assert not any(flag.startswith(("--time", "--mem", "--cpus", "--gpus", "--partition")) for flag in found)
