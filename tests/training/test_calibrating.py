"""Temperature scaling: the closed form of two classes, the condition of a minimum, and a run's outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import softmax

import jaxfer
import jaxfer.config
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.training.calibrating import scores, temperature


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A classifier of noisy digits."""
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1,), width=8, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", val_per_class=20, noise=64.0)
    config.parallel.devices = 1
    config.update(batch_size=16, steps=12, lr=3e-3, save_every=0)
    folder = tmp_path_factory.mktemp("run")
    jaxfer.run(config, folder, quiet=True)
    return folder


@pytest.mark.parametrize("right", [0.6, 0.75, 0.9])
def test_two_classes_in_closed_form(right):
    """All outputs are 3 apart: the best probability of the predicted class is the accuracy, 1 / (1 + exp(-3 / T))."""
    n = 20
    logits, labels = np.tile([3.0, 0.0], (n, 1)), (np.arange(n) >= right * n).astype(int)
    found = temperature(logits, labels)
    assert found == pytest.approx(3 / math.log(right / (1 - right)), rel=1e-6)
    after = scores(logits / found, labels)
    assert after["nll"] == pytest.approx(-right * math.log(right) - (1 - right) * math.log(1 - right), rel=1e-9)
    assert after["ece"] == pytest.approx(0, abs=1e-6)


def test_the_derivative_is_zero_there():
    """d nll / d (1 / T) is the mean of (expected output - the label's output)."""
    rng = np.random.default_rng(0)
    logits, labels = 5 * rng.normal(size=(200, 4)), rng.integers(4, size=200)
    labels[:120] = logits[:120].argmax(-1)
    found = temperature(logits, labels)
    expected = (softmax(logits / found, axis=-1) * logits).sum(-1)
    assert found > 1
    assert (expected - logits[np.arange(200), labels]).mean() == pytest.approx(0, abs=1e-6)


def test_none_is_best():
    """Where all is right a lower one is always better, where all is wrong a higher one."""
    logits = np.tile([3.0, 0.0], (4, 1))
    assert temperature(logits, np.zeros(4, int)) is None and temperature(logits, np.ones(4, int)) is None


def test_a_run(run, capsys):
    found = jaxfer.calibrate(run)
    metrics = jaxfer.evaluate(run)
    assert found.before == pytest.approx({"nll": metrics["loss"], "ece": metrics["ece"], "brier": metrics["brier"]})
    assert found.after["nll"] < found.before["nll"]
    test = jaxfer.calibrate(run, split="test")
    assert test.temperature == found.temperature, "that of val"
    assert main(["eval", str(run), "--split=test", "--temperature"]) == 0
    header, before, after, told = capsys.readouterr().out.splitlines()
    assert header.split() == ["test", "nll", "ece", "brier"]
    assert before.split()[-3:] == [f"{value:.4f}" for value in test.before.values()]
    assert after.split()[-3:] == [f"{value:.4f}" for value in test.after.values()]
    assert told.startswith(f"temperature {found.temperature:.6g}, fitted to val")


def test_what_is_refused(run, capsys, monkeypatch):
    assert main(["eval", str(run), "--temperature", "--predictions=x.csv"]) == 2
    assert "--temperature evaluates the split as it is" in capsys.readouterr().err
    monkeypatch.setattr("jaxfer.training.calibrating.temperature", lambda logits, labels: None)
    with pytest.raises(InputError, match="no temperature is best on val: its outputs there are right"):
        jaxfer.calibrate(run)
