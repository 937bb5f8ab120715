"""Feature distillation: the loss by hand for features and for maps, and layers that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer.conformance.training import entered
from jaxfer.errors import InputError
from jaxfer.rules import flatten
from tests.experiments import backbone, batches, tiny_stage, train


@pytest.mark.parametrize("layer", ["features", "block_0"])
def test_loss_by_hand(layer):
    options = {"weight": 0.4, "layer": layer}
    stage, plain = (
        tiny_stage("vit_cls", method="feature_distill", options=options, lr=0.0),
        tiny_stage("vit_cls", lr=0.0),
    )
    (batch,), port, state = batches(stage, 1), stage.spec.port, entered(stage)
    unit = "head" if layer == "features" else layer
    stack = state.params["projection"][unit]["layer_0"]
    taught = port.forward(*state.others["teacher"][:2], batch, taps=(layer,)).taps[layer]
    own = np.asarray(port.forward(*backbone(stage), batch, taps=(layer,)).taps[layer], np.float64)
    mapped = own @ np.asarray(stack["kernel"], np.float64) + stack["bias"]
    apart = np.square(mapped - np.asarray(taught, np.float64)).mean()
    assert train(stage, 1)[1][0] == pytest.approx(train(plain, 1)[1][0] + 0.4 * apart, rel=1e-5)


def test_the_papers_first_stage():
    """The hint alone: its loss is all there is, and what lies above it stays as it is."""
    fields = dict(optimizer="sgd", momentum=0.0, weight_decay=0.0, lr=0.1)
    options = {"weight": 0.4, "layer": "block_0"}
    stage, both, plain = (
        tiny_stage("vit_cls", method="feature_distill", options={**options, "task_weight": 0.0}, **fields),
        tiny_stage("vit_cls", method="feature_distill", options=options, **fields),
        tiny_stage("vit_cls", **fields),
    )
    (state, (hint,)), start = train(stage, 1), flatten(entered(stage).params)
    assert hint == pytest.approx(train(both, 1)[1][0] - train(plain, 1)[1][0], rel=1e-4) and hint > 0.01
    for path, leaf in flatten(state.params).items():
        above = path.startswith(("block_1/", "head/"))
        if not path.endswith("key/bias"):  # attention does not depend on it
            assert np.array_equal(leaf, start[path]) == above, path


def test_layers_that_do_not_fit():
    with pytest.raises(
        InputError, match="options.layer: 'blok_0' is neither a unit .* nor 'features'; nearest: 'block_0'"
    ):
        tiny_stage("vit_cls", method="feature_distill", options={"layer": "blok_0"})
    stage = tiny_stage("vit_cls", method="feature_distill", options={"width": 5})
    with pytest.raises(
        InputError, match=r"the teacher's features is \[12\], the model's features is mapped to \[5\]; set"
    ):
        train(stage, 1)
