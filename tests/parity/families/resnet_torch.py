import functools

from torch import nn

from tests.parity.families import Case
from tests.parity.packages import timm, torchvision


def units(sizes):
    places = [(stage, i) for stage, size in enumerate(sizes, 1) for i in range(size)]
    return {"stem": "maxpool", **{f"block_{n}": f"layer{stage}.{i}" for n, (stage, i) in enumerate(places)}}


def case(make, sizes=(1, 2), image=(33, 22, 3), rate=0.05, **facts):
    full = sum(sizes) > 4
    return Case(
        layout=("resnet", "torchvision"),
        make=make,
        units=units(sizes),
        image=image,
        outputs=1000 if full else 3,
        last=r".*\.bn[23]|.*\.conv3",
        gain=0.6,
        rate=0.0 if full else rate,
        **facts,
    )


def of_timm(block, channels, **options):
    """timm's ResNet of two stages; its forward pass calls four."""

    def make():
        kind = getattr(timm.models.resnet, block)
        model = timm.models.resnet.ResNet(kind, (1, 2), num_classes=3, channels=channels, **options)
        model.layer3 = model.layer4 = nn.Identity()
        return model

    return make


SE = dict(block_args=dict(attn_layer="se"))
CASES = {
    "wide": case(of_timm("Bottleneck", (5, 7), base_width=96)),
    "groups": case(
        of_timm("Bottleneck", (6, 4), base_width=24, cardinality=3, in_chans=1), image=(38, 31, 1), rate=0.4
    ),
    "gate": case(of_timm("Bottleneck", (5, 6), **SE), rate=0.4),
    "gate_basic": case(of_timm("BasicBlock", (7, 9), **SE), rate=0.4),
    "deep": case(of_timm("BasicBlock", (5, 7), stem_type="deep", stem_width=6, avg_down=True)),
    "tiered": case(
        of_timm("Bottleneck", (4, 6), stem_type="deep_tiered", stem_width=8, avg_down=True, cardinality=2, **SE),
        image=(37, 26, 3),
        rate=0.4,
        golden=True,
    ),
    "wide_resnet50_2": case(torchvision.models.wide_resnet50_2, (3, 4, 6, 3), (224, 224, 3)),
    "resnext50_32x4d": case(torchvision.models.resnext50_32x4d, (3, 4, 6, 3), (224, 224, 3)),
    "seresnet50": case(functools.partial(timm.create_model, "seresnet50"), (3, 4, 6, 3), (96, 128, 3)),
    "resnet50d": case(functools.partial(timm.create_model, "resnet50d"), (3, 4, 6, 3), (95, 127, 3)),
}
