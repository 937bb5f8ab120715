from functools import partial

from tests.parity.families import Case
from tests.parity.families.swin import smooth
from tests.parity.packages import timm, torchvision

Swin, TimmV1, TimmV2 = (
    torchvision.models.swin_transformer,
    timm.models.swin_transformer.SwinTransformer,
    timm.models.swin_transformer_v2.SwinTransformerV2,
)
SIZES = dict(embed_dim=6, depths=[2, 1], num_heads=[2, 3], mlp_ratio=2.0, num_classes=3)


def case(layout, make, units, depths=(2, 1), v2=False, **settings):
    places = [(stage, i) for stage, depth in enumerate(depths) for i in range(depth)]
    small = len(depths) == 2
    units = {
        "stem": "patch_embed" if layout == "timm" else "features.0",
        **{f"block_{n}": units(*place) for n, place in enumerate(places)},
    }
    return Case(
        layout=("swin", layout),
        make=make,
        units=units,
        shaped=dict.fromkeys(units, lambda x: x.transpose(0, 3, 1, 2)),  # their maps have channels last already
        last=r".*\.norm[12]" if v2 else r".*\.(mlp\.(fc2|3)|attn\.proj)",
        gain=0.3 if v2 else 1.0 if small else 0.5,
        outputs=3 if small else 1000,
        prepared=smooth,
        **{"image": (32, 24, 3), "rate": (0.1 if v2 else 0.2) if small else 0.0, **settings},
    )


def of_torchvision(make, **settings):
    return case("torchvision", make, lambda stage, i: f"features.{2 * stage + 1}.{i}", **settings)


def of_timm(make, **settings):
    return case("timm", make, lambda stage, i: f"layers.{stage}.blocks.{i}", **settings)


def small(window, **kinds):
    return partial(
        Swin.SwinTransformer, [4, 4], window_size=[window, window], stochastic_depth_prob=0.0, **SIZES, **kinds
    )


FULL = dict(depths=(2, 2, 6, 2), image=(224, 224, 3))
V2 = dict(block=Swin.SwinTransformerBlockV2, downsample_layer=Swin.PatchMergingV2)
CASES = {
    # The second stage's map is smaller than its window, and the first one's is one window wide.
    "torchvision": of_torchvision(small(5), image=(28, 20, 3), golden=True),
    "torchvision_v2": of_torchvision(small(4, **V2), v2=True, image=(24, 32, 3), golden=True),
    "timm": of_timm(partial(TimmV1, img_size=(32, 32), window_size=4, drop_path_rate=0.0, **SIZES), image=(32, 32, 3)),
    "timm_v2": of_timm(
        partial(TimmV2, img_size=(32, 32), window_size=4, pretrained_window_sizes=(0, 0), drop_path_rate=0.0, **SIZES),
        image=(32, 32, 3),
        v2=True,
        options={"windows": (4, 4)},
    ),
    "torchvision_tiny": of_torchvision(Swin.swin_t, **FULL),
    "timm_tiny": of_timm(lambda: timm.create_model("swin_tiny_patch4_window7_224"), **FULL),
}
