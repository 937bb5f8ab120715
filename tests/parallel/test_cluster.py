"""What several processes ask of each other, where there is one; `tests/hosts.py` and `tests/kill.py` start more."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from jaxfer.errors import InputError, NonFiniteLoss
from jaxfer.parallel import cluster, liveness


@pytest.fixture
def processes(monkeypatch):
    """Makes this process one of several: each has the value that a function of its number gives."""

    def pretend(value_of, count=3):
        monkeypatch.setattr(cluster, "alone", lambda: False)
        monkeypatch.setattr(cluster.jax, "process_count", lambda: count)
        monkeypatch.setattr(cluster, "gathered", lambda _: [value_of(i) for i in range(count)])

    return pretend


def test_alone_nothing_is_asked():
    assert cluster.alone() and cluster.leader()
    assert cluster.gathered({"a": (1, 2)}) == [{"a": (1, 2)}]
    assert cluster.together(lambda: 5) == 5
    assert cluster.added({"a": 2**64 - 1}) == {"a": 2**64 - 1}
    cluster.agree({"config": {"lr": 0.1}})
    cluster.join()
    with liveness.leaving():
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("h:1", None, None), "--num_processes, --process_id: required together with --coordinator; give all three"),
        ((None, 2, 0), "--coordinator: required together with --num_processes, --process_id; give all three"),
        (("h:1", 2, 2), "--process_id: expected 0 to 1, found 2"),
        (("h:1", 2, -1), "--process_id: expected 0 to 1, found -1"),
        (("h", 2, 0), "--coordinator: expected HOST:PORT, found 'h'"),
    ],
)
def test_flags_that_do_not_fit(given, message):
    with pytest.raises(InputError) as caught:
        cluster.join(*given)
    assert str(caught.value) == message


SLURM = dict(SLURM_JOB_ID="7", SLURM_STEP_NODELIST="n[1-2]", SLURM_PROCID="0", SLURM_LOCALID="0")


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({**SLURM, "SLURM_NTASKS": "16"}, True),
        ({**SLURM, "SLURM_NTASKS": "1"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, False),  # an allocation's shell, without srun
        (dict(OMPI_MCA_orte_hnp_uri="1.0;tcp://10.0.0.1:1", OMPI_COMM_WORLD_SIZE="2"), True),
        ({"JAX_COORDINATOR_ADDRESS": "h:1"}, True),
    ],
)
def test_launchers(monkeypatch, variables, several):
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "OMPI_MCA_orte_hnp_uri", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cluster.launched() == several
    if several:
        with pytest.raises(InputError, match="jaxfer sweep runs in one process"):
            cluster.refuse("sweep")


def test_a_launcher_that_does_not_say_how_many(monkeypatch):
    for name, value in {**SLURM, "SLURM_NTASKS": "many"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        InputError, match="process was started by slurm, which does not state how many there are .* give --coordinator"
    ):
        cluster.launched()


def test_what_ended_a_process(capsys):
    """Exit codes: the input's 2, a divergence's 3, out of memory 2, a bug's 1; a peer that was lost 75, start again."""
    runtime = cluster.jax.errors.JaxRuntimeError
    found = {
        str(error): liveness._described(error)[0]
        for error in (
            InputError("bad"),
            NonFiniteLoss("nan"),
            runtime("RESOURCE_EXHAUSTED: Out of memory"),
            runtime("UNAVAILABLE: Connection reset by peer"),
            runtime("INTERNAL: Gloo all-reduce failed: Connection closed by peer"),
            FileNotFoundError(2, "No such file", "a.jpg"),
            KeyError("x"),
        )
    }
    assert list(found.values()) == [2, 3, 2, 75, 75, 2, 1]
    assert capsys.readouterr().err.endswith("KeyError: 'x'\n")


DISMISSED = "speaker.dismiss(); speaker.dismiss()"


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os.abort()", DISMISSED])
def test_who_can_not_speak_any_more_is_spoken_for(end):
    script = f"import os, signal; from jaxfer.parallel.liveness import _Speaker; speaker = _Speaker(); {end}"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    said, _, fix = found.stderr.strip().partition("; ")
    if end == DISMISSED:
        assert not said
    else:
        assert said == "process 0 of this run was killed, or ended because process 0 is gone"
        assert fix == "start all of them again to resume"


def test_an_error_of_one_is_everyones(processes):
    processes(lambda i: "no such file" if i == 2 else None)
    with pytest.raises(InputError, match="^process 2: no such file$"):
        cluster.together(lambda: 1)


def test_a_folder_that_another_host_does_not_see(processes, monkeypatch, tmp_path):
    processes(lambda i: i != 1)
    monkeypatch.setattr(cluster, "leader", lambda: False)
    monkeypatch.setattr(cluster, "SEEN_SECONDS", 0)
    with pytest.raises(InputError, match="is not a shared folder: process 1 does not see"):
        cluster.visible(tmp_path)


def test_a_silent_process_is_lost_and_one_that_left_is_not():
    heard, steps = liveness._Heard(), []
    for now in range(0, 90, 10):
        said = [("jaxfer/alive/0", str(now)), ("jaxfer/alive/1", str(min(now, 20))), ("jaxfer/alive/2", "left")]
        steps.append(heard.silent(said, float(now)))
    assert steps == [None] * 6 + [f"process 1: silent for {n} s" for n in (40, 50, 60)]


def test_an_error_of_all_is_said_as_it_is(processes):
    processes(lambda i: "no such file")
    with pytest.raises(InputError, match="^no such file$"):
        cluster.together(lambda: 1)


def test_what_differs_is_named(processes):
    processes(lambda i: {"config": {"lr": 0.1 + (i == 1), "stage": {"a": {"steps": 5}}}, "workdir": "w"})
    with pytest.raises(InputError) as caught:
        cluster.agree({})
    assert str(caught.value) == (
        "the processes differ (config.lr: 0.1 in process 0, 1.1 in process 1); start all with the same command"
    )


def test_sums_of_64_bits(processes, monkeypatch):
    """Two words each, since JAX holds 32 bits: 3 x (2^63 + 7) = 2^63 + 21 modulo 2^64."""
    processes(lambda i: None)
    monkeypatch.setattr(cluster.multihost_utils, "process_allgather", lambda words: np.stack([words] * 3))
    assert cluster.added({"a": 2**63 + 7, "b": 2**32 - 1}) == {"a": 2**63 + 21, "b": 3 * (2**32 - 1)}
