"""timm's folders and names: what its config.json states, and the numbers of its ViTs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxfer.errors import InputError
from jaxfer.pretrained import carrying, foreign, timm
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import store
from jaxfer.registry import MODELS
from jaxfer.rules import flatten
from tests.models.tiny import draw
from tests.pretrained.checkpoints import CIFAR, assert_same, begin, config_of

GOLDEN = Path(__file__).parents[1] / "models" / "golden"
# As `timm.models._hub.save_for_hf` writes it.
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 3,
    "num_features": 512,
    "global_pool": "avg",
    "model_args": {"num_classes": 3, "in_chans": 3, "global_pool": "avg"},
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "custom_load": False,
        "input_size": [3, 8, 8],
        "test_input_size": [3, 12, 12],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "num_classes": 3,
    },
    "label_names": ["cat", "dog", "cow"],
}


def config(**changed):
    """CONFIG, fields of pretrained_cfg changed by their own names and others by theirs."""
    inner = {name: value for name, value in changed.items() if name in ("input_size", "interpolation", "mean")}
    inner |= {name: value for name, value in changed.items() if name.startswith("crop")}
    outer = {name: value for name, value in changed.items() if name not in inner}
    return {**CONFIG, **outer, "pretrained_cfg": {**CONFIG["pretrained_cfg"], **inner}}


def test_a_folder_of_a_resnet(tmp_path):
    """The tensors are small; what its config.json states of them and of the images is timm's."""
    port = MODELS.make("resnet", outputs=3, **CIFAR)
    params, state = draw(port)
    tensors = store(params, state, by_family("resnet", "torchvision"), port)
    safetensors.numpy.save_file({key: np.asarray(x) for key, x in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    found = foreign.opened(str(tmp_path), "auto", {})
    images = {name: found.options[name] for name in ("image", "mean", "std", "interpolation", "resize")}
    assert images == {
        "image": (8, 8, 3),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.25, 0.3),
        "interpolation": "bicubic",
        "resize": (8,),  # floor(8 / 0.95)
    }
    assert (found.labels, found.outputs, found.notes) == (("cat", "dog", "cow"), 3, ())
    assert_same(begin(config_of(tmp_path, (8, 8, 3), head="keep")).params, params)
    with pytest.raises(InputError, match="config.model.name is 'vit' here, config.json of .* says 'resnet'"):
        foreign.opened(str(tmp_path), "vit", {})


@pytest.mark.parametrize(
    "changed, resize",
    [
        ({}, [235]),
        (dict(crop_pct=1.0), [224]),
        (dict(crop_mode="squash"), [235, 235]),
        (dict(crop_mode="squash", crop_pct=1), []),
        (dict(crop_pct=None), [256]),
    ],
)
def test_what_is_cut_out(changed, resize):
    """By hand: floor(224 / 0.95) = 235, and 224 / 0.875 = 256 where nothing is stated."""
    assert timm.fields(config(input_size=[3, 224, 224], **changed))["input"]["resize"] == resize


@pytest.mark.parametrize(
    "changed, message",
    [
        (
            dict(architecture="resnetblur18"),
            "timm's architecture 'resnetblur18', which is not supported; jaxfer reads ",
        ),
        (dict(architecture="vit_base_patch16_clip_224"), "'vit_base_patch16_clip_224', which is not supported"),
        (dict(architecture=None), "architecture None, which is not supported"),
        (dict(global_pool="max"), "resnet18 with global_pool='max', which is not supported"),
        (dict(model_args={"output_stride": 8}), "resnet18 with output_stride=8, which is not supported"),
        (dict(model_args=[8]), "expected model_args to be an object, found [8]"),
        (dict(crop_pct="x"), "expected crop_pct in (0, 1], found 'x'"),
        (dict(crop_mode="border"), "found 'border' at 8 x 8 and 'bicubic'"),
        (dict(interpolation="random"), "found 'center' at 8 x 8 and 'random'"),
        (dict(input_size=[3, 8, 4]), "found 'center' at 8 x 4 and 'bicubic'"),
        (dict(input_size=8.5), "input_size[1:] must be a side or a height and a width in pixels"),
        (dict(num_classes=4), "num_classes=4, its head has 3"),
    ],
)
def test_what_is_not_read_is_named(changed, message, tmp_path):
    port = MODELS.make("resnet", outputs=3, **CIFAR)
    tensors = store(*draw(port), by_family("resnet", "torchvision"), port)
    safetensors.numpy.save_file({key: np.asarray(x) for key, x in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config(**changed)))
    with pytest.raises(InputError) as error:
        foreign.opened(str(tmp_path), "auto", {})
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["timm_vit", "timm_deit"])
def test_its_vit_gives_its_logits(name, tmp_path):
    """Written by golden/make_timm.py from timm's own models: fused query, key and value, and two heads of DeiT."""
    golden = np.load(GOLDEN / f"{name}.npz")
    shapes, ends = json.loads(golden["index"].tobytes()), 0
    tensors = {}
    for key, shape in shapes.items():
        tensors[key] = golden["weights"][ends : ends + math.prod(shape)].astype(np.float32).reshape(shape)
        ends += math.prod(shape)
    file = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(InputError, match="shapes don't determine the heads; set config.model.heads"):
        foreign.opened(str(file), "vit", {})
    found = foreign.opened(str(file), "vit", {"heads": 3, "image": (8, 12, 3)})
    options = {**found.options, "image": (8, 12, 3)}
    assert options["distillation"] == ("head" if name == "timm_deit" else "none") and options["epsilon"] == 1e-6
    port = MODELS.make("vit", outputs=5, **options)
    leaves = flatten({"params": jax.eval_shape(port.init, jax.random.key(0), port.example(2))[0]})
    moved = carrying.carry(found, port, leaves, reset=[], differs=[])
    assert moved.ledger["params/block_1/attn/value/bias"]["from"] == "blocks.1.attn.qkv.bias"
    x = golden["x"].astype(np.float32).transpose(0, 2, 3, 1)
    logits = port.apply(moved.params, {}, {"image": x})[0]
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-4 * np.abs(golden["logits"]).max())


def test_the_flat_file_of_older_versions():
    flat = {**CONFIG["pretrained_cfg"], "architecture": "resnet18", "input_size": [3, 224, 224]}
    assert timm.is_timm(flat) and not timm.is_timm({"architecture": "resnet20", "family": "cifar_resnet"})
    assert timm.fields(flat)["input"] == timm.fields(config(input_size=[3, 224, 224]))["input"]


def test_heads_are_the_architectures():
    stated = config(architecture="deit_small_distilled_patch16_224", global_pool="token", model_args=None)
    found = timm.fields(stated)
    assert (found["family"], found["key_layout"], found["heads"]) == ("vit", "timm", 6)
