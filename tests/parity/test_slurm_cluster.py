"""Sweeps on a SLURM cluster of one node, whose jobs are preempted and killed, and whose command is."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

import jaxfer
from jaxfer.errors import Preempted
from tests.parity import slurm_cluster
from tests.parity.test_slurm import serving, started, wait_for
from tests.sweeps import example

pytestmark = [
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing()),
]

# Two jobs of some seconds each.
SLOW = """
    def sweep():
        for seed in (0, 1):
            overrides = {"seed": seed, "steps": 4000, "save_every": 250, "log_every": 1000}
            yield Cell(name=f"full-{seed}", overrides=overrides, group="full")
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Variables by which commands find it."""
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


@pytest.fixture(scope="module")
def here(tmp_path_factory, cluster):
    """(config, folder, variables) of a sweep in one process."""
    folder = tmp_path_factory.mktemp("here")
    spec = example.write(folder, SLOW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFER_CACHE", str(folder / "cache"))
        jaxfer.sweep(spec, folder / "sweep", quiet=True)
    return spec, folder / "sweep", {**cluster, "JAXFER_CACHE": str(folder / "cache")}


def jobs(cluster, states):
    """Ids of jobs in these states."""
    command = ["squeue", "--noheader", "--array", f"--states={states}", "--format=%i"]
    return set(subprocess.run(command, env=cluster, capture_output=True, text=True, check=True).stdout.split())


def trained(folder):
    """Cells that have a checkpoint."""
    return {path.parent for path in folder.glob("cells/*/checkpoints/*") if path.name.isdecimal()}


def test_jobs_that_are_preempted_or_die_are_submitted_again(cluster, here, tmp_path):
    """The one that lost its process is FAILED in SLURM's words, without a last one of its own."""
    _, folder, _ = here
    process = started(here, tmp_path, "--cpus=1", "--mem=500M", "--time=10", "--slurm=comment=a test,nice=1")
    wait_for(lambda: len(trained(tmp_path)) == 2, process)
    first = jobs(cluster, "RUNNING")
    assert first == {f"{job.partition('_')[0]}_{i}" for job in first for i in (0, 1)}, "one array"
    subprocess.run(["scancel", "--signal=TERM", *first], env=cluster, check=True)
    wait_for(lambda: len(jobs(cluster, "RUNNING") - first) == 2, process)
    wait_for(lambda: len(serving(tmp_path)) == 2, process)
    os.kill(serving(tmp_path)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err and "failed" not in err
    wait_for(lambda: len(jobs(cluster, "COMPLETED")) == 4)
    assert len(jobs(cluster, "FAILED")) == 1
    example.check_same(tmp_path, folder)


def test_a_killed_command_loses_nothing(cluster, here, tmp_path):
    """The second call waits for the jobs of the first to save; SIGTERM ends a job that runs and one that waits."""
    _, folder, _ = here
    process = started(here, tmp_path)
    wait_for(lambda: len(trained(tmp_path)) == 2, process)
    process.kill()
    process.communicate()
    former = jobs(cluster, "RUNNING")
    held = serving(tmp_path)
    assert len(former) == len(held) == 2, "they go on"
    for job in held:
        os.kill(job, signal.SIGSTOP)
    process = started(here, tmp_path, "--cpus=2")  # one at a time
    said = next(line for line in process.stderr if "earlier call" in line)
    assert said.startswith("waiting for jobs of an earlier call to save: ") and said.count("_") == 2
    assert not jobs(cluster, "RUNNING,PENDING") - former
    for job in held:
        os.kill(job, signal.SIGCONT)
    wait_for(lambda: jobs(cluster, "RUNNING") - former and jobs(cluster, "PENDING"), process)
    assert not jobs(cluster, "RUNNING") & former
    wait_for(lambda: serving(tmp_path), process)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == Preempted.exit_code and "run the same command again" in err, err
    wait_for(lambda: not jobs(cluster, "RUNNING,PENDING,COMPLETING"))
    process = started(here, tmp_path)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    example.check_same(tmp_path, folder)


def test_what_slurm_refuses_is_one_line(cluster, here, tmp_path):
    process = started(here, tmp_path, "--mem=900G")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in err
    assert "sbatch takes no such job (Memory specification can not be satisfied" in err
