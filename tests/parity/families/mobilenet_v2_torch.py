import torch
from torch import nn

from tests.parity.families import Case
from tests.parity.packages import timm, torchvision


def softened(last):
    """ReLU6 away from its kinks (`soften` of test_sgd.py says why), where one follows."""

    def soften(model):
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d) and not name.endswith(last):
                with torch.no_grad():
                    module.bias.add_(1)

    return soften


def of_torchvision(image, outputs=3, **arguments):
    return Case(
        layout=("mobilenet_v2", "torchvision"),
        make=lambda: torchvision.models.mobilenet_v2(num_classes=outputs, dropout=0.0, **arguments),
        units={
            "stem": "features.0",
            **{f"block_{i}": f"features.{i + 1}" for i in range(17)},
            "top": "features.18",
        },
        image=image,
        outputs=outputs,
        last=r"features\.\d+\.conv\.(2|3)",
        gain=0.4,
        rate=0.0,
    )


def of_timm(name, image, outputs=3):
    repeats = (1, 2, 3, 4, 3, 3, 1)
    places = [(stage, i) for stage, many in enumerate(repeats) for i in range(many)]
    return Case(
        layout=("mobilenet_v2", "timm"),
        make=lambda: timm.create_model(name, num_classes=outputs),
        units={
            "stem": "bn1",
            **{f"block_{n}": f"blocks.{stage}.{i}" for n, (stage, i) in enumerate(places)},
            "top": "bn2",
        },
        image=image,
        outputs=outputs,
        last=r"blocks\.(0\.\d+\.bn2|[1-6]\.\d+\.bn3)",
        gain=0.4,
        rate=0.0,
    )


CASES = {
    "thin": of_torchvision((67, 90, 3), width_mult=0.35),
    "1.0": of_torchvision((224, 224, 3), outputs=1000),
    "timm_050": of_timm("mobilenetv2_050", (65, 96, 3)),
}
