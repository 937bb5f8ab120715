"""`jaxfer chain`: runs of one task after the other, each evaluated on every task (`pretrained/trained_heads.py`)."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import jaxfer
import jaxfer.config
from jaxfer.commands import main
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import open_run
from jaxfer.training.evaluation import reopened


def digits(classes, **fields):
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1,), width=4, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", classes=tuple(classes), val_per_class=10, labels_per_class=20)
    config.update(batch_size=8, steps=8, warmup=1, lr=3e-3, eval_every=0, **fields)
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    jaxfer.run(digits("01"), folder / "first", quiet=True)
    second = digits("23", init=f"run:{folder}/first", head="reset", method="er")
    memory = dict(source="digits", classes=("0", "1"), val_per_class=10, labels_per_class=5)
    second.stream.memory = dict(**memory, task="classification")
    jaxfer.run(second, folder / "second", quiet=True)
    jaxfer.run(digits("23", init=f"run:{folder}/second"), folder / "third", quiet=True)
    return folder


def val(folder):
    return json.loads((folder / "result.json").read_text())["metrics"]["val"]


def test_each_run_on_every_task(runs):
    first, second, third = (runs / name for name in ("first", "second", "third"))
    found = jaxfer.chain([first, second, third])
    (a, *none), (b, c, ahead), (*_, d) = found.scores
    assert a == val(first)["accuracy"] and all(map(math.isnan, none)), "other classes: nothing to answer with"
    assert c == val(second)["accuracy"] and d == val(third)["accuracy"]
    assert b == val(second)["memory/accuracy"], "under the head that the memory trained"
    assert ahead == c, "the third task is the second once more"
    assert found.transfer.average == pytest.approx(sum(found.scores[2]) / 3, abs=1e-12)
    assert found.metric == "accuracy" and found.transfer.forward is None
    again = jaxfer.chain([second, third], untrained=[0.5, 0.25])
    assert again.transfer.forward == pytest.approx(c - 0.25, abs=1e-12)


def test_memories_of_all_tasks_before(runs):
    """A third task beside memories of the first two; the head of the first is that of the second run's memory."""
    third = digits("45", init=f"run:{runs}/second", head="reset", method="der")
    third.options.memories = ("memory_01", "memory_23")
    for task in ("01", "23"):
        memory = dict(source="digits", classes=tuple(task), val_per_class=10, labels_per_class=5, batch_size=4)
        third.stream[f"memory_{task}"] = dict(**memory, task="classification", weight=0.5)
    jaxfer.run(third, runs / "longer", quiet=True)
    ledger = json.loads((runs / "longer" / "ledger.json").read_text())["leaves"]
    origins = {"memory_01": "params/head/out/memory/kernel", "memory_23": "params/head/out/kernel"}
    for name, origin in origins.items():
        entry = ledger[f"params/head/out/{name}/kernel"]
        assert (entry["what"], entry["from"]) == ("loaded", origin)
    last = jaxfer.chain([runs / name for name in ("first", "second", "longer")]).scores[-1]
    metrics = val(runs / "longer")
    assert last == tuple(metrics[name] for name in ("memory_01/accuracy", "memory_23/accuracy", "accuracy"))


def test_a_head_that_was_drawn_and_never_trained_is_none(runs):
    """A stream of the first task, of weight 0, in a run whose source has no head for it."""
    third = digits("45", init=f"run:{runs}/plain", head="reset")
    second = digits("23", init=f"run:{runs}/first", head="reset")
    jaxfer.run(second, runs / "plain", quiet=True)
    watched = dict(source="digits", classes=("0", "1"), val_per_class=10, labels_per_class=5, weight=0.0)
    third.stream.watch = dict(**watched, task="classification")
    jaxfer.run(third, runs / "watching", quiet=True)
    folders = [runs / name for name in ("first", "plain", "watching")]
    head = flatten(open_run(runs / "first").state.params)
    found = jaxfer.chain(folders).scores[2][0]
    run = open_run(runs / "watching")
    params = {**flatten(run.state.params), **{path: x for path, x in head.items() if path.startswith("head/out/")}}
    params = {path: x for path, x in params.items() if not path.startswith("head/out/watch/")}
    split = reopened(runs / "first", "val", "result", {})[2].splits["val"]
    port = run.stage.spec.port.with_parts(())
    images = port.encoding.reader(split)(np.arange(len(split)))
    outputs, _ = port.apply(unflatten(params), run.state.model_state, images)
    assert found == pytest.approx((np.asarray(outputs).argmax(-1) == split.labels).mean())


def test_a_task_that_comes_back(runs):
    """Digits 0 and 1 once more, under a new head, which then answers the first task too."""
    again = digits("01", init=f"run:{runs}/second", head="reset")
    jaxfer.run(again, runs / "again", quiet=True)
    *_, last = jaxfer.chain([runs / name for name in ("first", "second", "again")]).scores
    assert last[0] == last[2] == val(runs / "again")["accuracy"]


def test_on_the_command_line(runs, capsys):
    folders = [str(runs / "first"), str(runs / "second")]
    assert main(["chain", *folders]) == 0
    out = capsys.readouterr().out
    assert out.startswith("val accuracy on each task") and "backward transfer" in out and "forward" not in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{}/first"], "at least two different runs, one for each task"),
        (["{}/first", "{}/none"], "no run at {}/none"),
        (["{}/first", "{}/second", "--untrained=half"], "--untrained: expected numbers with commas, found 'half'"),
        (["{}/first", "{}/second", "--untrained=0.5"], "an untrained network for each of 2 tasks, found 1"),
        (["{}/first", "{}/second", "--untrained=0.5,0.5"], "a task has other classes than the one before"),
        (["{}/first", "{}/second", "--config.seed=1"], "takes no --config options, found seed"),
    ],
)
def test_bad_input_is_one_line(runs, argv, message, capsys):
    assert main(["chain", *(word.format(runs) for word in argv)]) == 2
    assert message.format(runs) in capsys.readouterr().err
