from functools import partial

from tests.parity.families import Case
from tests.parity.packages import timm, torchvision

ConvNeXt, V1 = timm.models.convnext.ConvNeXt, torchvision.models.convnext
SIZES = dict(depths=(1, 2, 1, 1), dims=(5, 7, 4, 6))


def case(layout, make, units, depths=SIZES["depths"], **settings):
    places = [(stage, i) for stage, depth in enumerate(depths) for i in range(depth)]
    return Case(
        layout=("convnext", layout),
        make=make,
        units={
            "stem": "stem" if layout == "timm" else "features.0",
            **{f"block_{n}": units(*place) for n, place in enumerate(places)},
        },
        last=r".*\.(mlp\.fc2|block\.5)",
        **{"gain": 4.0, "image": (67, 40, 3), **settings},
    )


def torchvision(make, depths, **settings):
    settings = {"gain": 1.0, **settings}  # its layer scales have three axes, and are drawn larger
    return case("torchvision", make, lambda stage, i: f"features.{2 * stage + 1}.{i}", depths, **settings)


def of_timm(make, **settings):
    return case("timm", make, lambda stage, i: f"stages.{stage}.blocks.{i}", **settings)


FULL = dict(image=(224, 224, 3), outputs=1000, rate=0.0)
CASES = {
    "torchvision": torchvision(
        lambda: V1.ConvNeXt([V1.CNBlockConfig(5, 7, 1), V1.CNBlockConfig(7, None, 2)], num_classes=3),
        (1, 2),
        image=(17, 22, 3),
        golden=True,
    ),
    "torchvision_tiny": torchvision(V1.convnext_tiny, (3, 3, 9, 3), gain=0.5, **FULL),
    "timm": of_timm(partial(ConvNeXt, num_classes=3, **SIZES)),
    "timm_conv_mlp": of_timm(partial(ConvNeXt, num_classes=3, conv_mlp=True, **SIZES)),
    "timm_v2": of_timm(
        partial(ConvNeXt, num_classes=3, use_grn=True, ls_init_value=None, conv_mlp=True, **SIZES), gain=1.0
    ),
    "timm_v2_atto": of_timm(lambda: timm.create_model("convnextv2_atto"), depths=(2, 2, 6, 2), gain=0.5, **FULL),
}
