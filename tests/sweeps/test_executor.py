"""One cell's attempt, without training; groups, and the loop of executors with workers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from etils import epath

from jaxfer.errors import InputError
from jaxfer.sweeps import executor, queue
from jaxfer.sweeps.attempts import attempt
from jaxfer.sweeps.cells import FOLDER
from jaxfer.sweeps.executors import Here, Pool, make
from jaxfer.sweeps.executors.base import Died, Saved, Workers
from jaxfer.training.preemption import Notice
from tests.experiments import tiny_stage


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ('{"message": "the loss is nan"}', executor.DIVERGED, "the loss is nan"),
        ("{}", executor.FAILED, "diverged.json: message: expected str, found nothing"),
        ('"x"', executor.FAILED, "diverged.json: expected a JSON object, found a str"),
        ("{", executor.FAILED, "diverged.json: expected a JSON file of a run"),
    ],
)
def test_the_record_of_a_diverged_cell_is_checked(text, status, message, tmp_path):
    """A damaged one fails its own cell; the others go on."""
    place = epath.Path(tmp_path) / FOLDER / "key"
    place.mkdir(parents=True)
    (place / "diverged.json").write_text(text)
    cell = SimpleNamespace(key="key", config=SimpleNamespace(seed=0))
    told = []
    attempt((cell,), epath.Path(tmp_path), lambda cell, outcome: told.append(outcome), lambda progress: None)
    (outcome,) = told
    assert outcome.status == status and message in outcome.message and "\n" not in outcome.message


def test_what_is_read_again_is_shared_out_by_what_evaluates_it():
    """A part for each process; methods that differ in training alone are next to each other, probes for themselves."""
    stages = {name: tiny_stage("resnet_basic", method=name) for name in ("full", "lora", "l2sp", "probe")}

    def cell(method, seed):
        return SimpleNamespace(key=f"{method}-{seed}", programs=((stages[method].spec, 8),))

    cells = [cell(method, seed) for seed in (0, 1) for method in stages]
    wanted = ["full-0", "l2sp-0", "full-1", "l2sp-1", "lora-0", "lora-1", "probe-0", "probe-1"]
    assert queue.shared_out([], 2) == [], "all of them diverged"
    for processes, parts in ((1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (9, [1] * 8)):
        groups = queue.shared_out(cells, processes)
        assert [len(group) for group in groups] == parts
        assert [cell.key for group in groups for cell in group] == wanted


def test_groups_follow_from_the_cells_alone():
    def cell(key, alike, *sources):
        return SimpleNamespace(key=key, alike=alike, sources=sources)

    a, b = [cell(f"a{i}", "a") for i in range(70)], [cell(f"b{i}", "b", "a0") for i in range(2)]
    alone, other = [cell(f"c{i}", "") for i in range(2)], cell("d", "b")
    groups = queue.grouped([a[0], alone[0], b[0], *a[1:], other, alone[1], b[1]])
    assert groups == [tuple(a[:64]), (alone[0],), tuple(b), tuple(a[64:]), (other,), (alone[1],)]


class Scripted(Workers):
    """One worker at a time, whose events are written down: for each group that it is sent, one list."""

    deaths = 2

    def __init__(self, *scripts):
        self.scripts, self.told, self.sent, self.replacements = list(scripts), [], [], 0
        self.workers = [SimpleNamespace(group=None, compiled=frozenset())]

    def send(self, worker, group, folder):
        self.sent.append([cell.key for cell in group])
        self.told = self.scripts.pop(0)
        return worker

    def events(self):
        told, self.told = self.told, []
        for event in told:
            yield self.workers[0], event

    def replaced(self, worker):
        self.replacements += 1
        self.workers = [SimpleNamespace(group=None, compiled=frozenset())]
        return self.workers[0]

    def stop(self):
        pass

    def close(self, seconds=0.0):
        pass


def test_a_group_whose_worker_is_lost_is_resumed():
    """Told once of each cell; a worker that saved itself for its platform counts as no death, two deaths fail."""
    done = executor.Outcome(status=executor.DONE)
    cells = [SimpleNamespace(key=key, alike="x", sources=(), programs=("p",)) for key in "ab"]
    told = []

    def run(*scripts):
        told.clear()
        workers = Scripted(*scripts)
        work = queue.Queue(queue.grouped(cells), lambda cell, outcome: told.append((cell.key, outcome.status)))
        workers.run(work, epath.Path("."), Notice(), lambda group, progress: None)
        return workers, work

    again = [("a", done), ("b", done), None]
    workers, _ = run([("a", done), Died("exit code -9")], again)
    assert workers.sent == [["a", "b"]] * 2 and workers.replacements == 1 and told == [("a", "done"), ("b", "done")]
    workers, _ = run([Saved()], [Saved()], [Saved()], again)
    assert workers.replacements == 3 and told == [("a", "done"), ("b", "done")]
    _, work = run([("a", done), Died("exit code -9")], [Died("exit code -11")])
    assert told == [("a", "done"), ("b", "failed")]
    assert work.outcomes["b"].message == "its process died (exit code -11); out of memory?"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("proceses", {}, "--executor=proceses: no such executor; nearest: 'processes'"),
        ("here", {"processes": 2}, "--processes: --executor=here has no such option; leave it out, or use processes"),
        ("processes", {"processes": 0}, "--processes: expected at least 1, found 0"),
        (None, {"processes": 0}, "--processes: expected at least 1, found 0"),
    ],
)
def test_what_no_executor_does_is_refused(name, options, message):
    with pytest.raises(InputError) as refused:
        make(name, **options)
    assert str(refused.value) == message


def test_the_executor_that_is_meant():
    assert isinstance(make(), Here) and isinstance(make(processes=1), Here) and isinstance(make("here"), Here)
    assert make(processes=2)._processes == make("processes", processes=2)._processes == 2
    assert isinstance(make("processes", processes=1), Pool), "one, beside this one"
