"""JSD: the divergence by scipy, and a run on views of the same images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

import jaxfer
from jaxfer.config import resolve
from jaxfer.errors import InputError
from jaxfer.methods.jsd import divergence
from jaxfer.runs.metrics import read_metrics
from tests.experiments import tiny_config, tiny_stage

VIEWS = {f"view_{i}": {"rows": "same", "augment": ("augmix",)} for i in (1, 2)}


def test_of_two_it_is_scipys_and_of_equal_ones_zero():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 5, 4)).astype(np.float32)
    wanted = np.mean([jensenshannon(p, q) ** 2 for p, q in zip(softmax(one, 1), softmax(two, 1), strict=True)])
    assert float(divergence([one, two])) == pytest.approx(wanted, rel=1e-5)
    assert float(divergence([one, one, one])) == pytest.approx(0, abs=1e-6)


def test_of_three_by_hand():
    """Certain of one class each: m is a third everywhere, so each KL is log 3."""
    logits = [100 * np.eye(3, dtype=np.float32)[[i]] for i in range(3)]
    assert float(divergence(logits)) == pytest.approx(np.log(3), rel=1e-5)


def test_what_is_refused():
    with pytest.raises(InputError, match="view_1"):
        resolve(tiny_config("vit_cls", adds=("jsd",))) and tiny_stage("vit_cls", adds=("jsd",))
    with pytest.raises(InputError, match="jsd compares classes, the method learns unlabelled; remove it"):
        tiny_stage("vit_cls", method="simclr", adds=("jsd",))


@pytest.mark.system
def test_a_run_on_three_views(tmp_path):
    config = tiny_config("resnet_basic", adds=("jsd",), steps=3, log_every=1)
    config.stream = VIEWS
    jaxfer.run(config, tmp_path / "run", quiet=True)
    lines = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if line["split"] == "train"]
    assert all(0 < line["jsd"] < np.log(3) for line in lines)
