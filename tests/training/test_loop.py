"""What a run writes and says. Resuming is in `test_resume.py`, what every method must do in `conformance/`."""

from __future__ import annotations

import json
import math

import pytest
from ml_collections import ConfigDict

import jaxfer
from jaxfer.config import resolve
from jaxfer.errors import NonFiniteLoss
from jaxfer.runs.metrics import read_metrics
from jaxfer.training import session
from jaxfer.training.preflight import preflight
from tests.experiments import tiny_config


def test_files_of_a_run(tmp_path):
    jaxfer.run(tiny_config("resnet_basic", test=True), tmp_path, quiet=True)
    assert {"config.json", "ledger.json", "params.txt", "metrics.jsonl", "checkpoints", "result.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert "head/out/kernel" in (tmp_path / "params.txt").read_text()


def test_metrics_are_means_since_the_line_before(tmp_path, monkeypatch):
    """Logged every 3 of 5 steps: means of steps 1-3 and of 4-5, of the losses logged step by step."""
    jaxfer.run(tiny_config("resnet_basic", steps=5, log_every=1), tmp_path / "each", quiet=True)
    jaxfer.run(tiny_config("resnet_basic", steps=5, log_every=3), tmp_path / "three", quiet=True)
    each, three = (
        [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl") if line["split"] == "train"]
        for name in ("each", "three")
    )
    assert three == pytest.approx([math.fsum(each[:3]) / 3, math.fsum(each[3:]) / 2], rel=1e-12)


def test_non_finite_loss_stops_the_run_and_says_where(tmp_path):
    config = tiny_config("resnet_basic", steps=20, log_every=4, lr=1e30, optimizer="sgd")
    with pytest.raises(NonFiniteLoss, match=r"non-finite loss at step [2-4], stage 'train'"):
        jaxfer.run(config, tmp_path, quiet=True)
    assert not (tmp_path / "result.json").exists()
    assert all(math.isfinite(line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl"))


def test_select_best_reports_the_best_evaluated_parameters(tmp_path):
    config = tiny_config("resnet_basic", steps=8, eval_every=2, select="best", lr=0.1, save_every=1)
    result = jaxfer.run(config, tmp_path, quiet=True)
    seen = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["split"] == "val"]
    best = max(seen, key=lambda line: line["accuracy"])  # the earliest of equals
    assert result["checkpoint_step"] == best["step"] and len(seen) == 4
    assert result["metrics"]["val"]["accuracy"] == best["accuracy"]
    assert jaxfer.evaluate(tmp_path)["accuracy"] == best["accuracy"]
    assert jaxfer.evaluate(tmp_path, checkpoint="last")["accuracy"] == seen[-1]["accuracy"]


def test_stages_carry_the_parameters_over(tmp_path):
    """A second stage at rate 0 evaluates as the first one's end; its lineage names the first stage's weights."""
    config = tiny_config("resnet_basic", stages=("adapt", "rest"), eval_every=0)
    config.stage.adapt = dict(method="lora", lr=0.05)
    config.stage.rest = dict(method="probe", lr=0.0, steps=2)
    result = jaxfer.run(config, tmp_path, quiet=True)
    first, second = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["split"] == "val"]
    assert (first["stage"], second["stage"], second["step"]) == ("adapt", "rest", 6)
    assert second["loss"] == pytest.approx(first["loss"], abs=1e-6)
    assert [stage["name"] for stage in result["lineage"]["stages"]] == ["adapt"]
    assert result["lineage"]["stages"][0]["sha256"] == result["lineage"]["sha256"]


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    jaxfer.run(tiny_config("resnet_basic"), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "data: synthetic · images of 3 classes"
    lines = [line for line in lines[1:] if not line.startswith("  ")]
    assert lines[0].startswith("train train step 2: ") and lines[-1].startswith("train val step 4: ")
    jaxfer.run(tiny_config("resnet_basic"), tmp_path)  # finished: nothing is trained
    assert capsys.readouterr().err == ""


def test_the_config_on_disk_is_complete(tmp_path):
    config = tiny_config("resnet_basic")
    jaxfer.run(config, tmp_path, quiet=True)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["b2"] == 0.999 and stored["model"]["block"] == "basic"
    assert stored["lr"] == 1e-3
    assert resolve(ConfigDict(stored)) == preflight(config).experiment


def test_a_default_written_out_is_the_same_experiment(tmp_path):
    """The method's own rate and options, as `jaxfer show` prints them."""
    given = tiny_config("resnet_basic", method="lora")
    written = tiny_config("resnet_basic", method="lora", lr=3e-3, options=dict(rank=8, alpha=16, targets=()))
    assert preflight(given).experiment.identity() == preflight(written).experiment.identity()
    assert preflight(given).experiment.identity()["stage.train.options"]["rank"] == 8


def test_rules_that_change_nothing_are_said(tmp_path, capsys):
    config = tiny_config("resnet_basic", method="probe", freeze=("stem/.*",), lr_rules=(("block_0/.*", 0.5),))
    jaxfer.run(config, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert "note: config.freeze: 'stem/.*' claims only what method 'probe' freezes anyway" in lines
    assert "note: config.lr_rules: 'block_0/.*' claims only frozen parameters" in lines
    assert "note: config.lr_rules" in str(jaxfer.show(config)[0])


def test_non_finite_validation_stops_the_run(tmp_path, monkeypatch):
    real = session.evaluate_streams

    def planted(*args, **options):
        found = real(*args, **options)
        return type(found)(metrics={**found.metrics, "loss": math.nan}, compile_seconds=0.0)

    monkeypatch.setattr(session, "evaluate_streams", planted)
    with pytest.raises(NonFiniteLoss, match="non-finite loss on val after step 4, stage 'train': nan"):
        jaxfer.run(tiny_config("resnet_basic"), tmp_path, quiet=True)
    assert not list((tmp_path / "checkpoints").iterdir())
