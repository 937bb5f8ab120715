"""Ten steps of SGD from the same weights: gradients, and BatchNorm in training, are PyTorch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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

from jaxfer.models.port import Training
from jaxfer.pretrained.families import by_family
from jaxfer.rules import flatten

from .reference import BOUND, channels_first, images, ours, settle, tensors
from .test_resnet import CifarResNet

pytestmark = pytest.mark.optimised

LAST = r".*(\.layers\.\d+\.layer\.[12]\.normalization|\.bn2|\.o_proj|\.fc2)"
STEPS, EXAMPLES, OUTPUTS = 10, 8, 3
VIT = dict(hidden_size=15, num_attention_heads=3, num_hidden_layers=2, intermediate_size=22, num_labels=OUTPUTS)
RESNET = dict(embedding_size=6, num_labels=OUTPUTS)
MOBILENET = dict(depth_multiplier=0.1, min_depth=6, num_labels=OUTPUTS, classifier_dropout_prob=0.0)

# {case: (family, layout, model, image, rate, options of ours)}
CASES = {
    "resnet_basic": (
        ("resnet", "hf"),
        lambda: ResNetForImageClassification(
            ResNetConfig(**RESNET, layer_type="basic", hidden_sizes=[6, 12], depths=[1, 2])
        ),
        (33, 40, 3),
        0.05,
        {},
    ),
    "resnet_bottleneck": (
        ("resnet", "hf"),
        lambda: ResNetForImageClassification(ResNetConfig(**RESNET, hidden_sizes=[24, 48], depths=[1, 1])),
        (33, 40, 3),
        0.05,
        {},
    ),
    "resnet_cifar": (("resnet", "torchvision"), lambda: CifarResNet(1, 6, OUTPUTS), (17, 14, 3), 0.05, {}),
    "vit": (
        ("vit", "hf"),
        lambda: ViTForImageClassification(ViTConfig(**VIT, patch_size=3, image_size=[6, 9])),
        (6, 9, 3),
        0.05,
        {},
    ),
    "deit_teacher": (
        ("vit", "hf"),
        lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**VIT, patch_size=3, image_size=[9, 6])),
        (9, 6, 3),
        0.05,
        {},
    ),
    # transformers hard-codes TensorFlow's decay as PyTorch's momentum, see the port.
    "mobilenet_v1": (
        ("mobilenet_v1", "hf"),
        lambda: MobileNetV1ForImageClassification(MobileNetV1Config(**MOBILENET)),
        (33, 40, 3),
        0.025,
        dict(norm_momentum=0.9997),
    ),
}


def saved(model, folder):
    """The checkpoint's tensors; a copy, since training changes the model's in place."""
    if hasattr(model, "save_pretrained"):
        return tensors(model, folder)
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("case", CASES)
def test_ten_sgd_steps(case, tmp_path):
    (family, name), make, image, rate, options = CASES[case]
    layout, model = by_family(family, name), make()
    x = images(image, STEPS * EXAMPLES).reshape(STEPS, EXAMPLES, *image)
    y = np.random.default_rng(1).integers(OUTPUTS, size=(STEPS, EXAMPLES))
    settle(model, channels_first(x[0]), last=LAST, gain=0.5)
    if family == "mobilenet_v1":
        soften(model)
    config = model.config.to_dict() if hasattr(model, "config") else {}
    port, params, state = ours(layout, config, saved(model, tmp_path / "0"), OUTPUTS, image=image, **options)
    before = flatten({"params": params, **state})

    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    model.train()
    for images_, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        output = model(channels_first(images_))
        logits = output if isinstance(output, torch.Tensor) else output.logits
        nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
        optimizer.step()

    training = Training(key=jax.random.key(0), live=frozenset(port.units), eval_norms=frozenset())

    @jax.jit
    def step(params, state, images_, labels):
        def loss(params):
            logits, after = port.apply(params, state, {"image": images_}, training=training)
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean(), after

        gradient, after = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda leaf, slope: leaf - rate * slope, params, gradient), after

    for images_, labels in zip(x, y, strict=True):
        params, state = step(params, state, images_, labels)
    found, theirs = flatten({"params": params, **state}), saved(model, tmp_path / "1")
    for leaf, key in layout.keys(port).items():
        expected = key.load(theirs[key.name])
        error, allowed = np.abs(found[leaf] - expected).max(), BOUND * max(1.0, np.abs(expected).max())
        assert error <= allowed, f"{leaf}: off by {error}, allowed {allowed}"
        # A step that went nowhere would prove nothing; the key's bias has no gradient.
        moved = np.abs(expected - before[leaf]).max()
        assert moved > 5 * allowed or leaf.endswith("/key/bias"), f"{leaf} moved by {moved} only"


def soften(model: nn.Module) -> None:
    """Norms around 1, where ReLU6 clips little.

    Its kinks are what a comparison can trip over: an activation within rounding of one falls on either side, and 27
    norms in a row carry the difference everywhere. PyTorch's float32 then strays from its own float64 as far. Here, no
    activation of the ten steps comes nearer to a kink than twice the rounding.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.add_(1)
