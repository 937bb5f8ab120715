"""What a layout stores, transformers loads: no key missing or left over, the same tensors and the same logits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import save_file
from transformers import AutoImageProcessor

from jaxfer.data.encodings.image import preprocess
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import store
from jaxfer.registry import MODELS
from tests.models.tiny import draw

from .reference import channels_first, compare, images, tensors

VIT = dict(patch=3, width=15, layers=2, heads=3, mlp_width=22, image=(6, 9, 3), epsilon=1e-12)
CASES = {
    "resnet_basic": ("resnet", dict(stage_sizes=(2, 1), width=5, image=(33, 21, 3))),
    "resnet_bottleneck": (
        "resnet",
        dict(stage_sizes=(1, 2), width=4, block="bottleneck", stride_in_1x1=True, image=(33, 21, 3)),
    ),
    "vit": ("vit", VIT),
    "vit_without_qkv_bias": ("vit", dict(VIT, qkv_bias=False)),
    "deit": ("vit", dict(VIT, distillation="token", resize=(8, 11))),
    "deit_teacher": ("vit", dict(VIT, distillation="head")),
    "mobilenet_v1": ("mobilenet_v1", dict(depth_multiplier=0.05, min_depth=6, image=(37, 30, 3), resize=(40,))),
}


@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_it(case, tmp_path):
    family, options = CASES[case]
    layout, port = by_family(family, "hf"), MODELS.make(family, outputs=3, **options)
    params, state = draw(port)
    stored = store(params, state, layout, port)
    config = layout.config(port, options, ["cat", "dog", "eel"])
    arrays = {key: np.asarray(value) for key, value in stored.items()}
    save_file(arrays, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(layout.preprocessor(port)))
    make = getattr(transformers, config["architectures"][0])
    model, report = make.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "eel"}
    again = tensors(model, tmp_path / "again")
    assert again.keys() == stored.keys()
    for key, value in stored.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)
    x = images(options["image"])
    with torch.no_grad():
        expected = model.eval()(channels_first(x)).logits.numpy()
    found, _ = port.apply(params, state, {"image": x})
    compare({"logits": np.asarray(found)}, {"logits": expected}, scaled=False)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    photo = np.random.default_rng(0).integers(0, 256, (50, 41, 3)).astype(np.uint8)
    theirs = np.asarray(processor(Image.fromarray(photo), return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
    assert np.abs(preprocess(photo, port.encoding) - theirs).max() <= 1 / 255 / min(port.encoding.std)
