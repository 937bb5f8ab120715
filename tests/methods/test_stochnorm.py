"""StochNorm: which branch a channel takes, which statistics it has, and that evaluation draws nothing."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.models.passes import Training
from tests.experiments import backbone, batches, tiny_stage


def first_norm(running, updated=False):
    """(what the first norm gives in training, in evaluation and with the add-on, the running statistics after both),
    and what it gives in evaluation with those after training."""
    options = {"running": running, "updated": updated}
    stage = tiny_stage("resnet_basic", adds=("stochnorm",), options=options)
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    state = stage.enter(params, model_state, 0)
    path = "stem/norm"
    assert path in port.norms(model_state)
    training = Training(key=jax.random.key(3), live=frozenset(), eval_norms=frozenset())
    own = stage.spec.method.intercept(state.params, state.extra)

    def given(training, intercept, model_state=model_state):
        found = []

        def seen(next_fun, args, kwargs, context):
            outputs = next_fun(*args, **kwargs) if intercept is None else intercept(next_fun, args, kwargs, context)
            if context.method_name == "__call__" and "/".join(context.module.path) == path:
                found.append(np.asarray(outputs))
            return outputs

        after = port.apply(params, model_state, batch, training=training, intercept=seen, end=path.split("/")[0])[1]
        return found[0], after

    in_training = given(training, None)
    return in_training, given(None, own), given(training, own), given(None, None, in_training[1])


def test_each_channel_has_one_of_two_statistics():
    (batch, after), (running, still), (mixed, mixed_after), _ = first_norm(0.5)
    of_batch, of_running = (np.all(mixed == x, axis=(0, 1, 2)) for x in (batch, running))
    np.testing.assert_array_equal(of_batch, ~of_running)
    assert of_batch.any() and of_running.any()
    jax.tree.map(np.testing.assert_array_equal, after, mixed_after)  # they follow the batches as ever
    assert still is not after


@pytest.mark.parametrize(("running", "which"), [(0.0, 0), (1.0, 1)])
def test_the_ends(running, which):
    *ends, (mixed, _), _ = first_norm(running)
    np.testing.assert_array_equal(mixed, ends[which][0])


def test_statistics_that_have_followed_the_batch():
    """TLlib's form: what is normalised by running statistics has those after the step."""
    (batch, after), (before, _), (mixed, mixed_after), (since, _) = first_norm(1.0, updated=True)
    np.testing.assert_array_equal(mixed, since)
    assert np.abs(mixed - before).max() > 1e-3 and np.abs(mixed - batch).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, after, mixed_after)


def test_what_is_refused():
    with pytest.raises(InputError, match="stochnorm draws between statistics of batch norms, the model has none"):
        tiny_stage("vit_cls", adds=("stochnorm",))
    with pytest.raises(InputError, match="options.running: expected 0 to 1, found 2.0"):
        tiny_stage("resnet_basic", adds=("stochnorm",), options={"running": 2.0})
