import functools

import torch
from torch import nn

from tests.parity.families import Case
from tests.parity.packages import timm


def calm(model):
    """Half of what each block adds, which deep networks sum up."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            with torch.no_grad():
                module.weight.mul_(0.5)
                module.bias.mul_(0.5)


def case(make, depths, image, outputs=3, rate=0.0, **facts):
    places = [(stage, i) for stage, blocks in enumerate(depths) for i in range(blocks)]
    return Case(
        layout=("bit", "timm"),
        make=make,
        units={"stem": "stem", **{f"block_{n}": f"stages.{stage}.blocks.{i}" for n, (stage, i) in enumerate(places)}},
        image=image,
        spread=0.05,  # a standardised kernel of n taps enlarges by sqrt(n)
        outputs=outputs,
        last=r".*\.norm3" if rate else r".*\.norm[13]",
        gain=0.5,
        prepared=(lambda model: None) if rate else calm,
        rate=rate,
        **facts,
    )


def tiny():
    return timm.models.ResNetV2(
        layers=(1, 2),
        channels=(16, 40),
        stem_chs=16,
        stem_type="fixed",
        num_classes=3,
        conv_layer=functools.partial(timm.layers.StdConv2d, eps=1e-8),
        norm_layer=functools.partial(timm.layers.GroupNormAct, num_groups=4),
        act_layer=nn.ReLU,
    )


CASES = {
    "odd": case(tiny, (1, 2), (37, 26, 3), rate=0.4, options=dict(groups=4)),
}
