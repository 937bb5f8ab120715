"""`find_lr`: the same steps as a run's where the rate stands, suggestions by hand, and no trace of it in any run."""

from __future__ import annotations

import numpy as np
import pytest

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.runs.metrics import read_metrics
from jaxfer.training import find_lr as module
from jaxfer.training.find_lr import Curve, find_lr, smoothed
from tests import kill
from tests.experiments import tiny_config


def config(**fields):
    config = tiny_config("row_mlp", steps=5, log_every=1, lr=0.01, warmup=2, **fields)
    config.parallel.devices = 1
    return config


def test_smoothed_by_hand():
    wanted = [(1 + 0.5 * 2 + 0.25 * 4) / 1.75, (0.5 * 1 + 2 + 0.5 * 4) / 2, (0.25 * 1 + 0.5 * 2 + 4) / 1.75]
    assert smoothed(np.array([1.0, 2.0, 4.0]), beta=0.5) == pytest.approx(wanted)


def test_suggestions_by_hand(monkeypatch):
    """The loss falls by 1, 1, 3 and 2 a decade, then rises."""
    monkeypatch.setattr(module, "smoothed", lambda losses: losses)
    rates, losses = np.geomspace(1e-5, 1.0, 6), np.array([10.0, 9.0, 8.0, 5.0, 3.0, 9.0])
    curve = Curve(
        rates=rates,
        losses=losses,
        groups={"head": 1.0, "backbone": 0.1},
        relative={"stem": 0.1, "block_0": 0.3, "head": 2.0},
    )
    # Central differences at the six points: -1, -1, -2, -2.5, 2, 6 a decade; the minimum is the fifth.
    assert curve.suggestions() == pytest.approx({"steepest descent": 1e-2, "a tenth of the minimum": 1e-2})
    assert curve.lines() == [
        "steepest descent: head 0.01, backbone 0.001",
        "a tenth of the minimum: head 0.01, backbone 0.001",
        "relative gradients: stem 0.1, block_0 0.3, head 2; the largest below the head is of 'block_0'",
    ]
    assert set(Curve(rates=rates, losses=np.arange(6.0), groups={}).suggestions().values()) == {None}


def test_at_a_rate_that_stands_it_takes_the_steps_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    at = find_lr(config(), "run", steps=5, low=0.01, high=0.01 * (1 + 1e-12))
    assert not list(tmp_path.iterdir())
    assert dict(at.groups) == {"head": 1.0, "backbone": 1.0}
    assert list(at.relative) == ["stem", "block_0", "block_1", "head"] and all(v > 0 for v in at.relative.values())
    plain = config()
    plain.warmup = 0
    jaxfer.run(plain, tmp_path / "run", quiet=True)
    lines = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if line["split"] == "train"]
    assert [line["loss"] for line in lines] == at.losses.tolist()


def test_it_reads_the_batches_of_a_sampler_too(tmp_path):
    sampled = config()
    sampled.data.sampling = "undersample"
    at = find_lr(sampled, "run", steps=5, low=0.01, high=0.01 * (1 + 1e-12))
    sampled.warmup = 0
    jaxfer.run(sampled, tmp_path / "run", quiet=True)
    lines = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if line["split"] == "train"]
    assert [line["loss"] for line in lines] == at.losses.tolist()


def test_surgical_fine_tunes_the_unit_of_the_largest_gradient():
    chosen = config(recipe="surgical", recipe_options={"block": "largest"})
    relative = find_lr(config(), steps=5).relative
    best = max(("stem", "block_0", "block_1"), key=relative.__getitem__)
    shown = jaxfer.show(chosen)
    trained = {path.split("/")[0] for path in shown[0].stage.spec.trainable}
    assert trained == {best, "head"}
    with pytest.raises(InputError, match="block=largest: expected init=run:FOLDER, found sibling:other"):
        jaxfer.show(config(recipe="surgical", recipe_options={"block": "largest"}, init="sibling:other", head="reset"))


@pytest.mark.system
def test_a_run_after_it_is_the_run_before_it(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(
        "import jaxfer.config\n\n\ndef get_config(arg=''):\n    config = jaxfer.config.base()\n"
        "    config.model = dict(name='resnet', stage_sizes=(1,), width=4, stem='cifar', image=(8, 8, 3))\n"
        "    config.data = dict(source='synthetic', image=(8, 8, 3), examples=40)\n"
        "    config.update(batch_size=4, steps=3, save_every=1)\n    return config\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["run", "mine.py", "--workdir=before", "--nocache"]) == 0
    assert main(["find-lr", "mine.py", "--workdir=after", "--png=curve.png", "--steps=12", "--nocache"]) == 0
    assert (tmp_path / "curve.png").read_bytes()[1:4] == b"PNG"
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"mine.py", "before", "curve.png"}
    assert main(["run", "mine.py", "--workdir=after", "--nocache"]) == 0
    assert not kill.ending(tmp_path / "before").differences(kill.ending(tmp_path / "after"))


@pytest.mark.parametrize(
    ("fields", "arguments", "message"),
    [
        ({}, dict(low=1.0, high=0.1), "expected 0 < low < high and at least 5 steps, found 1, 0.1 and 60 steps"),
        ({}, dict(steps=2), "found 1e-06, 1 and 2 steps"),
        (dict(method="probe", options={"fit": "ridge"}), {}, "the head is fitted at once by ridge, which has no rate"),
    ],
)
def test_refused(fields, arguments, message):
    with pytest.raises(InputError, match=message):
        find_lr(config(**fields), **arguments)
