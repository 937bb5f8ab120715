"""The image processors that ours are compared with, tiny; golden values and the live comparison share them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfer.models.port import Port
from jaxfer.pretrained.families import by_model_type
from jaxfer.registry import MODELS

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of Pillow's numbers
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])

# {case: (config.json, preprocessor_config.json but for the filter)}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit": (
        dict(model_type="vit", image_size=[8, 6], patch_size=2),
        dict(image_processor_type="ViTImageProcessor", size={"height": 8, "width": 6}),
    ),
    "deit": (
        dict(model_type="deit", image_size=[8, 6], patch_size=2),
        dict(
            image_processor_type="DeiTImageProcessor",
            size={"height": 13, "width": 9},
            crop_size={"height": 8, "width": 6},
            **IMAGENET,
        ),
    ),
    "convnext": (
        dict(model_type="resnet"),
        dict(feature_extractor_type="ConvNextFeatureExtractor", size=7, crop_pct=0.7, **IMAGENET),
    ),
    "mobilenet_v1": (
        dict(model_type="mobilenet_v1"),
        dict(image_processor_type="MobileNetV1ImageProcessor", size=11, crop_size={"height": 8, "width": 6}),
    ),
}


def photos() -> list[np.ndarray]:
    """uint8 noise, none square: smaller than every size above, taller and wider."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((5, 6), (31, 14), (13, 40))]


def port_of(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Port:
    """The port that the two files describe."""
    layout = by_model_type(config["model_type"])
    return MODELS.make(layout.family, outputs=2, **layout.options(config, preprocessor, {}))
