from torch import nn

from tests.parity.families import Case
from tests.parity.packages import torchvision

WIDTHS, PLACES, HIDDEN = (4, 6, 5, 7, 3), (0, 3, 6, 8, 10), 11


def small():
    """torchvision's AlexNet, whose sizes are fixed, with smaller layers."""
    model = torchvision.models.AlexNet(num_classes=3, dropout=0.0)
    for place, before, width in zip(PLACES, (3, *WIDTHS), WIDTHS, strict=False):
        old = model.features[place]
        model.features[place] = nn.Conv2d(before, width, old.kernel_size, old.stride, old.padding)
    model.avgpool = nn.AdaptiveAvgPool2d(4)
    model.classifier[1] = nn.Linear(WIDTHS[-1] * 16, HIDDEN)
    model.classifier[4], model.classifier[6] = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 3)
    return model


def case(make, **settings):
    units = [*(f"features.{place + 1}" for place in PLACES), "classifier.2", "classifier.5"]
    return Case(
        layout=("alexnet", "torchvision"),
        make=make,
        units={"stem": units[0], **{f"block_{i}": unit for i, unit in enumerate(units[1:])}},
        last=r"features\.(0|3|6|8|10)|classifier\.[146]",
        **{"gain": 1.4, **settings},
    )


CASES = {
    "odd": case(small, image=(95, 71, 3), golden=True),
    "alexnet": case(torchvision.models.alexnet, image=(224, 224, 3), outputs=1000, rate=0.0, gain=1.0),
}
