"""What several processes ask of each other, where there is one; `tests/hosts.py` and `tests/kill.py` start more."""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer import cluster
from jaxfer.errors import InputError


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
    with cluster.leaving():
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("h:1", None, None), "--num_processes, --process_id: expected with --coordinator; give all three"),
        ((None, 2, 0), "--coordinator: expected with --num_processes, --process_id; give all three"),
        (("h:1", 2, 2), "--process_id: expected 0 to 1, found 2"),
        (("h:1", 2, -1), "--process_id: expected 0 to 1, found -1"),
        (("h", 2, 0), "--coordinator: expected HOST:PORT, found 'h'"),
    ],
)
def test_flags_that_do_not_fit(given, message):
    with pytest.raises(InputError) as caught:
        cluster.join(*given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("variable", "value", "several"),
    [
        ("SLURM_NTASKS", "1", False),
        ("SLURM_NTASKS", "16", True),
        ("OMPI_COMM_WORLD_SIZE", "2", True),
        ("TPU_WORKER_HOSTNAMES", "t1k-0", False),
        ("TPU_WORKER_HOSTNAMES", "t1k-0,t1k-1", True),
        ("TPU_WORKER_HOSTNAMES", "WARNING: could not determine TPU worker hostnames, please set env var", False),
        ("MEGASCALE_NUM_SLICES", "4", True),
        ("JAX_NUM_PROCESSES", "x", False),
    ],
)
def test_launchers(monkeypatch, variable, value, several):
    for name in cluster.LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    assert cluster.launched() == several


def test_an_error_of_one_is_everyones(processes):
    processes(lambda i: "no such file" if i == 2 else None)
    with pytest.raises(InputError, match="^process 2: no such file$"):
        cluster.together(lambda: 1)


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
