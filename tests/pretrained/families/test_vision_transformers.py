"""Swin, BEiT and DINOv3: key tables, options from the files' own facts, what export writes and what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.pretrained import bare, timm
from jaxfer.pretrained.adapter import in_memory
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS
from tests.models.tiny import draw
from tests.pretrained.families.test_image_families import shapes

SWIN, TORCHVISION, TIMM = (by_family("swin", name) for name in ("hf", "torchvision", "timm"))
BEIT, DINOV3 = by_family("beit", "hf"), by_family("dinov3", "hf")
WINDOWS = dict(stage_sizes=(2, 1), width=4, heads=(2, 1), windows=(3, 3), patch=2, mlp_ratio=2.0, image=(24, 24, 3))
PATCHES = dict(patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 6, 3))
CASES = {
    "swin": (SWIN, WINDOWS),
    "swin_plain": (SWIN, dict(WINDOWS, qkv_bias=False, epsilon=1e-6, dropout=0.1)),
    "swin_v2": (SWIN, dict(WINDOWS, v2=True)),
    "swin_v2_cut": (SWIN, dict(WINDOWS, v2=True, windows=(8, 6), reaches=(4, 4))),
    "swin_torchvision": (TORCHVISION, WINDOWS),
    "swin_torchvision_v2": (TORCHVISION, dict(WINDOWS, v2=True)),
    "swin_timm": (TIMM, WINDOWS),
    "swin_timm_v2": (TIMM, dict(WINDOWS, v2=True)),
    "beit": (BEIT, PATCHES),
    "beit_shared": (BEIT, dict(PATCHES, relative="shared", pool="cls")),
    "beit_none": (BEIT, dict(PATCHES, relative="none", stochastic_depth=0.1)),
    "dinov3": (DINOV3, dict(PATCHES, image=(6, 9, 3), registers=2)),
    "dinov3_gated": (DINOV3, dict(PATCHES, gated=True, activation="silu", registers=0, qkv_bias=False)),
}
WRITTEN = [case for case, (layout, _) in CASES.items() if layout is not TIMM]
BARE = [case for case, (layout, _) in CASES.items() if layout.bare is not None]


def make(case):
    layout, options = CASES[case]
    return layout, MODELS.make(layout.family, outputs=3, **options)


@pytest.mark.parametrize("case", CASES)
def test_stored_and_read_again_is_bitwise_the_same(case):
    layout, port = make(case)
    params, state = draw(port)
    found = convert(store(params, state, layout, port), layout, port, shapes(port))
    assert not found.fresh and set(found.unused) == set(layout.constants(port))
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


@pytest.mark.parametrize("case", WRITTEN)
def test_what_export_writes_reads_as_the_same_model(case):
    layout, port = make(case)
    theirs = {key: np.shape(value) for key, value in store(*draw(port), layout, port).items()}
    config = layout.config(port, {}, ["cat", "dog", "eel"])
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "eel"}
    options = layout.options(config, layout.preprocessor(port), theirs)
    assert MODELS.make(layout.family, outputs=3, **options) == port


@pytest.mark.parametrize("case", BARE)
def test_without_a_config_shapes_say_the_model(case):
    layout, port = make(case)
    theirs = {key: np.shape(value) for key, value in store(*draw(port), layout, port).items()}
    given = {name: getattr(port.options, name) for name in ("heads", "windows") if hasattr(port.options, name)}
    plain = {key.removeprefix("swin.").removeprefix("swinv2.").removeprefix("beit."): x for key, x in theirs.items()}
    config, left = bare.facts(layout, plain, given, {})
    options = {**layout.options(config, {}, theirs), **given, **{"image": port.options.image}}
    assert "epsilon" in left
    unknown = ("epsilon", "dropout", "reaches", "stochastic_depth")
    for name, value in port.options.network.items():
        assert name in unknown or options.get(name, value) == value, name


@pytest.mark.parametrize("v2", [False, True])
def test_torchvision_keeps_what_a_window_determines(v2):
    layout, port = make("swin_torchvision_v2" if v2 else "swin_torchvision")
    stored = store(*draw(port), layout, port)
    index = stored["features.1.0.attn.relative_position_index"].reshape(9, 9)
    assert index[0, 0] == index[4, 4] == 12 and index[0, 8] == 0 and index[8, 0] == 24 and index[0, 1] == 11
    if v2:  # the key's third of the bias is zero there
        bias = stored["features.1.0.attn.qkv.bias"]
        assert bias.shape == (12,) and not bias[4:8].any() and bias[:4].any()
        np.testing.assert_allclose(stored["features.1.0.attn.relative_coords_table"][0, 0, 0], [-np.log2(9) / 3] * 2)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("swin_tiny_patch4_window7_224", {}),
        ("swin_s3_base_224", {}),
        ("swinv2_tiny_window16_256", {"windows": (16, 16, 256)}),
        ("swinv2_base_window12to24_192to384", {"windows": (24, 12, 192)}),
    ],
)
def test_timms_architectures(name, fields):
    found = timm.fields({"architecture": name})
    assert (found["family"], found["key_layout"]) == ("swin", "timm")
    assert {field: found[field] for field in fields} == fields


def test_the_windows_of_timms_v2_are_cut_to_its_maps():
    layout, port = make("swin_timm_v2")
    theirs = {key: np.shape(value) for key, value in store(*draw(port), layout, port).items()}
    stated = {"windows": (16, 12, 192), "input": {"size": [32, 32]}}
    options = layout.options(stated, {}, theirs)
    assert options["windows"] == (16, 8) and options["reaches"] == (12, 12)


def test_names_that_transformers_changes_in_memory():
    names = {
        (
            SWIN,
            "swin.encoder.layers.0.blocks.1.attention.self.query",
        ): "swin.encoder.layers.0.blocks.1.attention.q_proj",
        (SWIN, "swin.encoder.layers.0.blocks.1.output.dense"): "swin.encoder.layers.0.blocks.1.mlp.fc2",
        (SWIN, "swinv2.encoder.layers.0.blocks.1.output.dense"): "swinv2.encoder.layers.0.blocks.1.output.dense",
        (BEIT, "beit.encoder.layer.0.attention.output.dense"): "beit.layers.0.attention.o_proj",
        (DINOV3, "layer.0.attention.q_proj"): "model.layer.0.attention.q_proj",
    }
    for (layout, name), expected in names.items():
        assert in_memory(layout, name) == expected


def written(case, **options):
    layout, given = CASES[case]
    return layout.config(MODELS.make(layout.family, outputs=2, **{**given, **options}), {}, [])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: SWIN.options({"use_absolute_embeddings": True}, {}, {}), "with use_absolute_embeddings=False only"),
        (lambda: SWIN.options({"patch_size": [4, 2]}, {}, {}), "expected square patches, found patch_size=[4, 2]"),
        (lambda: SWIN.options({"depths": [1, 2]}, {}, {}), "for the 2 stages of depths, found (3, 6, 12, 24)"),
        (lambda: written("swin", image=(24, 8, 3)), "which the map holds, and shifts windows along both axes or none"),
        (lambda: written("swin", image=(24, 6, 3)), "found windows=(3, 3) and maps=((12, 3), (6, 2))"),
        (lambda: written("swin", windows=(3, 2)), "one window size"),
        (lambda: written("swin_v2", windows=(8, 8)), "cut to the map"),
        (lambda: written("swin_torchvision", epsilon=1e-6), "use the layout 'hf'"),
        (lambda: written("swin_timm"), "use --format=hf"),
        (lambda: TORCHVISION.options({}, {}, {"w": (1,)}), "a Swin under torchvision's names"),
        (lambda: bare.facts(SWIN, {"a": (1,)}, {}, {}), "needs embeddings.patch_embeddings.projection.weight"),
        (
            lambda: MODELS.make("swin", outputs=2, heads=(3,)),
            "heads must have one for each of the 4 stages, found (3,)",
        ),
        (lambda: MODELS.make("swin", outputs=2, heads=(3, 6, 12, 25)), "found 25 of 768 channels"),
        (lambda: MODELS.make("swin", outputs=2, reaches=(7, 7, 7, 7)), "needs v2=True"),
        (lambda: MODELS.make("swin", outputs=2, image=(30, 28, 3)), "patch must divide the image's height and width"),
        (lambda: BEIT.options({"use_absolute_position_embeddings": True}, {}, {}), "embeddings=False only"),
        (
            lambda: BEIT.options(
                {"use_relative_position_bias": True, "use_shared_relative_position_bias": True}, {}, {}
            ),
            "both are set",
        ),
        (lambda: BEIT.options({"image_size": [32, 48]}, {}, {}), "expected square patches and images"),
        (lambda: BEIT.options({"layer_scale_init_value": 0}, {}, {}), "a BEiT with layer scales"),
        (lambda: written("beit", image=(6, 9, 3)), "has square images"),
        (lambda: BEIT.keys(MODELS.make("beit", outputs=2, **PATCHES, qkv_bias=False)), "has qkv_bias=False"),
        (lambda: MODELS.make("beit", outputs=2, **PATCHES, last=2), "last=2 needs pool='cls', found 'mean'"),
        (lambda: DINOV3.options({"key_bias": True}, {}, {}), "with key_bias=False only"),
        (lambda: DINOV3.options({"query_bias": False}, {}, {}), "to be the same, found False and True"),
        (lambda: DINOV3.options({"patch_size": [4, 2]}, {}, {}), "expected square patches"),
        (lambda: written("dinov3", pool="cls+mean"), "this model has pool='cls+mean' and last=1"),
        (lambda: MODELS.make("dinov3", outputs=2, width=18, heads=3), "a multiple of 4 channels, found width=18"),
        (lambda: MODELS.make("dinov3", outputs=2, registers=-1), "registers must be a number of tokens from 0 on"),
    ],
)
def test_what_there_is_no_place_for_is_refused(act, message):
    with pytest.raises(InputError) as error:
        act()
    assert message in str(error.value) and "\n" not in str(error.value)
