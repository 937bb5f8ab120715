"""Image preprocessing against transformers' processors (their PIL backend): every filter, defaults, sizes, export.

How far their torchvision backend, where installed, is from the other, `jaxfer/data/encodings/image.py` says.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor

from jaxfer.data.encodings.image import preprocess
from jaxfer.pretrained.families import by_model_type
from tests.pretrained.processors import CASES, FILTERS, port_of

FULL = {
    # Fields that the file leaves out are the class's own, which is the family's where it does not say.
    **{f"{kind}_defaults": (dict(model_type=kind), dict(do_resize=True)) for kind in ("vit", "deit", "mobilenet_v1")},
    "resnet_defaults": (dict(model_type="resnet"), dict(do_resize=True)),  # ConvNext's: 384, nothing cut off
    "vit_nulls": (dict(model_type="vit"), dict(image_processor_type="ViTImageProcessorFast", crop_size=None)),
    "resnet_50": (
        dict(model_type="resnet"),
        dict(image_processor_type="ConvNextImageProcessor", size={"shortest_edge": 224}, crop_pct=0.875),
    ),
    "vit_by_edge": (
        dict(model_type="vit"),
        dict(size={"shortest_edge": 248}, do_center_crop=True, crop_size={"height": 224, "width": 224}),
    ),
    "other_scales": (
        dict(model_type="mobilenet_v1"),
        dict(size=[40, 51], crop_size=[33, 32], rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3),
    ),
    "not_normalised": (dict(model_type="resnet"), dict(size=33, do_normalize=False)),
}
CASES = {**CASES, **FULL}


def photos():
    """Smooth and noisy ones, as small as a thumbnail and larger than every target; one square."""
    rng = np.random.default_rng(1)
    for height, width in ((23, 40), (640, 427), (300, 500), (256, 256)):
        y, x = np.mgrid[:height, :width]
        waves = np.stack([np.sin(y / 17 + x / 11 + channel) for channel in range(3)], axis=2) * 90 + 127
        yield (waves + rng.normal(0, 25, waves.shape)).clip(0, 255).astype(np.uint8)


def answers(folder, config, preprocessor):
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return [processor(Image.fromarray(photo))["pixel_values"][0].transpose(1, 2, 0) for photo in photos()]


@pytest.mark.parametrize("case", CASES)
def test_preprocessing_is_transformers(case, tmp_path):
    config, preprocessor = CASES[case]
    numbers = [None] if case.endswith("_defaults") else range(len(FILTERS))
    for number in numbers:
        stated = preprocessor if number is None else {**preprocessor, "resample": number}
        port = port_of(config, stated)
        written = by_model_type(config["model_type"]).preprocessor(port)
        expected = answers(tmp_path, config, stated)
        for photo, theirs, exported in zip(photos(), expected, answers(tmp_path, config, written), strict=True):
            found = preprocess(photo, port.encoding)
            assert found.shape == theirs.shape == exported.shape
            assert np.abs(found - theirs).max() <= 1 / 255 and np.abs(found - exported).max() <= 1 / 255
