from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

from jaxfer.models.mobilenet_v1 import relu6
from jaxfer.pretrained.families import by_family

from .reference import channels_first, compare, images, ours, settle, tensors, unit_outputs, watch

pytestmark = pytest.mark.optimised

# {ours: their submodule}: our blocks are pairs of their layers.
BLOCKS = {"stem": "mobilenet_v1.conv_stem", **{f"block_{i}": f"mobilenet_v1.layer.{2 * i + 1}" for i in range(13)}}
INSIDE = {f"block_{i}/norm_1": f"mobilenet_v1.layer.{2 * i}" for i in range(13)}

CASES = {
    "odd": (dict(depth_multiplier=0.1, min_depth=3), (45, 70, 3), 30),
    "one_output": (dict(depth_multiplier=0.05, min_depth=5), (33, 31, 1), 1),
    "symmetric_padding": (dict(depth_multiplier=0.07, tf_padding=False), (40, 64, 3), 3),
    "multiplier_1.0": ({}, (224, 224, 3), 1000),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_hidden_states(case, tmp_path):
    sizes, image, outputs = CASES[case]
    config = MobileNetV1Config(**sizes, num_channels=image[2], num_labels=outputs, classifier_dropout_prob=0.0)
    # Statistics of few pixels make 27 norms ill-conditioned: float32 itself then strays from float64 by the bound.
    many = images(image, examples=4 if image[0] == 224 else 16)
    model, x = settle(MobileNetV1ForImageClassification(config), channels_first(many), last="none", gain=1.0), many[:2]
    expected = watch(model, BLOCKS | INSIDE, channels_first(x))
    port, params, state = ours(
        by_family("mobilenet_v1", "hf"), config.to_dict(), tensors(model, tmp_path), outputs, image=image
    )
    found = unit_outputs(port, params, state, {"image": x})
    _, kept = port.module.apply({"params": params, **state}, x, capture_intermediates=True, mutable=["intermediates"])
    for i in range(13):
        (normed,) = kept["intermediates"][f"block_{i}"]["norm_1"]["__call__"]
        found[f"block_{i}/norm_1"] = np.asarray(relu6(normed))
    compare(found, expected)
    with torch.no_grad():
        states = model(channels_first(x), output_hidden_states=True).hidden_states
    assert len(states) == 26
    for i, hidden in enumerate(states):
        ours_there = f"block_{i // 2}" + ("" if i % 2 else "/norm_1")
        np.testing.assert_array_equal(expected[ours_there], hidden.permute(0, 2, 3, 1))
