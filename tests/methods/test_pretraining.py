"""What methods without labels have in common: their loss falls, and the backbone alone is handed on."""

from __future__ import annotations

import numpy as np
import pytest

import jaxfer
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import read_metrics
from tests.experiments import tiny_config

METHODS = {
    "simcse": ("bert_pooler", {}),
    "tsdae": ("bert_pooler", {}),
    "moco": ("resnet_basic", {"queue": 32, "momentum_copy": 0.9}),
    "byol": ("resnet_basic", {"hidden": 32, "projection": 16, "momentum_copy": 0.9}),
    "simmim": ("vit_cls", {}),
    "mae": ("vit_cls", {"layers": 1}),
    "dino": ("vit_cls", {"classes": 32, "hidden": 24, "bottleneck": 8, "momentum_copy": 0.9}),
}


@pytest.mark.system
@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in ("mae", "simcse") else pytest.mark.rest) for name in METHODS]
)
def test_the_loss_falls_and_a_probe_starts_from_the_backbone(method, tmp_path):
    case, options = METHODS[method]
    config = tiny_config(case, method=method, steps=40, log_every=1, lr=3e-3, options=options)
    config.parallel.devices = 1
    jaxfer.run(config, tmp_path / "views", quiet=True)
    lines = read_metrics(tmp_path / "views" / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert len(losses) == 40 and np.mean(losses[-8:]) < 0.95 * np.mean(losses[:8])
    probe = tiny_config(case, method="probe", steps=1, eval_batch_size=8, init=f"run:{tmp_path / 'views'}")
    jaxfer.run(probe, tmp_path / "probe", quiet=True)
    trained, probed = (flatten(open_run(tmp_path / name).state.params) for name in ("views", "probe"))
    assert not {path for path in probed if path.split("/")[0] not in ("stem", "head") and "block" not in path}
    for path in (path for path in probed if not path.startswith("head/out/")):  # norm and pooler are handed on too
        np.testing.assert_array_equal(probed[path], trained[path])
