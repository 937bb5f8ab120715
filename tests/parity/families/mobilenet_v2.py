import torch
from torch import nn
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

from tests.parity.families import Case

UNITS = {
    "stem": "mobilenet_v2.conv_stem.first_conv",
    "block_0": "mobilenet_v2.conv_stem",
    **{f"block_{i + 1}": f"mobilenet_v2.layer.{i}" for i in range(16)},
    "top": "mobilenet_v2.conv_1x1",
}
TINY = dict(depth_multiplier=0.1, depth_divisible_by=1, min_depth=2, expand_ratio=3.0, finegrained_output=False)


def still(model):
    """ReLU6 away from its kinks (`soften` of test_sgd.py says why), where one follows, and our weight of a new batch:
    theirs, 0.997, was TensorFlow's of the old ones."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
            if "reduce_1x1" not in name:
                with torch.no_grad():
                    module.bias.add_(2)


def case(image, outputs=3, rate=0.05, golden=False, **config):
    return Case(
        layout=("mobilenet_v2", "hf"),
        make=lambda: MobileNetV2ForImageClassification(
            MobileNetV2Config(**config, num_channels=image[2], num_labels=outputs, classifier_dropout_prob=0.0)
        ),
        units=UNITS,
        image=image,
        outputs=outputs,
        last=r".*\.reduce_1x1\.normalization",
        gain=0.3,
        rate=rate,
        # A norm after a 1x1 convolution takes away the bias before it.
        still=r".*/norm_project/bias",
        prepared=still if rate else lambda model: None,
        golden=golden,
    )


CASES = {
    "odd": case((40, 33, 3), rate=0.1, golden=True, **TINY),
    "first_expands": case((65, 50, 1), rate=0.0, outputs=1, first_layer_is_expansion=False, tf_padding=False, **TINY),
    "dilated": case((70, 49, 3), rate=0.0, output_stride=8, **TINY),
    "fine": case((64, 96, 3), rate=0.0, depth_multiplier=0.35),
    "multiplier_1.4": case((224, 224, 3), rate=0.0, outputs=1000, depth_multiplier=1.4),
}
