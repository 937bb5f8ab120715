"""Steps with streams: by hand, in slices and on devices, with batch statistics, and at weight 0."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from jaxfer.config import resolve
from jaxfer.conformance.training import tiny_config as plain_config
from jaxfer.errors import InputError
from jaxfer.models.port import Training
from jaxfer.ports import make_port
from jaxfer.rules import flatten
from jaxfer.stages import make_stages
from jaxfer.step import make_train_step
from jaxfer.streams import check_slices
from jaxfer.task import Mean
from tests.experiments import backbone, batches, tiny_stage, train

FIELDS = dict(optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)


def stage_of(case="vit_cls", weight=0.5, **fields):
    """A stage with a stream `other` of 8 examples of five classes."""
    config = plain_config(case, **{**FIELDS, **fields})
    own = {name: value for name, value in config.data.to_dict().items() if name != "workers"}
    config.stream.other = dict(**own, task="classification", weight=weight)
    experiment = resolve(config)
    return make_stages(experiment, *make_port(experiment, 3), streams={"other": 5})[0]


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def by_hand(stage):
    (batch,), (params, model_state) = batches(stage, 1), backbone(stage)
    port, (own,) = stage.spec.port, stage.spec.port.parts

    def loss(params):
        main = cross_entropy(port.apply(params, model_state, batch)[0], batch["label"])
        head = params["head"]["out"]["other"]  # the main head's place taken by the stream's
        other = {**params, "head": {**params["head"], "out": head}}
        logits = port.with_parts(()).with_outputs(own.outputs).apply(other, model_state, batch["other"])[0]
        return main + 0.5 * cross_entropy(logits, batch["other"]["label"])

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return float(value), {path: leaf - flatten(gradient)[path] for path, leaf in flatten(params).items()}


WAYS = [({}, {}), (dict(accumulate=2), {}), ({}, {"devices": 4}), ({}, {"devices": 4, "mode": "pmap"})]


@pytest.mark.parametrize(("fields", "parallel"), WAYS, ids=["whole", "slices", "jit", "pmap"])
def test_a_step_is_the_gradient_of_both_losses(fields, parallel):
    value, wanted = by_hand(stage_of())
    state, (loss,) = train(stage_of(**fields), 1, **parallel)
    assert loss == pytest.approx(value, abs=1e-6)
    found = flatten(jax.device_get(state.params))
    assert found["head/out/other/kernel"].shape == (12, 5)
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=1e-6, err_msg=path)


def test_a_joined_stream_shares_batch_statistics():
    """Running statistics after a step are those of a plain forward over both."""
    stage = tiny_stage("resnet_basic", method="dann", options={"hidden": 4}, **FIELDS)
    (batch,), (params, model_state) = batches(stage, 1), backbone(stage)
    found, _ = jax.jit(make_train_step(stage.spec))(stage.enter(params, model_state, 0), batch)
    training = Training(key=jax.random.key(0), live=stage.spec.live, eval_norms=stage.spec.eval_norms)
    together = {"image": np.concatenate([batch["image"], batch["target"]["image"]])}
    port = stage.spec.port
    _, both = port.apply(params, model_state, together, training=training)
    _, alone = port.apply(params, model_state, batch, training=training)
    for path, leaf in flatten(found.model_state).items():
        np.testing.assert_allclose(leaf, flatten(both)[path], rtol=1e-5, atol=1e-6, err_msg=path)
    assert any(np.abs(leaf - flatten(alone)[path]).max() > 1e-3 for path, leaf in flatten(both).items())


def test_a_stream_of_weight_0_has_no_pass_and_keeps_its_head():
    stage = stage_of(weight=0.0)
    assert "other" not in stage.example()
    state, _ = train(stage, 1)
    before, after = flatten(backbone(stage)[0]), flatten(state.params)
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(after[f"head/out/other/{name}"], before[f"head/out/other/{name}"])
        assert not np.array_equal(after[f"head/out/{name}"], before[f"head/out/{name}"])


@pytest.mark.parametrize(
    ("main", "other", "whose"), [(None, np.ones(2), "its"), (np.ones(2), None, "the main"), (None, None, "")]
)
def test_slices_of_losses_that_count_parts_are_refused(main, other, whose):
    """Whichever of the two counts: one weight for a slice would be wrong for the other."""
    losses = Mean(np.ones(2), main), {"other/loss": Mean(np.ones(2), other), "other/rate": Mean(np.ones(2), np.ones(2))}
    if not whose:
        check_slices(*losses)
        return
    with pytest.raises(InputError, match=f"config.stream.other: {whose} loss counts parts of an example"):
        check_slices(*losses)
    check_slices(losses[0], {})
