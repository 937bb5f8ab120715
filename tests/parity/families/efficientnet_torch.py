import dataclasses
from functools import partial

from torch import nn

from tests.parity.families import Case
from tests.parity.packages import timm, torchvision

LAST = r"features\.\d+\.\d+\.block\.3\.1"


def torchvision_units(repeats):
    places = [(stage, i) for stage, many in enumerate(repeats, 1) for i in range(many)]
    return {
        "stem": "features.0",
        **{f"block_{n}": f"features.{stage}.{i}" for n, (stage, i) in enumerate(places)},
        "top": f"features.{len(repeats) + 1}",
    }


def of_torchvision(make, repeats, image, outputs=3, rate=0.0, golden=False, **options):
    return Case(
        layout=("efficientnet", "torchvision"),
        make=make,
        units=torchvision_units(repeats),
        image=image,
        outputs=outputs,
        last=LAST,
        gain=0.5,
        rate=rate,
        still=r".*/norm_project/bias",
        options=options,
        golden=golden,
    )


def named(name, **arguments):
    return lambda: getattr(torchvision.models, name)(dropout=0.0, stochastic_depth_prob=0.0, **arguments)


def tiny_v2():
    network = torchvision.models.efficientnet
    fused, inverted = network.FusedMBConvConfig, network.MBConvConfig
    settings = [
        fused(1, 3, 1, 8, 8, 2),
        fused(2, 3, 2, 8, 16, 2),
        inverted(2, 3, 2, 16, 24, 2),
        inverted(3, 3, 2, 24, 16, 1),
    ]
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    return network.EfficientNet(
        settings, 0.0, stochastic_depth_prob=0.0, num_classes=3, norm_layer=norm, last_channel=24
    )


def of_timm(name, repeats, image, outputs=3, **stated):
    places = [(stage, i) for stage, many in enumerate(repeats) for i in range(many)]
    return Case(
        layout=("efficientnet", "timm"),
        make=lambda: timm.create_model(name, num_classes=outputs),
        units={
            "stem": "bn1",
            **{f"block_{n}": f"blocks.{stage}.{i}" for n, (stage, i) in enumerate(places)},
            "top": "bn2",
        },
        image=image,
        outputs=outputs,
        last=r"blocks\.\d+\.\d+\.bn3",
        gain=0.5,
        rate=0.0,
        options=stated,
    )


B0, LITE1, S = (1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1), (2, 4, 4, 6, 9, 15)
TF = dict(padding="same", epsilon=1e-3)
CASES = {
    "v2_tiny": of_torchvision(tiny_v2, (2, 2, 2, 1), (39, 50, 3), epsilon=1e-3, rate=0.1),
    "b0": of_torchvision(named("efficientnet_b0", num_classes=3), B0, (67, 90, 3)),
    "b5": of_torchvision(named("efficientnet_b5", num_classes=3), (3, 5, 5, 7, 7, 9, 3), (65, 40, 3)),
    "v2_s": dataclasses.replace(
        of_torchvision(named("efficientnet_v2_s", num_classes=1000), S, (224, 224, 3), outputs=1000),
        last=rf"{LAST}|features\.[123]\.\d+\.block\.1\.1",  # its first stages have two convolutions
        gain=0.4,
    ),
    "timm_b0": of_timm("efficientnet_b0", B0, (65, 96, 3)),
    "timm_tf_b0": of_timm("tf_efficientnet_b0", B0, (65, 90, 3), **TF),
    "timm_lite1": of_timm("tf_efficientnet_lite1", LITE1, (50, 65, 3), **TF),
    "timm_v2_b0": of_timm("tf_efficientnetv2_b0", (1, 2, 2, 3, 5, 8), (65, 90, 3), **TF),
    "timm_v2_rw_t": dataclasses.replace(
        of_timm("efficientnetv2_rw_t", (2, 4, 4, 6, 9, 14), (65, 90, 3)),
        last=r"blocks\.\d+\.\d+\.bn3|blocks\.[12]\.\d+\.bn2",
    ),
}
