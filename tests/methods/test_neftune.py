"""NEFTune: the size of the noise, when there is any, and what refuses it."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from jaxfer.config import resolve
from jaxfer.config.experiment import ParallelConfig
from jaxfer.errors import InputError
from jaxfer.models.passes import Training
from jaxfer.parallel.placement import placement
from jaxfer.training.cut import cut
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train

FIELDS = dict(adds=("neftune",), options={"noise": 3.0})


def embedded(stage, training):
    """What the table of words gives, [8, tokens, width], as the units after it read it."""
    (params, model_state), (batch,), found = backbone(stage), batches(stage, 1), []
    state = stage.enter(params, model_state, 0)
    intercept = stage.spec.method.intercept(state.params, state.extra)

    def seen(next_fun, args, kwargs, context):
        outputs = intercept(next_fun, args, kwargs, context)
        if context.method_name == "__call__" and context.module.path == ("stem", "word"):
            found.append(outputs)
        return outputs

    stage.spec.port.apply(params, model_state, batch, training=training, intercept=seen)
    return np.asarray(found[0])


def noise(stage, seed, live=frozenset()):
    training = Training(key=jax.random.key(seed), live=live, eval_norms=frozenset())
    return embedded(stage, training) - embedded(stage, None)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_noise_is_uniform_and_of_the_papers_size(method):
    stage = tiny_stage("bert_mean", method=method, **FIELDS)
    drawn = np.stack([noise(stage, seed) for seed in range(20)])
    _, _, tokens, width = drawn.shape
    most = 3.0 / math.sqrt(tokens * width)
    assert 0.97 * most < np.abs(drawn).max() <= most * (1 + 1e-4)
    assert drawn.std() == pytest.approx(most / math.sqrt(3), rel=0.02)
    assert abs(drawn.mean()) < 0.02 * most
    assert (noise(stage, 1) == noise(stage, 1)).all() and not (noise(stage, 1) == noise(stage, 2)).all()


def test_without_noise_training_is_that_of_the_method():
    plain, silent = (
        tiny_stage("bert_mean", method="full"),
        tiny_stage("bert_mean", adds=("neftune",), options={"noise": 0.0}),
    )
    noisy = tiny_stage("bert_mean", **FIELDS)
    losses = [train(stage, 3)[1] for stage in (plain, silent, noisy)]
    assert losses[0] == losses[1] != losses[2]


def test_a_probe_of_noisy_inputs_stores_no_features(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path))
    where, fields = placement(ParallelConfig(devices=1)), dict(method="probe", **FIELDS)
    found = cut(tiny_stage("bert_mean", **fields), where, resolve(tiny_config("bert_mean", **fields)))
    assert "method 'probe' changes what is computed, in unit 'stem'" in found.why


def test_what_is_refused():
    with pytest.raises(InputError, match="the model reads images and has no table stem/word; remove it from adds"):
        tiny_stage("vit_cls", **FIELDS)
    with pytest.raises(InputError, match="options.noise: expected at least 0, found -1.0"):
        tiny_stage("bert_mean", adds=("neftune",), options={"noise": -1.0})
