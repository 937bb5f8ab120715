"""Makes the golden files: what transformers' PyTorch models answer at tiny sizes, with the weights they answer with.

    python -m tests.models.golden.make        (needs PyTorch: the extra `parity`)

A file holds `x` [batch, h, w, c], all tensors of the checkpoint in one vector `weights`, every unit's output in one
vector `expected`, and `index`: JSON of config.json and of the names and shapes in both vectors. (A member of its own
for each tensor takes more room than the tensor.) Weights and images are float16, which float32 holds exactly.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    MobileNetV1Config,
    MobileNetV1ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from tests.parity import test_mobilenet_v1, test_resnet, test_vit
from tests.parity.reference import channels_first, images, settle, tensors, watch

FOLDER = Path(__file__).parent
VIT = dict(hidden_size=15, num_attention_heads=3, num_hidden_layers=2, intermediate_size=22)


def half(model: nn.Module, size: tuple[int, int, int], **settling: Any) -> tuple[nn.Module, np.ndarray]:
    """The model, settled on 16 images, and the first of them, both rounded to what float16 holds."""
    x = images(size, examples=16).astype(np.float16).astype(np.float32)
    settle(model, channels_first(x), **settling)
    with torch.no_grad():
        for leaf in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            leaf.copy_(leaf.half().float())
    return model, x[:1]


def write(name: str, model: nn.Module, x: np.ndarray, paths: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """One golden file."""
    if hasattr(model, "save_pretrained"):
        with tempfile.TemporaryDirectory() as folder:
            weights = tensors(model, Path(folder))
    else:
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
    weights = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    expected = watch(model, paths, channels_first(x))
    shapes = {
        what: {name: v.shape for name, v in of.items()} for what, of in (("weights", weights), ("expected", expected))
    }
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        index=np.frombuffer(json.dumps({"config": config, **shapes}).encode(), np.uint8),
        x=x.astype(np.float16),
        weights=np.concatenate([value.ravel() for value in weights.values()]).astype(np.float16),
        expected=np.concatenate([value.ravel() for value in expected.values()]),
    )


def main() -> None:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[16, 32], depths=[1, 2], num_labels=30)
    model, x = half(ResNetForImageClassification(config), (33, 21, 3), last=test_resnet.LAST, gain=0.6)
    write("resnet", model, x, test_resnet.blocks(config.depths), config.to_dict())

    config = ResNetConfig(
        layer_type="basic", embedding_size=5, hidden_sizes=[5, 10], depths=[1, 1], num_labels=1, num_channels=1
    )
    model, x = half(ResNetForImageClassification(config), (18, 25, 1), last=test_resnet.LAST, gain=0.6)
    write("resnet_basic", model, x, test_resnet.blocks(config.depths), config.to_dict())

    model, x = half(test_resnet.CifarResNet(1, 4, 10), (9, 7, 3), last=r"layer.*\.bn2", gain=0.5)
    write("resnet_cifar", model, x, test_resnet.cifar_blocks(1), {})

    config = ViTConfig(**VIT, patch_size=14, image_size=[28, 42], num_labels=30)
    model, x = half(ViTForImageClassification(config), (28, 42, 3), last=test_vit.LAST, gain=0.5)
    paths = {"stem": "vit.embeddings", "block_0": "vit.layers.0", "block_1": "vit.layers.1"}
    write("vit", model, x, paths, config.to_dict())

    config = DeiTConfig(**VIT, patch_size=5, image_size=[10, 15], num_labels=7)
    model, x = half(DeiTForImageClassificationWithTeacher(config), (10, 15, 3), last=test_vit.LAST, gain=0.5)
    write("deit", model, x, {unit: path.replace("vit", "deit") for unit, path in paths.items()}, config.to_dict())

    config = MobileNetV1Config(depth_multiplier=0.04, min_depth=4, num_labels=3, classifier_dropout_prob=0.0)
    model, x = half(MobileNetV1ForImageClassification(config), (48, 43, 3), last="none", gain=1.0)
    write("mobilenet_v1", model, x, test_mobilenet_v1.BLOCKS, config.to_dict())


if __name__ == "__main__":
    main()
