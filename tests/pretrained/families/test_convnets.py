"""ConvNeXt, DenseNet, VGG and AlexNet: what names and shapes say of them, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from jaxfer.errors import InputError
from jaxfer.pretrained import foreign, timm
from jaxfer.pretrained.families import by_family, by_model_type
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS
from tests.models.tiny import draw
from tests.pretrained.families.test_image_families import make, shapes

HF = by_family("convnext", "hf")
DENSENET, VGG, ALEXNET = (by_family(name, "torchvision") for name in ("densenet", "vgg", "alexnet"))


def sizes(case):
    layout, port = make(case)
    return {key: np.shape(value) for key, value in store(*draw(port), layout, port).items()}


def test_absent_fields_have_the_librarys_defaults():
    first = HF.options({"model_type": "convnext"}, {}, {})
    assert (first["stage_sizes"], first["widths"], first["patch"]) == ((3, 3, 9, 3), (96, 192, 384, 768), 4)
    assert (first["grn"], first["head_epsilon"], first["layer_scale_init"]) == (False, 1e-12, 1e-6)
    second = by_model_type("convnextv2").options({"model_type": "convnextv2", "drop_path_rate": 0.1}, {}, {})
    assert second["grn"] and second["stochastic_depth"] == 0.1 and "layer_scale_init" not in second


@pytest.mark.parametrize("case", ["convnext", "convnext_v2", "convnext_torchvision", "convnext_v2_timm"])
def test_a_bare_file_of_a_convnext(case, tmp_path):
    layout, port = make(case)
    tensors = {key: np.asarray(x) for key, x in store(*draw(port), layout, port).items()}
    safetensors.numpy.save_file(tensors, tmp_path / "weights.safetensors")
    found = foreign.opened(str(tmp_path / "weights.safetensors"), "convnext", {})
    assert found.layout == layout and found.outputs == 3
    for name in ("stage_sizes", "widths", "patch", "grn"):
        assert found.options[name] == getattr(port.options, name)
    assert ("head_epsilon" in found.soft) == (layout.name == "hf")


@pytest.mark.parametrize(
    ("name", "family", "layout", "epsilon"),
    [
        ("convnext_tiny", "convnext", "timm", None),
        ("convnext_xxlarge", "convnext", "timm", 1e-5),
        ("convnextv2_atto", "convnext", "timm", None),
        ("densenet161", "densenet", "torchvision", None),
    ],
)
def test_timms_architectures(name, family, layout, epsilon):
    found = timm.fields({"architecture": name})
    assert (found["family"], found["key_layout"], found.get("norm_eps")) == (family, layout, epsilon)


@pytest.mark.parametrize("name", ["convnext_tiny_hnf", "convnext_large_mlp", "convnext_atto_ols", "densenetblur121d"])
def test_other_networks_of_timm_are_refused(name):
    with pytest.raises(InputError, match=f"timm's architecture '{name}', which is not supported"):
        timm.fields({"architecture": name})


def test_dense_layers_of_timm_may_be_convolutions():
    layout, port = make("convnext_timm")
    params, state = draw(port)
    stored = store(params, state, layout, port)
    wide = {key: x[..., None, None] if re.search(r"mlp\.fc\d\.weight", key) else x for key, x in stored.items()}
    found = convert(wide, layout, port, shapes(port))
    assert not found.fresh
    np.testing.assert_array_equal(
        found.params["block_0"]["mlp"]["fc1"]["kernel"], params["block_0"]["mlp"]["fc1"]["kernel"]
    )


def test_the_dotted_names_of_published_densenets():
    layout, port = make("densenet")
    params, state = draw(port)
    dotted = {
        re.sub(r"(denselayer\d\.(norm|conv))", r"\1.", key): value
        for key, value in store(params, state, layout, port).items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.running_mean" in dotted
    options = layout.options({}, {}, {key: np.shape(value) for key, value in dotted.items()})
    assert MODELS.make("densenet", outputs=3, **{**options, "image": port.encoding.size}).module == port.module
    found = convert(dotted, layout, port, shapes(port))
    assert not found.fresh and not found.unused
    for unit, leaves in params.items():
        assert found.params[unit].keys() == leaves.keys()
    np.testing.assert_array_equal(found.params["block_2"]["conv_1"]["kernel"], params["block_2"]["conv_1"]["kernel"])


@pytest.mark.parametrize(
    ("stages", "norm", "numbers"),
    [
        ((2, 2, 3, 3, 3), False, (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),  # torchvision's vgg16
        ((1, 1, 2, 2, 2), True, (0, 4, 8, 11, 15, 18, 22, 25)),  # its vgg11_bn
    ],
)
def test_the_numbers_of_a_vggs_layers(stages, norm, numbers):
    """Written out from what `print(vgg16())` shows."""
    port = MODELS.make("vgg", outputs=3, stage_sizes=stages, widths=(2, 3, 4, 5, 5), norm=norm, places=1, hidden=6)
    table = VGG.keys(port)
    assert [table[f"params/{unit}/conv/kernel"].name for unit in port.units[: len(numbers)]] == [
        f"features.{number}.weight" for number in numbers
    ]
    stored = {key: np.shape(value) for key, value in store(*draw(port), VGG, port).items()}
    found = VGG.options({}, {}, stored)
    assert (found["stage_sizes"], found["widths"], found["norm"]) == (stages, (2, 3, 4, 5, 5), norm)


@pytest.mark.parametrize("case", ["densenet", "vgg_norm", "alexnet", "convnext_torchvision"])
def test_a_folder_of_ours_is_read(case, tmp_path):
    layout, port = make(case)
    tensors = {key: np.asarray(x) for key, x in store(*draw(port), layout, port).items()}
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(layout.config(port, {}, ["cat", "dog", "eel"])))
    found = foreign.opened(str(tmp_path), "auto", {})
    assert found.layout == layout and found.labels == ("cat", "dog", "eel")
    assert MODELS.make(layout.family, outputs=3, **found.options).module == port.module


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: HF.options({"depths": [1, 2]}, {}, {}), "expected depths and hidden_sizes for the same stages"),
        (lambda: HF.options({"num_stages": 3}, {}, {}), "with num_stages=3"),
        (lambda: HF.options({"hidden_act": "relu"}, {}, {}), "with hidden_act='gelu' only"),
        (lambda: HF.options({"patch_size": [4, 2]}, {}, {}), "expected square patches, found patch_size=[4, 2]"),
        (lambda: HF.options({"layer_scale_init_value": 0}, {}, {}), "layer_scale_init_value is 0"),
        (lambda: by_family("convnext", "torchvision").keys(make("convnext_v2")[1]), "use the layout 'hf'"),
        (lambda: by_family("convnext", "torchvision").options({}, {}, {"w": (1,)}), "under torchvision's names"),
        (lambda: by_family("convnext", "timm").config(make("convnext_timm")[1], {}, []), "use --format=hf"),
        (lambda: DENSENET.options({}, {}, {"w": (1,)}), "a DenseNet under torchvision's names"),
        (
            lambda: DENSENET.options({}, {}, {**sizes("densenet"), "features.conv1.weight": (5, 5, 3, 3)}),
            "a stem of several convolutions, which is not supported",
        ),
        (lambda: VGG.options({}, {}, sizes("alexnet")), "a VGG under torchvision's names"),
        (lambda: ALEXNET.options({}, {}, sizes("vgg")), "an AlexNet under torchvision's names"),
        (lambda: VGG.options({}, {}, {**sizes("vgg"), "classifier.0.weight": (6, 15)}), "no square of places with 5"),
        (lambda: VGG.options({}, {}, {"features.0.weight": (4, 3, 3, 3)}), "classifier.0.weight, found none"),
        (lambda: MODELS.make("convnext", outputs=2, widths=(4,)), "a width for each of the 4 stages, found (4,)"),
        (lambda: MODELS.make("convnext", outputs=2, image=(31, 64, 3)), "smaller than the 32 pixels that patch=4"),
        (lambda: MODELS.make("densenet", outputs=2, image=(28, 64, 3)), "smaller than the 29 pixels that 4 stages"),
        (lambda: MODELS.make("vgg", outputs=2, image=(31, 64, 3)), "smaller than the 32 pixels that 5 stages need"),
        (lambda: MODELS.make("vgg", outputs=2, widths=(4,)), "a width for each of the 5 stages, found (4,)"),
        (lambda: MODELS.make("alexnet", outputs=2, image=(62, 64, 3)), "smaller than the 63 pixels that AlexNet needs"),
        (lambda: MODELS.make("alexnet", outputs=2, widths=(4,)), "a width for each of the 5 convolutions, found (4,)"),
    ],
)
def test_what_there_is_no_place_for_is_refused(act, message):
    with pytest.raises(InputError) as error:
        act()
    assert message in str(error.value) and "\n" not in str(error.value)
