import torch
from torch import nn

from tests.parity.families import Case
from tests.parity.packages import torchvision

vgg = torchvision.models.vgg


def built(layers, norm, places, hidden, channels):
    """torchvision's VGG, whose sizes of the dense layers are fixed, with smaller ones."""
    with torch.device("meta"):
        model = vgg.VGG(nn.Identity(), init_weights=False, dropout=0.0)
    model.features = vgg.make_layers(layers, batch_norm=norm)
    model.features[0] = nn.Conv2d(channels, layers[0], 3, padding=1)
    model.avgpool = nn.AdaptiveAvgPool2d(places)
    model.classifier[0] = nn.Linear(layers[-2] * places**2, hidden)
    model.classifier[3], model.classifier[6] = nn.Linear(hidden, hidden), nn.Linear(hidden, 3)
    return model


def case(make, layers, norm, **settings):
    """A unit ends with its ReLU."""
    relus, convs, place = [], [], 0
    for layer in layers:
        convs += [] if layer == "M" else [str(place)]
        place += 1 if layer == "M" else 3 if norm else 2
        relus += [] if layer == "M" else [f"features.{place - 1}"]
    units = [*relus, "classifier.1", "classifier.4"]
    return Case(
        layout=("vgg", "torchvision"),
        make=make,
        units={"stem": units[0], **{f"block_{i}": unit for i, unit in enumerate(units[1:])}},
        last=rf"features\.({'|'.join(convs)})|classifier\.[036]",
        **{"gain": 1.4, **settings},
    )


def small(layers, norm, places, image, **settings):
    return case(lambda: built(layers, norm, places, 11, image[2]), layers, norm, image=image, **settings)


PLAIN, NORMED = [4, "M", 6, 6, "M"], [5, 5, "M", 6, "M", 7, "M"]
CASES = {
    # 4 x 6 places become 3 x 3 that overlap, 2 x 1 become 5 x 5 that repeat.
    "plain": small(PLAIN, False, 3, (17, 26, 3), rate=0.02, golden=True),
    "norm": small(NORMED, True, 5, (21, 15, 1), gain=1.0, still=r".*/conv/bias", golden=True),
    "11_bn": case(vgg.vgg11_bn, vgg.cfgs["A"], True, image=(224, 224, 3), outputs=1000, rate=0.0, gain=1.0),
}
