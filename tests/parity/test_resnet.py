from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from jaxfer.pretrained.families import by_family

from .reference import channels_first, compare, images, ours, settle, tensors, unit_outputs, watch

pytestmark = pytest.mark.optimised

LAST = r".*\.layer\.[12]\.normalization"  # also the middle one of a bottleneck, which does no harm


def blocks(depths):
    """{our unit: their submodule}."""
    places = [(stage, i) for stage, depth in enumerate(depths) for i in range(depth)]
    return {
        "stem": "resnet.embedder",
        **{f"block_{n}": f"resnet.encoder.stages.{stage}.layers.{i}" for n, (stage, i) in enumerate(places)},
    }


CASES = {
    "basic": (dict(layer_type="basic", embedding_size=6, hidden_sizes=[6, 12], depths=[1, 2]), (33, 21, 3), 30),
    "one_output": (
        dict(layer_type="basic", embedding_size=5, hidden_sizes=[5, 10, 20], depths=[1, 1, 1]),
        (38, 50, 1),
        1,
    ),
    "bottleneck": (dict(embedding_size=6, hidden_sizes=[24, 48], depths=[2, 1]), (33, 20, 3), 3),
    "bottleneck_v1": (
        dict(embedding_size=5, hidden_sizes=[20, 40], depths=[1, 2], downsample_in_bottleneck=True),
        (31, 45, 4),
        2,
    ),
    # No stage twice as wide as the one before; the second is narrower than the first.
    "uneven": (dict(embedding_size=5, hidden_sizes=[12, 8, 28], depths=[1, 2, 1]), (33, 45, 3), 2),
    "basic_uneven": (
        dict(layer_type="basic", embedding_size=5, hidden_sizes=[7, 6, 9], depths=[1, 1, 1]),
        (38, 33, 3),
        3,
    ),
    "resnet_50": ({}, (224, 224, 3), 1000),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_hidden_states(case, tmp_path):
    sizes, image, outputs = CASES[case]
    config = ResNetConfig(**sizes, num_channels=image[2], num_labels=outputs)
    x = images(image)
    model = settle(ResNetForImageClassification(config), channels_first(x), last=LAST, gain=0.6)
    expected = watch(model, blocks(config.depths), channels_first(x))
    port, params, state = ours(
        by_family("resnet", "hf"), config.to_dict(), tensors(model, tmp_path), outputs, image=image
    )
    compare(unit_outputs(port, params, state, {"image": x}), expected)
    # Theirs are the states between stages, ours all between blocks: the same network, counted finer.
    with torch.no_grad():
        states = model(channels_first(x), output_hidden_states=True).hidden_states
    ends = ["stem", *(f"block_{sum(config.depths[: i + 1]) - 1}" for i in range(len(config.depths)))]
    for end, hidden in zip(ends, states, strict=True):
        np.testing.assert_array_equal(expected[end], hidden.permute(0, 2, 3, 1))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters: option A of He et al., 2015, section 4.2."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.extra = stride, (width - before) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return torch.relu(x + y)


class CifarResNet(nn.Module):
    """ResNet-20 to 110 with the names of akamaster/pytorch_resnet_cifar10."""

    def __init__(self, blocks: int, width: int = 16, outputs: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage in range(3):
            after = width * 2**stage
            before = [max(width, after // 2), *[after] * (blocks - 1)]
            layers = [CifarBlock(b, after, 2 if stage and not i else 1) for i, b in enumerate(before)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(after, outputs)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def cifar_blocks(blocks):
    return {f"block_{n}": f"layer{n // blocks + 1}.{n % blocks}" for n in range(3 * blocks)}


@pytest.mark.parametrize(
    ("blocks", "width", "image", "outputs"),
    [(1, 6, (9, 7, 3), 30), (3, 16, (32, 32, 3), 10), (18, 16, (32, 32, 3), 10)],
)
def test_cifar_networks(blocks, width, image, outputs):
    x = images(image)
    model = settle(
        CifarResNet(blocks, width, outputs), channels_first(x), last=r"layer.*\.bn2", gain=1 / max(2, blocks**0.5)
    )
    expected = watch(model, cifar_blocks(blocks), channels_first(x))
    theirs = {name: value.numpy() for name, value in model.state_dict().items()}
    port, params, state = ours(by_family("resnet", "torchvision"), {}, theirs, outputs, image=image)
    assert port.options.stage_sizes == (blocks,) * 3 and port.options.shortcut == "padding"
    compare(unit_outputs(port, params, state, {"image": x}), expected)
