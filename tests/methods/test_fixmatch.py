"""FixMatch: its loss by hand, and that both views are of the same examples."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from jaxfer.errors import InputError
from jaxfer.methods import fixmatch
from jaxfer.training.preflight import preflight
from jaxfer.training.streams import beside
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train


def test_loss_by_hand():
    """The mean over all examples, of which the sure ones count; the weak view has no gradient."""
    weak, strong = 3 * np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    chances = np.exp(weak) / np.exp(weak).sum(1, keepdims=True)
    logs = strong - np.log(np.exp(strong).sum(1, keepdims=True))
    kept = chances.max(1) >= 0.8
    assert 0 < kept.sum() < 6
    wanted = -(logs[np.arange(6), chances.argmax(1)] * kept).sum() / 6
    value, sure = fixmatch.consistency(weak, strong, 0.8)
    assert float(value) == pytest.approx(wanted, rel=1e-5) and float(sure) == pytest.approx(kept.mean())
    assert not np.any(jax.grad(lambda weak: fixmatch.consistency(weak, strong, 0.8)[0])(weak))


def test_a_step_by_hand():
    stage = tiny_stage("vit_cls", method="fixmatch", options={"threshold": 0.4, "weight": 0.5}, lr=0.0)
    (batch,), (params, model_state), port = batches(stage, 1), backbone(stage), stage.spec.port
    own, weak, strong = (port.apply(params, model_state, x)[0] for x in (batch, batch["target"], batch["strong"]))
    apart, sure = fixmatch.consistency(weak, strong, 0.4)
    task = optax.softmax_cross_entropy_with_integer_labels(own, batch["label"]).mean()
    assert float(sure) > 0
    assert train(stage, 1)[1][0] == pytest.approx(float(task + 0.5 * apart), rel=1e-5)


def test_views_of_one_source():
    config = tiny_config("resnet_basic", method="fixmatch", steps=1)
    config.stream.strong.augment = ("flip",)
    ready = preflight(config)
    (stage,) = ready.stages
    read = beside(ready.experiment, stage, ready.data, ready.where)
    assert read["strong"].follows == "target" and not read["target"].follows
    config.stream.strong.examples = 30
    with pytest.raises(InputError, match="config.stream.strong: method 'fixmatch' reads the examples of config"):
        preflight(config)
    del config.stream.strong
    with pytest.raises(InputError, match="'fixmatch' reads the stream 'strong'; add config.stream.strong=dict"):
        preflight(config)
