"""Robustness and retention of finished runs, against the same numbers found another way."""

from __future__ import annotations

import numpy as np
import pytest

import jaxfer
import jaxfer.config
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.runs.finished import open_run
from jaxfer.training.evaluation import reopened
from jaxfer.training.robustness import mean, retention, robustness


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A source, and a full fine-tuning and a probe from it."""
    folder = tmp_path_factory.mktemp("runs")
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1,), width=8, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", classes=("3", "8"), val_per_class=20)
    config.parallel.devices = 1
    config.update(batch_size=16, steps=12, lr=3e-3, save_every=0)
    jaxfer.run(config, folder / "source", quiet=True)
    config.data.noise = 64.0
    config.update(init=f"run:{folder / 'source'}", head="reset", steps=6)
    for method in ("full", "probe", "side_tuning"):
        config.update(method=method, lr=None)
        jaxfer.run(config, folder / method, quiet=True)
    return folder


def test_a_corruption_is_that_of_the_data(runs):
    found = robustness(runs / "full", corruptions=("contrast", "fog"), severity=4)
    assert list(found) == ["clean", "contrast", "fog"]
    assert found["clean"] == jaxfer.evaluate(runs / "full")
    for name in ("contrast", "fog"):
        assert found[name] == jaxfer.evaluate(runs / "full", overrides={"data.corrupt": f"{name}:4"})
    assert mean(found, "loss") == pytest.approx((found["contrast"]["loss"] + found["fog"]["loss"]) / 2)


def test_corruptions_are_a_sequence_where_the_run_adapts_continually(runs):
    """The first begins at the trained network, whatever came before it; the second with what the first left."""
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1,), width=8, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", classes=("3", "8"), val_per_class=20)
    config.parallel.devices = 1
    config.update(init=f"run:{runs / 'source'}", method="probe", adds=("tent",), steps=1, lr=0.0, eval_batch_size=20)
    config.options = dict(reset="continual", adapt_rate=0.1)
    jaxfer.run(config, runs / "continual", quiet=True)
    one, other = (robustness(runs / "continual", corruptions=c) for c in (("fog", "contrast"), ("contrast", "fog")))
    alone = {name: robustness(runs / "continual", corruptions=(name,)) for name in ("fog", "contrast")}
    assert one["fog"] == alone["fog"]["fog"] and other["contrast"] == alone["contrast"]["contrast"]
    assert one["contrast"] != alone["contrast"]["contrast"] and other["fog"] != alone["fog"]["fog"]
    assert one["clean"] == other["clean"] == jaxfer.evaluate(runs / "continual")


def test_the_table(runs, capsys):
    assert main(["eval", str(runs / "full"), "--corruptions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 1 + 15 + 1 and lines[0].split()[:2] == ["val", "accuracy"]
    assert lines[1].startswith("clean") and lines[-1].startswith("mean at severity 3")


def test_a_frozen_backbone_keeps_its_source(runs):
    kept = retention(runs / "probe", runs / "source")
    assert kept.metric == "accuracy" and kept.after == kept.before == jaxfer.evaluate(runs / "source")["accuracy"]
    assert retention(runs / "source", runs / "source").after == kept.before


def test_a_trained_backbone_is_read_under_the_head_of_its_source(runs):
    source, full = open_run(runs / "source"), open_run(runs / "full")
    port, (params, model_state) = source.stage.spec.port, full.stage.leave(full.state)
    split = reopened(runs / "source", "val", "result", {})[2].splits["val"]
    images = port.encoding.reader(split)(np.arange(len(split)))
    outputs, _ = port.apply({**params, "head": source.state.params["head"]}, model_state, images)
    expected = (np.asarray(outputs).argmax(-1) == split.labels).mean()
    assert retention(runs / "full", runs / "source").after == pytest.approx(expected)


def test_what_is_refused(runs):
    with pytest.raises(InputError, match="--severity: expected 1 to 5, found 0"):
        robustness(runs / "full", severity=0)
    with pytest.raises(InputError, match="--corruptions: no corruption 'blur'"):
        robustness(runs / "full", corruptions=("blur",))
    with pytest.raises(InputError, match="no plain"):
        retention(runs / "side_tuning", runs / "source")
    assert main(["eval", str(runs / "full"), "--severity=2"]) == 2
    assert main(["eval", str(runs / "full"), "--corruptions", "--predictions=x.csv"]) == 2
