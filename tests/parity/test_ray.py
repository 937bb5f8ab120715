"""Sweeps on a real Ray cluster: whole, with a worker killed, with the sweep itself killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

import jaxfer
from jaxfer.errors import InputError, Preempted
from jaxfer.sweeps.executors import make
from tests.comparison import example as comparisons
from tests.sweeps import example

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a CPU each."""
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """(config, folder, variables) of a sweep in one process."""
    return example.swept(tmp_path_factory.mktemp("here"))


def started(here, folder, address, *more):
    spec, _, variables = here
    argv = [sys.executable, "-m", "jaxfer", "sweep", spec, "--workdir", str(folder), "--executor=ray"]
    argv += [f"--ray-address={address}", *more]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables, cwd=ROOT)


def serving():
    """Processes of actors that run cells, on this test's cluster alone: others of the machine are none of its own."""
    parents, found = {}, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if (process / "cmdline").read_bytes().startswith(b"ray::_Serving"):
                found.append(int(process.name))
        except OSError:
            pass

    def ours(process):
        while process and process != os.getpid():
            process = parents.get(process, 0)
        return bool(process)

    return [process for process in found if ours(process)]


def wait_for(event, process=None, seconds=600):
    until = time.monotonic() + seconds
    while not event():
        assert process is None or process.poll() is None, example.said(process)
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.rest
def test_a_killed_worker_is_replaced_and_its_cell_resumed(cluster, here, tmp_path):
    spec, folder, variables = here
    process = started(here, tmp_path / "sweep", cluster.address)
    wait_for(lambda: list(tmp_path.glob("sweep/cells/*/checkpoints/*")), process)
    (busy, *_) = serving()
    os.kill(busy, signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err and "failed" not in err
    example.check_same(tmp_path / "sweep", folder)
    wait_for(lambda: not serving())


def test_a_killed_sweep_loses_nothing(cluster, here, tmp_path):
    """Its workers end by themselves; SIGTERM saves every cell and says `run me again`."""
    _, folder, _ = here
    process = started(here, tmp_path / "sweep", cluster.address)
    wait_for(lambda: list(tmp_path.glob("sweep/cells/*/checkpoints/*")), process)
    process.kill()
    process.communicate()
    process = started(here, tmp_path / "sweep", cluster.address)  # at once: a worker may still hold its cell
    done = len(list(tmp_path.glob("sweep/cells/*/result.json")))
    wait_for(lambda: len(list(tmp_path.glob("sweep/cells/*/result.json"))) > max(done, 1), process)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == Preempted.exit_code and "run the same command again" in err, err
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/cells/*/result.json")}
    process = started(here, tmp_path / "sweep", cluster.address)
    assert process.communicate(timeout=300) and process.returncode == 0
    example.check_same(tmp_path / "sweep", folder)
    assert all(path.stat().st_mtime_ns == before for path, before in results.items()), "what is done stays"


OWN = """
import sys
from jaxfer.methods import full

if "default_worker" in sys.argv[0] and __file__.startswith({folder!r}):
    raise OSError("another machine has no such folder")

def method(port, *, more: float = 1.0):
    return full.method(port)
"""


@pytest.mark.rest
def test_a_comparison_is_the_same_whatever_runs_its_cells(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    comparisons.check_same_on(make("ray", ray_address=cluster.address, cpus=1), tmp_path)


@pytest.mark.rest
def test_a_cluster_gets_a_users_own_methods(cluster, tmp_path):
    """Workers read copies of them, which came with the code of jaxfer."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text(OWN.format(folder=str(tmp_path)))
    (tmp_path / "methods" / "notes.txt").write_text("kept here")
    spec = example.write(tmp_path)
    text = Path(spec).read_text().replace('for method in ("probe", "full")', 'for method in ("probe", "mine")')
    Path(spec).write_text(text)
    jaxfer.sweep(spec, tmp_path / "here", quiet=True)
    process = started((spec, None, {**os.environ}), tmp_path / "sweep", cluster.address)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    example.check_same(tmp_path / "sweep", tmp_path / "here")


@pytest.mark.rest
def test_workers_share_what_the_cluster_calls_a_gpu(here, tmp_path):
    """Two halves of a GPU: two workers, each of which may fill 45 % of its memory."""
    _, folder, _ = here
    cluster = Cluster()
    cluster.add_node(num_cpus=4, num_gpus=1, object_store_memory=80 * 2**20, include_dashboard=False)
    try:
        process = started(here, tmp_path / "sweep", cluster.address, "--cpus=1", "--gpus=0.5")
        wait_for(lambda: len(serving()) == 2, process)
        found = [(Path("/proc") / str(number) / "environ").read_text().split("\0") for number in serving()]
        assert all("XLA_PYTHON_CLIENT_MEM_FRACTION=0.45" in variables for variables in found)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        example.check_same(tmp_path / "sweep", folder)
        for gpus, workers in ((1.0, 1), (0.25, 4), (0.3, 3), (0.0, 2)):
            executor = make("ray", ray_address=cluster.address, cpus=1 if gpus else 2, gpus=gpus)
            executor.at_most(8)
            with executor:
                assert executor.slots == workers
    finally:
        cluster.shutdown()


def test_wrong_addresses_and_resources_are_one_line(cluster, here, tmp_path):
    spec, _, _ = here
    with pytest.raises(InputError, match="--ray-address=127.0.0.1:1: no Ray cluster answers there"):
        jaxfer.sweep(spec, tmp_path, executor=make("ray", ray_address="127.0.0.1:1"))
    line = "--cpus=3 --gpus=0: no node of the Ray cluster has as many; the largest has 1 CPUs and 0 GPUs"
    with pytest.raises(InputError, match=line):
        jaxfer.sweep(spec, tmp_path, executor=make("ray", ray_address=cluster.address, cpus=3))
    assert not ray.is_initialized() and not (tmp_path / "cells.json").exists()
    for options, line in [
        ({"cpus": 0}, "--cpus: expected a number above 0"),
        ({"gpus": 1.5}, "--gpus: expected a whole number or a fraction"),
        ({"processes": 2}, "--processes: --executor=ray has no such option"),
    ]:
        with pytest.raises(InputError, match=line):
            make("ray", **options)
