from functools import partial

from tests.parity.families import Case
from tests.parity.packages import timm, torchvision


def case(make, depths, **settings):
    """Of the layers of a stage the last gives, side by side, what all of them give."""
    ends = [sum(depths[: i + 1]) - 1 for i in range(len(depths))]
    return Case(
        layout=("densenet", "torchvision"),
        make=make,
        units={"stem": "features.pool0", **{f"block_{n}": f"features.denseblock{i}" for i, n in enumerate(ends, 1)}},
        still=r"params/stem/norm/(scale|bias)",  # nearly all of them is taken away by the norms that read the stem
        **{"rate": 0.2, **settings},
    )


FULL = dict(depths=(6, 12, 24, 16), image=(224, 224, 3), outputs=1000, rate=0.0)
CASES = {
    "odd": case(
        partial(
            torchvision.models.DenseNet,
            growth_rate=3,
            block_config=(2, 3),
            num_init_features=7,
            bn_size=2,
            num_classes=3,
        ),
        (2, 3),
        image=(38, 49, 3),
        golden=True,
    ),
    "timm": case(
        partial(
            timm.models.densenet.DenseNet, growth_rate=4, block_config=(1, 2, 2), bn_size=3, num_classes=3, in_chans=1
        ),
        (1, 2, 2),
        image=(66, 51, 1),
        rate=0.1,  # at 0.2 PyTorch's own float32 strays from its float64 by 0.09: a ReLU's kink
    ),
    "121": case(torchvision.models.densenet121, **FULL),
}
