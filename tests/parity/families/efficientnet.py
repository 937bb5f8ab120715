from torch import nn
from transformers import EfficientNetConfig, EfficientNetForImageClassification

from tests.parity.families import Case

TINY = dict(
    width_coefficient=0.25,
    depth_coefficient=1.0,
    depth_divisor=2,
    in_channels=[32, 12, 20, 28],
    out_channels=[12, 20, 28, 36],
    kernel_sizes=[3, 3, 5, 3],
    strides=[1, 2, 2, 1],
    num_block_repeats=[1, 2, 2, 1],
    expand_ratios=[1, 3, 2, 3],
    hidden_dim=320,
    squeeze_expansion_ratio=0.5,
)


def like_ours(model):
    """Our weight of a new batch: theirs, 0.99, was TensorFlow's of the old ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1


def case(image, outputs=3, rate=0.05, golden=False, blocks=6, **config):
    return Case(
        layout=("efficientnet", "hf"),
        make=lambda: EfficientNetForImageClassification(
            EfficientNetConfig(**config, num_channels=image[2], num_labels=outputs)
        ),
        units={
            "stem": "efficientnet.embeddings",
            **{f"block_{i}": f"efficientnet.encoder.blocks.{i}" for i in range(blocks)},
            "top": "efficientnet.encoder.top_activation",
        },
        image=image,
        outputs=outputs,
        last=r".*\.project_bn",
        gain=1.0,
        rate=rate,
        still=r".*/norm_project/bias",
        prepared=like_ours,
        golden=golden,
    )


CASES = {
    "odd": case((21, 30, 3), rate=0.1, golden=True, **TINY),
    "symmetric": case((24, 17, 1), rate=0.0, outputs=1, depthwise_padding=[1, 3], **{**TINY, "hidden_act": "relu6"}),
    "b0": case(
        (224, 224, 3), rate=0.0, outputs=1000, blocks=16, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280
    ),
}
