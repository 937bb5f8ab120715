"""The profiler's trace and the clock of the input."""

from __future__ import annotations

import gzip
import json
import time

import jax
import jax.numpy as jnp
import pytest
from etils import epath

import jaxfer
from jaxfer.config import resolve
from jaxfer.errors import InputError
from jaxfer.training.profile import Lead, Trace, Waited
from tests.experiments import tiny_config


def traced(folder):
    """The numbers of the steps in a trace."""
    (file,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return sorted(int(event["args"]["step_num"]) for event in events if "step_num" in event.get("args", {}))


def test_a_run_traces_the_steps_it_is_asked_for_and_counts_its_waiting(tmp_path):
    plain = jaxfer.run(tiny_config("resnet_basic", steps=5), tmp_path / "plain", quiet=True)
    result = jaxfer.run(tiny_config("resnet_basic", steps=5, profile=(2, 3)), tmp_path / "traced", quiet=True)
    assert traced(tmp_path / "traced" / "profile") == [2, 3]
    assert not (tmp_path / "plain" / "profile").exists()
    assert result["lineage"] == plain["lineage"]
    assert 0 < result["cost"]["input_seconds"] < result["cost"]["seconds"]


def test_a_run_that_leaves_early_writes_what_it_has(tmp_path):
    trace = Trace((2, 9), epath.Path(tmp_path))
    for step in (1, 2, 3):
        trace.begin(step, jnp.ones(2))
        trace.end(step, jnp.ones(2))
    trace.close()
    trace.close()
    assert traced(tmp_path) == [2, 3]


def test_waiting_is_what_the_next_batch_takes(monkeypatch):
    clock = iter([0.0, 1.5, 10.0, 10.25, 20.0, 20.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    waited = Waited("ab")
    assert list(waited) == ["a", "b"]
    assert (waited.take(), waited.take()) == (1.75, 0.0)


def test_the_host_is_at_most_two_steps_ahead_and_none_of_long_ones(monkeypatch):
    """Seconds that each wait takes, and the step that it waits for."""
    clock, waited, seconds = [0.0], [], {0: 0.1, 1: 0.7, 4: 0.6, 5: 0.4, 6: 0.0}

    def wait(step):
        waited.append(step)
        clock[0] += seconds[step]

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(jax, "block_until_ready", wait)
    lead = Lead()
    for newest in range(3):
        lead.limit(range(newest + 1))
    assert waited == [0]
    for newest in (3, 4, 5):  # the wait for step 1 was long: each is waited for itself, until one is short
        lead.limit(range(newest + 1))
    assert waited == [0, 1, 4, 5]
    lead.limit(range(9))
    assert waited[-1] == 6
    lead.limit(range(2))  # the metrics were fetched: nothing older is in flight
    assert len(waited) == 5


@pytest.mark.parametrize("steps", [(3,), (0, 2), (3, 2), (2, 5), (1, 2, 3)])
def test_steps_that_make_no_sense(steps):
    with pytest.raises(InputError, match=r"config.profile: expected a first and a last step in 1..4, found \("):
        resolve(tiny_config("resnet_basic", profile=steps))
