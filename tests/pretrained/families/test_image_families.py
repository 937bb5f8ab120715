"""ResNet, ViT, DeiT and MobileNetV1: key tables, options from the files' own facts, and what export writes."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.pretrained import bare
from jaxfer.pretrained.adapter import in_memory
from jaxfer.pretrained.families import by_family, by_model_type
from jaxfer.pretrained.families._image import image_processor, pair, statistics
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS
from tests.models.tiny import draw

RESNET, VIT, MOBILENET, DINOV2 = (by_model_type(name) for name in ("resnet", "vit", "mobilenet_v1", "dinov2"))
CLIP = by_model_type("clip")
BIT_HF = by_model_type("bit")
TORCHVISION = by_family("resnet", "torchvision")
MOBILENET_V2 = by_model_type("mobilenet_v2")
INVERTED = dict(
    stem=3,
    widths=(2, 2, 3, 6, 10, 16, 32),
    expansions=(1.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0),
    top=128,
    image=(33, 40, 3),
    resize=(44,),
)
PLAIN = dict(INVERTED, padding="symmetric", epsilon=1e-5)
EFFICIENT = dict(
    stem=16,
    widths=(8, 12, 20, 36),
    repeats=(1, 2, 1, 1),
    strides=(1, 2, 2, 2),
    expansions=(1.0, 3.0, 2.0, 3.0),
    kinds=("inverted",) * 4,
    windows=(3, 5, 3, 5),
    top=640,
    image=(33, 40, 3),
    resize=(44,),
)
PORTED = dict(EFFICIENT, padding="same", activation="relu6", squeeze=0.0, mean=(0.1,))
V2 = dict(EFFICIENT, kinds=("conv", "fused", "fused", "inverted"), padding="symmetric")
SMALL_V3 = dict(
    stem=4,
    widths=(4, 5, 6, 7, 8),
    repeats=(1, 2, 3, 2, 3),
    strides=(2, 2, 2, 1, 2),
    expanded=(4, 7, 9, 9, 8, 8, 9, 9, 8, 9, 9),
    windows=(3, 3, 5, 5, 5),
    gated=(True, False, True, True, True),
    acts=("relu", "relu", "hard_swish", "hard_swish", "hard_swish"),
    top=7,
    hidden=6,
    padding="symmetric",
    image=(33, 40, 3),
)
MINIMAL = dict(SMALL_V3, gated=(False,) * 5, acts=("relu",) * 5, activation="relu", padding="same", epsilon=1e-5)
SIZES = dict(patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3))
SMALL = dict(depth_multiplier=0.05, min_depth=3, image=(11, 14, 3))
BOTTLENECK = dict(stage_sizes=(1, 2), width=4, block="bottleneck", image=(18, 14, 3))

DINO = dict(patch=3, width=12, layers=2, heads=3, mlp_width=24, image=(6, 9, 3), positions=(4, 4))
CONVNEXT = dict(stage_sizes=(1, 2), widths=(4, 6), patch=2, image=(9, 7, 3))
BIT = dict(stage_sizes=(1, 2), width=4, groups=2, image=(9, 7, 3))
BIT32 = dict(BIT, width=32, groups=32)
VGG = dict(stage_sizes=(2, 1), widths=(4, 5), places=2, hidden=6, image=(9, 7, 3))

# {case: (layout, options)}
CASES = {
    "resnet_basic": (RESNET, dict(stage_sizes=(2, 1), width=5, image=(18, 14, 1))),
    "resnet_bottleneck": (RESNET, BOTTLENECK),
    "resnet_v1": (RESNET, dict(BOTTLENECK, stride_in_1x1=True)),
    "resnet_uneven": (RESNET, dict(BOTTLENECK, widths=(3, 5))),
    "resnet_basic_uneven": (RESNET, dict(stage_sizes=(1, 1), width=4, widths=(7, 5), image=(18, 14, 3))),
    "torchvision": (TORCHVISION, BOTTLENECK),
    "torchvision_uneven": (TORCHVISION, dict(BOTTLENECK, widths=(4, 3))),
    "wide": (TORCHVISION, dict(BOTTLENECK, base_width=96)),
    "grouped": (TORCHVISION, dict(BOTTLENECK, groups=2, base_width=32, widths=(4, 6))),
    "gated": (TORCHVISION, dict(BOTTLENECK, squeeze=True)),
    "deep": (TORCHVISION, dict(BOTTLENECK, width=8, stem="deep", shortcut="average")),
    "tiered": (TORCHVISION, dict(stage_sizes=(2, 1), width=16, widths=(6, 8), stem="tiered", image=(18, 14, 1))),
    "cifar_padding": (
        TORCHVISION,
        dict(stage_sizes=(1, 1, 1), width=4, stem="cifar", shortcut="padding", image=(9, 7, 3)),
    ),
    "cifar_projection": (TORCHVISION, dict(stage_sizes=(1, 2), width=4, stem="cifar", image=(9, 7, 3))),
    "vit": (VIT, SIZES),
    "vit_without_qkv_bias": (VIT, dict(SIZES, qkv_bias=False, epsilon=1e-12)),
    "vit_pooler": (VIT, dict(SIZES, pool="pooler")),
    "deit": (VIT, dict(SIZES, distillation="token")),
    "deit_teacher": (VIT, dict(SIZES, distillation="head")),
    "mobilenet_v1": (MOBILENET, dict(SMALL, resize=(16,))),
    "augreg": (by_family("vit", "augreg"), dict(SIZES, image=(9, 9, 3))),
    "augreg_mean": (by_family("vit", "augreg"), dict(SIZES, image=(9, 9, 3), pool="mean")),
    "dinov2": (DINOV2, DINO),
    "dinov2_registers": (DINOV2, dict(DINO, registers=2, antialias=True, resize=(10,))),
    "dinov2_gated": (DINOV2, dict(DINO, gated=True, qkv_bias=False)),
    "clip_mean": (CLIP, dict(SIZES, image=(6, 6, 3), pool="mean")),
    "siglip_mean": (by_model_type("siglip"), dict(SIZES, image=(6, 6, 3), pool="mean")),
    "mobilenet_v2": (MOBILENET_V2, dict(INVERTED, output_stride=8, mean=(0.1,))),
    "mobilenet_v2_first_expands": (MOBILENET_V2, dict(INVERTED, first_expands=True, padding="symmetric")),
    "mobilenet_v2_torchvision": (by_family("mobilenet_v2", "torchvision"), PLAIN),
    "mobilenet_v2_timm": (by_family("mobilenet_v2", "timm"), PLAIN),
    "efficientnet": (
        by_family("efficientnet", "hf"),
        dict(EFFICIENT, padding="end", symmetric_blocks=(1, 3), squeeze=0.5, dropout=0.3, stochastic_depth=0.1),
    ),
    "efficientnet_torchvision": (by_family("efficientnet", "torchvision"), dict(V2, epsilon=1e-5)),
    "efficientnet_timm": (by_family("efficientnet", "timm"), dict(V2, epsilon=1e-5, squeeze=0.5)),
    "efficientnet_port": (by_family("efficientnet", "efficientnet_pytorch"), PORTED),
    "mobilenet_v3_torchvision": (by_family("mobilenet_v3", "torchvision"), SMALL_V3),
    "mobilenet_v3_timm": (by_family("mobilenet_v3", "timm"), MINIMAL),
    "vit_cropped": (VIT, dict(SIZES, resize=(7, 12))),
    "convnext": (by_family("convnext", "hf"), dict(CONVNEXT, head_epsilon=1e-12, layer_scale_init=1e-3)),
    "convnext_v2": (by_family("convnext", "hf"), dict(CONVNEXT, grn=True, resize=(12,))),
    "convnext_torchvision": (by_family("convnext", "torchvision"), CONVNEXT),
    "convnext_timm": (by_family("convnext", "timm"), CONVNEXT),
    "convnext_v2_timm": (by_family("convnext", "timm"), dict(CONVNEXT, grn=True)),
    "densenet": (
        by_family("densenet", "torchvision"),
        dict(stage_sizes=(1, 2), growth=3, width=5, bottleneck=2, image=(18, 14, 3)),
    ),
    "vgg": (by_family("vgg", "torchvision"), VGG),
    "vgg_norm": (by_family("vgg", "torchvision"), dict(VGG, norm=True)),
    "alexnet": (
        by_family("alexnet", "torchvision"),
        dict(widths=(3, 4, 5, 4, 3), places=2, hidden=6, image=(66, 63, 3)),
    ),
    "bit": (by_model_type("bit"), dict(BIT, same_pool=True, image=(9, 7, 1))),
    "bit_bottleneck": (by_model_type("bit"), dict(BIT, widths=(8, 24), block="bottleneck", padding="same")),
    "bit_timm": (by_family("bit", "timm"), BIT32),
    "bit_google": (by_family("bit", "google"), dict(BIT32, kernel_epsilon=1e-10)),
}
UNWRITTEN = ("bit_timm", "vit_pooler", "convnext_timm", "convnext_v2_timm")


def make(case):
    layout, options = CASES[case]
    return layout, MODELS.make(layout.family, outputs=3, **options)


def shapes(port):
    params, state = jax.eval_shape(port.init, jax.random.key(0), port.example(1))
    return rules.flatten({"params": params, **state})


@pytest.mark.parametrize("case", CASES)
def test_stored_and_read_again_is_bitwise_the_same(case):
    layout, port = make(case)
    params, state = draw(port)
    stored = store(params, state, layout, port)
    found = convert(stored, layout, port, shapes(port))
    assert not found.fresh and set(found.unused) == set(layout.constants(port))
    for part, original in ((found.params, params), (found.model_state, state)):
        jax.tree.map(np.testing.assert_array_equal, part, original)


@pytest.mark.parametrize("case", [case for case, (layout, _) in CASES.items() if layout.prefixes])
def test_a_bare_backbone_lacks_the_head_alone(case):
    layout, port = make(case)
    stored = store(*draw(port), layout, port)
    prefix = next(prefix for prefix in layout.prefixes if any(key.startswith(prefix) for key in stored))
    bare = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    found = convert(bare, layout, port, shapes(port))
    assert found.fresh and all(leaf.startswith(f"params/{port.head}/") for leaf in found.fresh)


@pytest.mark.parametrize("case", [case for case in CASES if case not in UNWRITTEN])
def test_what_export_writes_reads_as_the_same_model(case):
    layout, port = make(case)
    theirs = {key: np.shape(value) for key, value in store(*draw(port), layout, port).items()}
    config = layout.config(port, {}, ["cat", "dog", "eel"])
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "eel"} and config["label2id"]["eel"] == 2
    options = layout.options(config, layout.preprocessor(port), theirs)
    assert MODELS.make(layout.family, outputs=3, **options) == port


@pytest.mark.parametrize("case", ["torchvision", "cifar_projection", "cifar_padding"])
@pytest.mark.parametrize("head", ["fc", "linear"])
@pytest.mark.parametrize("shortcut", ["downsample", "shortcut"])
def test_the_names_of_head_and_shortcut_are_free(case, head, shortcut):
    layout, port = make(case)
    params, state = draw(port)
    stored = store(params, state, layout, port)
    theirs = {
        re.sub(r"\.(downsample|shortcut)\.", f".{shortcut}.", re.sub("^(fc|linear)", head, key)): value
        for key, value in stored.items()
    }
    assert f"{head}.weight" in theirs and len(theirs) == len(stored)
    options = layout.options({}, {}, {key: np.shape(value) for key, value in theirs.items()})
    assert MODELS.make("resnet", outputs=3, **{**options, "image": port.encoding.size}).module == port.module
    found = convert(theirs, layout, port, shapes(port))
    assert not found.fresh and found.ledger["params/head/out/bias"]["from"] == f"{head}.bias"
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    with pytest.raises(InputError, match="the checkpoint has both '(fc|linear).weight' and '(fc|linear).weight'"):
        convert({**theirs, "fc.weight": 0, "linear.weight": 0}, layout, port, shapes(port))


def dinov2(**options):
    """What export writes for such a model."""
    return DINOV2.config(MODELS.make("dinov2", outputs=2, **{**DINO, **options}), {}, [])


def test_the_size_of_dinov2s_positions_is_not_that_of_its_images():
    processor = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    options = DINOV2.options({"image_size": 518, "patch_size": 14}, processor, {})
    assert (options["positions"], options["image"], options["resize"]) == ((37, 37), (224, 224, 3), (256,))
    giant = DINOV2.options({"hidden_size": 1536, "use_swiglu_ffn": True}, {}, {})
    assert giant["mlp_width"] == 4096 and giant["gated"]


def test_dinov2_without_a_config_is_read_from_its_shapes():
    layout, port = make("dinov2_registers")
    theirs = {key: np.shape(value) for key, value in store(*draw(port), layout, port).items()}
    config, left = bare.facts(layout, theirs, {"heads": 3}, {})
    options = layout.options(config, {}, theirs)
    assert MODELS.make("dinov2", outputs=3, **{**options, "image": (6, 9, 3)}).module == port.module
    assert {"heads", "epsilon"} <= left
    with pytest.raises(InputError, match="set config.model.heads"):
        bare.facts(layout, theirs, {}, {})


@pytest.mark.parametrize(
    "case", ["mobilenet_v2_timm", "efficientnet", "efficientnet_port", "mobilenet_v3_torchvision", "mobilenet_v1"]
)
def test_a_dilated_network_reads_the_same_weights(case):
    layout, options = CASES[case]
    port, dilated = (MODELS.make(layout.family, outputs=3, **options, output_stride=stride) for stride in (0, 4))
    assert port.module != dilated.module and layout.keys(port) == layout.keys(dilated)


def test_regression_has_no_labels():
    config = MOBILENET.config(make("mobilenet_v1")[1], {}, [])
    assert config["problem_type"] == "regression" and config["id2label"]["2"] == "LABEL_2"


def test_the_hubs_names():
    names = {key.name for key in VIT.keys(make("deit_teacher")[1]).values()}
    assert {
        "deit.embeddings.distillation_token",
        "deit.encoder.layer.1.attention.attention.query.bias",
        "deit.encoder.layer.1.attention.output.dense.weight",
        "deit.encoder.layer.0.output.dense.bias",
        "deit.layernorm.weight",
        "distillation_classifier.bias",
    } <= names
    names = {key.name for key in RESNET.keys(make("resnet_bottleneck")[1]).values()}
    assert {
        "resnet.embedder.embedder.normalization.running_var",
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight",
        "resnet.encoder.stages.1.layers.1.layer.2.normalization.bias",
        "classifier.1.weight",
    } <= names
    assert "resnet.encoder.stages.1.layers.1.shortcut.convolution.weight" not in names
    names = {key.name for key in BIT_HF.keys(make("bit_bottleneck")[1]).values()}
    assert {"bit.embedder.norm.bias", "bit.encoder.stages.1.layers.0.downsample.conv.weight"} <= names
    names = {key.name for key in by_family("bit", "google").keys(make("bit_google")[1]).values()}
    assert {"resnet/block2/unit01/a/proj/standardized_conv2d/kernel", "resnet/group_norm/gamma"} <= names
    names = {key.name for key in MOBILENET.keys(make("mobilenet_v1")[1]).values()}
    assert {"mobilenet_v1.conv_stem.convolution.weight", "mobilenet_v1.layer.25.normalization.weight"} <= names
    names = {key.name for key in TORCHVISION.keys(make("cifar_projection")[1]).values()}
    assert {"layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_mean", "linear.weight"} <= names
    names = {key.name for key in TORCHVISION.keys(make("torchvision")[1]).values()}
    assert {"layer1.0.downsample.0.weight", "layer2.1.conv3.weight", "fc.bias"} <= names


def test_absent_fields_have_the_librarys_defaults():
    fifty = RESNET.options({"model_type": "resnet"}, {}, {})
    assert fifty["stage_sizes"] == (3, 4, 6, 3) and fifty["block"] == "bottleneck" and not fifty["stride_in_1x1"]
    base = VIT.options({"model_type": "vit"}, {}, {})
    assert (base["width"], base["layers"], base["patch"], base["epsilon"]) == (768, 12, 16, 1e-12)
    assert base["image"] == (224, 224, 3) and base["distillation"] == "none" and "mean" not in base
    assert VIT.options({"model_type": "deit"}, {}, {})["distillation"] == "token"
    # TensorFlow's probability to keep, which is transformers' default; anything else is what to drop.
    assert [MOBILENET.options(c, {}, {})["dropout"] for c in ({}, {"classifier_dropout_prob": 0.999})] == [0.001] * 2
    assert MOBILENET.options({"classifier_dropout_prob": 0.25}, {}, {})["dropout"] == 0.25


def test_torchvision_shapes_decide():
    layout, port = make("cifar_padding")
    theirs = {key: np.shape(value) for key, value in store(*draw(port), layout, port).items()}
    given = {"input": {"size": [9, 7], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}
    options = layout.options(given, {}, theirs)
    assert options == {
        "stage_sizes": (1, 1, 1),
        "width": 4,
        "widths": (),
        "block": "basic",
        "stem": "cifar",
        "shortcut": "padding",
        "mean": (0.1, 0.2, 0.3),
        "std": (1.0, 1.0, 1.0),
        "image": (9, 7, 3),
    }
    assert layout.options({}, {}, theirs)["image"] == (32, 32, 3)


@pytest.mark.parametrize(
    ("processor", "fields", "size", "resize"),
    [
        ("ViT", {"size": {"height": 6, "width": 9}}, (6, 9), ()),
        ("ViT", {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, (224, 224), (256,)),
        ("ViT", {"size": 256, "do_center_crop": True, "crop_size": 224}, (224, 224), (256, 256)),
        ("ViT", {"size": 224, "do_center_crop": True, "crop_size": 224}, (224, 224), ()),
        ("ViT", {"do_resize": False, "size": 160}, (224, 224), ()),
        ("DeiT", {"size": 64, "crop_size": [48, 56]}, (48, 56), (64, 64)),
        ("ConvNext", {"size": 224}, (224, 224), (256,)),
        ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.95}, (224, 224), (235,)),
        ("ConvNext", {}, (384, 384), ()),
        ("MobileNetV1", {"size": 192, "crop_size": 160}, (160, 160), (192,)),
        ("MobileNetV1", {"do_center_crop": False, "size": [40, 30]}, (40, 30), ()),
    ],
)
@pytest.mark.parametrize(
    "name", ["image_processor_type={}ImageProcessorFast", "feature_extractor_type={}FeatureExtractor"]
)
def test_resize_before_the_crop(name, processor, fields, size, resize):
    field, value = name.format(processor).split("=")
    options = RESNET.options({}, {field: value, **fields}, {})
    assert (options["image"][:2], options["resize"]) == (size, resize)


def test_a_file_that_does_not_say_whose_it_is_is_its_familys():
    fields = {"crop_size": None, "do_resize": True}
    found = [layout.options({}, fields, {}) for layout in (RESNET, VIT, MOBILENET)]
    assert [(f["image"][0], f["resize"], f["interpolation"]) for f in found] == [
        (384, (), "bicubic"),
        (224, (), "bilinear"),
        (224, (256,), "bilinear"),
    ]
    deit = VIT.options({"model_type": "deit"}, fields, {})
    assert (deit["image"][0], deit["resize"], deit["interpolation"]) == (224, (256, 256), "bicubic")


PROCESSOR = {"size": {"height": 6, "width": 9}, "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3}


def test_the_processor_is_read():
    options = VIT.options({"image_size": [6, 9]}, PROCESSOR, {})
    assert options["image"] == (6, 9, 3) and options["interpolation"] == "bicubic"
    assert options["mean"] == (0.1, 0.2, 0.3) and options["std"] == (0.5,)
    crop = {"do_center_crop": True, "crop_size": 224, "size": {"shortest_edge": 256}}
    options = MOBILENET.options({"image_size": 192}, crop, {})
    assert options["image"] == (224, 224, 3) and options["interpolation"] == "bilinear"


def test_pixels_of_another_scale_are_the_same_statistics():
    # x / 127.5 - 1 = (x / 255 - 0.5) / 0.5
    mean, std = statistics({"rescale_factor": 1 / 127.5, "image_mean": [1.0], "image_std": [1.0]}, 3)
    np.testing.assert_allclose((mean, std), ((0.5,), (0.5,)))
    assert statistics({"do_normalize": False}, 3) == ((0.0,), (1.0,))
    mean, std = statistics({"do_rescale": False, "image_mean": [127.5], "image_std": [127.5]}, 1)
    np.testing.assert_allclose((mean, std), ((0.5,), (0.5,)))


@pytest.mark.parametrize(
    "value", [224, [224, 224], {"height": 224, "width": 224}, {"shortest_edge": 224}], ids=["int", "list", "hw", "edge"]
)
def test_sizes_come_in_many_shapes(value):
    assert pair(value, "size") == (224, 224)


@pytest.mark.parametrize("value", [0, [1, 2, 3], {"longest_edge": 9}, {"shortest_edge": 8, "longest_edge": 9}, None])
def test_sizes_that_are_none(value):
    with pytest.raises(InputError, match="size must be a side or a height and a width in pixels, found"):
        pair(value, "size")


def test_a_single_statistic_is_written_for_every_channel():
    port = MODELS.make("vit", outputs=2, **SIZES, mean=(0.4,), std=(0.2,), interpolation="nearest")
    written = image_processor(port)
    assert written["image_mean"] == [0.4] * 3 and written["image_std"] == [0.2] * 3 and written["resample"] == 0
    assert written["size"] == {"height": 6, "width": 9} and written["image_processor_type"] == "ViTImageProcessor"
    for resize, kind, size in (
        ((7,), "MobileNetV1", {"shortest_edge": 7}),
        ((7, 12), "DeiT", {"height": 7, "width": 12}),
    ):
        written = image_processor(MODELS.make("vit", outputs=2, **{**SIZES, "image": (6, 6, 3)}, resize=resize))
        assert (written["image_processor_type"], written["size"]) == (f"{kind}ImageProcessor", size)
        assert written["do_center_crop"] and written["crop_size"] == {"height": 6, "width": 6}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: RESNET.options({"hidden_sizes": [64, 100]}, {}, {}),
            "expected hidden_sizes for the 4 stages in depths",
        ),
        (lambda: RESNET.options({"hidden_sizes": [4, 8, 10, 8]}, {}, {}), "multiples of 4 for layer_type='bottleneck'"),
        (lambda: RESNET.options({"downsample_in_first_stage": True}, {}, {}), "downsample_in_first_stage is True"),
        (lambda: RESNET.options({"hidden_act": "gelu"}, {}, {}), "with hidden_act='relu' only"),
        (lambda: VIT.options({"patch_size": [16, 8]}, {}, {}), "expected square patches, found patch_size=[16, 8]"),
        (lambda: VIT.options({"image_size": 384}, PROCESSOR, {}), "yields images of (6, 9), config.json expects (384"),
        (lambda: VIT.options({}, {"size": 224, "resample": 9}, {}), "expected resample from 0 to 5"),
        (
            lambda: VIT.options({}, {"image_processor_type": "BeitImageProcessor"}, {}),
            "is for BeitImageProcessor; jaxfer",
        ),
        (lambda: VIT.options({}, {"size": {"shortest_edge": 224}}, {}), "gives images of many shapes"),
        (lambda: MOBILENET.options({}, {"do_resize": False}, {}), "center-crops images without resizing them"),
        (
            lambda: RESNET.options({}, {"do_center_crop": True, "crop_size": 9}, {}),
            "and no do_center_crop for a ConvNext",
        ),
        (lambda: RESNET.options({}, {"size": {"height": 9, "width": 9}}, {}), "expected size={'shortest_edge': N}"),
        (lambda: VIT.options({"image_size": "big"}, {}, {}), "image_size must be a side or a height and a width"),
        (lambda: MOBILENET.options({}, {"image_mean": [0.5] * 2}, {}), "expected 3 values of image_mean"),
        (lambda: TORCHVISION.options({}, {}, {"w": (1,)}), "a ResNet under torchvision's names"),
        (lambda: RESNET.keys(make("cifar_padding")[1]), "use the layout 'torchvision'"),
        (lambda: RESNET.keys(make("grouped")[1]), "no ResNet with groups=2 and base_width=32; use the layout"),
        (
            lambda: by_family("vit", "augreg").options({}, {}, {}),
            "expected a ViT under Google's names (embedding/kernel, Transformer/posembed_input",
        ),
        (lambda: VIT.keys(MODELS.make("vit", outputs=2, **SIZES, pool="mean")), "no ViT with pool='mean'"),
        (lambda: VIT.keys(MODELS.make("vit", outputs=2, **SIZES, norm="post")), "and norm='post'"),
        (lambda: VIT.config(make("vit_pooler")[1], {}, []), "read one class token, this model has pool='pooler'"),
        (
            lambda: VIT.config(MODELS.make("vit", outputs=2, **SIZES, last=2), {}, []),
            "this model has pool='cls' and last=2; train it with --config.model.pool=cls and --config.model.last=1",
        ),
        (lambda: DINOV2.options({"hidden_act": "relu"}, {}, {}), "with hidden_act='gelu' only"),
        (lambda: DINOV2.options({"image_size": [28, 42]}, {}, {}), "expected square patches and positions"),
        (
            lambda: DINOV2.options({"model_type": "dinov2_with_registers", "num_register_tokens": 0}, {}, {}),
            "set model_type to dinov2",
        ),
        (lambda: dinov2(pool="cls"), "this model has pool='cls' and last=1"),
        (lambda: dinov2(antialias=True), "antialias=True and registers=0"),
        (lambda: dinov2(mlp_width=20), "found mlp_width=20 and width=12"),
        (lambda: in_memory(DINOV2, "dinov2.encoder.layer.0.mlp.weights_in"), "peft sees two layers"),
        (lambda: MOBILENET.keys(MODELS.make("mobilenet_v1", outputs=2, **SMALL, strides=(1,))), "has strides="),
        (lambda: MOBILENET_V2.options({"expand_ratio": 1}, {}, {}), "expected an expand_ratio other than 1 and"),
        (lambda: MOBILENET_V2.options({"output_stride": 12}, {}, {}), "of 2, 4, 8, 16 or 32, found 6 and 12"),
        (lambda: MOBILENET_V2.options({"depth_multiplier": 0.25}, {}, {}), "that differ, found 8"),
        (lambda: MOBILENET_V2.options({"expand_ratio": 4.1}, {}, {}), "no multiple of depth_divisible_by=8"),
        (
            lambda: MOBILENET_V2.config(MODELS.make("mobilenet_v2", outputs=2, top=999), {}, []),
            "thins all layers by one multiplier",
        ),
        (
            lambda: by_family("mobilenet_v2", "timm").keys(MODELS.make("mobilenet_v2", outputs=2)),
            "timm's MobileNetV2 has padding='symmetric', found 'same'",
        ),
        (lambda: BIT_HF.options({"width_factor": 3}, {}, {}), "width_factor is 3; jaxfer reads this family with"),
        (
            lambda: BIT_HF.options({"global_padding": "VALID"}, {}, {}),
            "of null or 'SAME', found 'VALID'",
        ),
        (
            lambda: BIT_HF.options({"depths": [1, 2]}, {}, {}),
            "for the 2 stages in depths, found [256, 512",
        ),
        (
            lambda: BIT_HF.config(MODELS.make("bit", outputs=2, kernel_epsilon=1e-10), {}, []),
            "transformers' BiT has kernel_epsilon=1e-08; this model has kernel_epsilon=1e-10",
        ),
        (
            lambda: by_family("bit", "google").config(make("bit_bottleneck")[1], {}, []),
            "this model has block='bottleneck', groups=2, padding='same', kernel_epsilon=1e-08",
        ),
        (
            lambda: by_family("bit", "google").options({}, {}, {"w": (1,)}),
            "a BiT under Google's names (resnet/root_block/standardized_conv2d/kernel, ...), found w",
        ),
        (
            lambda: by_family("mobilenet_v2", "torchvision").options({}, {}, {"w": (1,)}),
            "a MobileNetV2 under torchvision's names",
        ),
    ],
)
def test_what_there_is_no_place_for_is_refused(act, message):
    with pytest.raises(InputError) as error:
        act()
    assert message in str(error.value) and "\n" not in str(error.value)
