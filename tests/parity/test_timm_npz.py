"""Google's `.npz` files, of ViT (AugReg) and of BiT, as timm's own loaders read them."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from jaxfer.conformance.tiny import draw
from jaxfer.pretrained import foreign, located
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import store
from jaxfer.registry import MODELS
from tests.parity.packages import timm
from tests.parity.reference import channels_first, compare, images, ours, unit_outputs, watch

VIT = dict(patch=8, width=24, layers=2, heads=3, mlp_width=40, image=(24, 24, 3))
BIT = dict(stage_sizes=(1, 2), width=32, kernel_epsilon=1e-10, image=(37, 26, 3))
PLACES = ("stem", "stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1")


def vit():
    return timm.models.VisionTransformer(
        img_size=24, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=40 / 24, num_classes=3
    )


def bit():
    return timm.models.ResNetV2(
        layers=(1, 2),
        channels=(128, 256),
        stem_chs=32,
        stem_type="fixed",
        num_classes=3,
        conv_layer=functools.partial(timm.layers.StdConv2d, eps=1e-8),
    )


@pytest.mark.parametrize(
    ("layout", "options", "make", "units"),
    [
        (("vit", "augreg"), VIT, vit, {"block_0": "blocks.0", "block_1": "blocks.1"}),
        (
            ("bit", "google"),
            BIT,
            bit,
            {
                "stem": "stem",
                "block_0": "stages.0.blocks.0",
                **{f"block_{i + 1}": f"stages.1.blocks.{i}" for i in (0, 1)},
            },
        ),
    ],
    ids=["vit", "bit"],
)
def test_timms_loader(layout, options, make, units, tmp_path):
    layout = by_family(*layout)
    drawn = MODELS.make(layout.family, outputs=3, **options)
    tensors = store(*draw(drawn), layout, drawn)
    np.savez(tmp_path / "weights.npz", **tensors)
    found = foreign.opened(str(tmp_path / "weights.npz"), layout.family, {})
    assert found.layout is layout and found.outputs == 3
    port, params, state = ours(layout, {}, located.weights(found.files), 3, image=options["image"])
    assert port.module == drawn.module
    model = make()
    model.load_pretrained(tmp_path / "weights.npz")
    x = images(options["image"])
    expected = watch(model, units, channels_first(x))
    compare(unit_outputs(port, params, state, {"image": x}), expected, scaled=False)
