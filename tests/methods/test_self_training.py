"""Self-training: the loss by hand under both teachers, the rise of its weight, and the classes' own thresholds."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.conformance.training import entered
from jaxfer.errors import InputError
from jaxfer.methods import self_training
from jaxfer.registry import METHODS
from jaxfer.rules import flatten, unflatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage, train


def test_the_weight_rises_as_in_equation_16():
    """0 to T1, linear to T2, then 1."""
    hparams = {"ramp_start": 0.1, "ramp_end": 0.6, "total_steps": 1000.0}
    for step, wanted in ((0, 0.0), (99, 0.0), (100, 0.0), (225, 0.25), (350, 0.5), (600, 1.0), (999, 1.0)):
        found = self_training.risen(types.SimpleNamespace(step=jnp.int32(step), hparams=hparams))
        assert float(found) == pytest.approx(wanted, abs=1e-6)
    at_once = types.SimpleNamespace(step=jnp.int32(0), hparams={**hparams, "ramp_start": 0.0, "ramp_end": 0.0})
    assert float(self_training.risen(at_once)) == 1.0


def test_each_class_has_a_threshold_of_its_own():
    chances, classes = np.array([0.9, 0.5, 0.6, 0.4, 0.8, 0.3]), np.array([0, 0, 0, 0, 1, 2])
    found = self_training.surest(jnp.asarray(chances), jnp.asarray(classes), 0.5)
    assert np.asarray(found).tolist() == [True, False, True, False, True, True]


@pytest.mark.parametrize("options", [{"threshold": 0.4}, {"teacher": "ema"}])
def test_a_loss_by_hand(options):
    """At rate 0 and full weight: task + weight * the mean over all of CE with the class that evaluation gives."""
    ramp = {"ramp_start": 0.0, "ramp_end": 0.0, "weight": 0.5}
    stage = tiny_stage("vit_cls", method="self_training", options={**ramp, **options}, lr=0.0)
    (batch,), (params, model_state), port = batches(stage, 1), backbone(stage), stage.spec.port
    own, target = (np.asarray(port.apply(params, model_state, x)[0], np.float64) for x in (batch, batch["target"]))
    logs = target - np.log(np.exp(target).sum(1, keepdims=True))
    counts = np.exp(logs.max(1)) >= options.get("threshold", 0.0)
    assert counts.any() and ("teacher" in options or not counts.all())
    task = optax.softmax_cross_entropy_with_integer_labels(own, batch["label"]).mean()
    wanted = float(task) - 0.5 * (logs.max(1) * counts).mean()
    assert train(stage, 1)[1][0] == pytest.approx(wanted, rel=1e-5)


def test_the_average_by_hand():
    """min(decay, 1 - 1 / (1 + step)): the first average is the parameters after the first step."""
    options = {"teacher": "ema", "teacher_decay": 0.4, "ramp_start": 0.0, "ramp_end": 0.0}
    stage = tiny_stage("vit_cls", method="self_training", options=options, lr=0.05)
    first, second, third = (flatten(train(stage, steps)[0].params) for steps in (1, 2, 3))
    kept = train(stage, 3)[0].extra["teacher"]
    for path, x in kept.items():
        wanted = 0.4 * (0.4 * first[path] + 0.6 * second[path]) + 0.6 * third[path]
        np.testing.assert_allclose(x, wanted, rtol=1e-5, atol=1e-6)


def test_mean_teachers_cost_by_hand():
    """The mean over examples of |p - p'|^2: p' is the average's, of another view, and no label is chosen."""
    first, second = np.random.default_rng(0).normal(size=(2, 5, 3))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (first, second))
    assert float(self_training.distance(first, second)) == pytest.approx(np.square(p - q).sum() / 5, rel=1e-5)
    ramp = {"ramp_start": 0.0, "ramp_end": 0.0, "weight": 0.5}
    options = {"teacher": "ema", "consistency": True, **ramp}
    stage = tiny_stage("vit_cls", method="self_training", options=options, lr=0.0)
    (batch,), port = batches(stage, 1), stage.spec.port
    state = entered(stage)
    average = {path: 1.1 * x for path, x in state.extra["teacher"].items()}
    state = state.replace(extra={"teacher": average})
    _, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    own, target = (port.apply(state.params, {}, x)[0] for x in (batch, batch["target"]))
    p, q = jax.nn.softmax(target), jax.nn.softmax(port.apply(unflatten(average), {}, batch["view"])[0])
    apart = float(np.square(p - q).sum(1).mean())
    task = float(optax.softmax_cross_entropy_with_integer_labels(own, batch["label"]).mean())
    assert float(metrics["consistency"]) == pytest.approx(apart, rel=1e-4) and apart > 1e-2
    assert float(metrics["loss"]) == pytest.approx(task + 0.5 * apart, rel=1e-5)


def test_what_is_refused():
    port = tiny_stage("vit_cls").spec.port
    with pytest.raises(InputError, match="options.teacher: expected current or ema, found 'mean'"):
        METHODS.make("self_training", port, teacher="mean")
    with pytest.raises(InputError, match="options.threshold: expected 0 to 1, found 1.5"):
        tiny_stage("vit_cls", method="self_training", options={"threshold": 1.5})
    assert METHODS.make("self_training", port, balanced=True).whole_batch
    with pytest.raises(InputError, match="options.consistency: expected teacher=ema without balanced, found"):
        METHODS.make("self_training", port, consistency=True)
