from functools import partial

from torch import nn

from tests.parity.families import Case
from tests.parity.packages import timm, torchvision


def like_ours(model):
    """Our weight of a new batch: theirs, 0.01, would move nothing in ten steps."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1


def tiny(width=16):
    """Small at a sixteenth of its widths."""
    network = torchvision.models.mobilenetv3
    blocks, _ = network._mobilenet_v3_conf("mobilenet_v3_small", width_mult=0.0625)
    return network.MobileNetV3(blocks, width, num_classes=3, dropout=0.0)


def of_torchvision(make, blocks, image, outputs=3, rate=0.0, seed=0, golden=False):
    return Case(
        layout=("mobilenet_v3", "torchvision"),
        make=make,
        units={
            "stem": "features.0",
            **{f"block_{i}": f"features.{i + 1}" for i in range(blocks)},
            "top": f"features.{blocks + 1}",
        },
        image=image,
        outputs=outputs,
        last=r"features\.\d+\.block\.(2|3)\.1",
        gain=0.5,
        seed=seed,
        rate=rate,
        still=r".*/norm_project/bias",
        prepared=like_ours,
        golden=golden,
    )


def named(name, **arguments):
    return partial(getattr(torchvision.models, name), dropout=0.0, **arguments)


def of_timm(name, repeats, image, outputs=3, **stated):
    places = [(stage, i) for stage, many in enumerate(repeats) for i in range(many)]
    return Case(
        layout=("mobilenet_v3", "timm"),
        make=lambda: timm.create_model(name, num_classes=outputs),
        units={
            "stem": "bn1",
            **{f"block_{n}": f"blocks.{stage}.{i}" for n, (stage, i) in enumerate(places)},
            "top": f"blocks.{len(repeats)}.0",
        },
        image=image,
        outputs=outputs,
        last=r"blocks\.(0\.\d+\.bn2|\d+\.\d+\.bn3)",
        gain=0.5,
        rate=0.0,
        options=stated,
    )


LARGE, SMALL = (1, 2, 3, 4, 2, 3), (1, 2, 3, 2, 3)
TF = dict(padding="same", epsilon=1e-3)
CASES = {
    "tiny": of_torchvision(tiny, 11, (40, 65, 3), rate=0.1),
    "narrow": of_torchvision(partial(tiny, 8), 11, (24, 33, 3), golden=True),
    "large": of_torchvision(named("mobilenet_v3_large", num_classes=1000), 15, (224, 224, 3), outputs=1000, seed=1),
    "timm_small_050": of_timm("mobilenetv3_small_050", SMALL, (65, 96, 3)),
    "timm_tf_large_075": of_timm("tf_mobilenetv3_large_075", LARGE, (65, 90, 3), **TF),
    "timm_minimal": of_timm("tf_mobilenetv3_small_minimal_100", SMALL, (65, 90, 3), **TF),
}
