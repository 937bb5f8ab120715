"""Swin of transformers: what `_swin.py`, `_swin_hf.py` and `swin.py` of our families read and write."""

import re

import torch
from transformers import SwinConfig, SwinForImageClassification, Swinv2Config, Swinv2ForImageClassification

from tests.parity.families import Case

SMALL = dict(
    embed_dim=6, num_heads=[2, 3], depths=[2, 2], window_size=2, mlp_ratio=2.0, patch_size=4, drop_path_rate=0.0
)
SHORT = {**SMALL, "depths": [2, 1]}  # PyTorch's own ten steps of four blocks of V2 differ in float32 and float64
STATED = r".*relative_(position_index|coords_table)"


def smooth(model):
    """No channel of a position MLP is near its ReLU's kink, where rounding decides about a step."""
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            if re.fullmatch(r".*(continuous_position_bias|cpb)_mlp\.0\.(weight|bias)", name):
                leaf.copy_(leaf.sign() * (0.5 if leaf.ndim == 2 else 0.25) + 0.02 * leaf)


def case(v2=False, image=(224, 224, 3), rate=0.05, **config):
    kind, build = (Swinv2Config, Swinv2ForImageClassification) if v2 else (SwinConfig, SwinForImageClassification)
    small = "embed_dim" in config
    outputs = 3 if small else 1000
    stated = kind(num_labels=outputs, num_channels=image[2], image_size=list(image[:2]), **config)
    prefix = "swinv2" if v2 else "swin"
    units, shaped = {"stem": f"{prefix}.embeddings"}, {"stem": grid(image, stated.patch_size)}
    for stage, depth in enumerate(stated.depths):
        for i in range(depth):
            name = f"block_{len(units) - 1}"
            units[name] = f"{prefix}.encoder.layers.{stage}.blocks.{i}"
            shaped[name] = grid(image, stated.patch_size * 2**stage)
    return Case(
        layout=("swin", "hf"),
        make=lambda: build(stated),
        units=units,
        shaped=shaped,
        image=image,
        outputs=outputs,
        last=r".*(mlp\.fc2|o_proj)" if not v2 else r".*layernorm_(before|after)",
        gain=1.0 if small and not v2 else 0.5,
        rate=rate if small else 0.0,
        prepared=smooth,
        unread=STATED,
        golden=small,
    )


def grid(image, patch):
    """Their tokens as a map."""
    rows, columns = (-(-side // patch) for side in image[:2])
    return lambda x: x.reshape(len(x), rows, columns, x.shape[-1])


CASES = {
    "odd": case(image=(28, 20, 3), rate=0.2, **SMALL),
    "window_3": case(image=(24, 24, 2), rate=0.2, qkv_bias=False, layer_norm_eps=1e-3, **{**SMALL, "window_size": 3}),
    "v2": case(True, image=(24, 32, 2), rate=0.2, **{**SHORT, "window_size": 4}),
    "v2_cut": case(True, image=(24, 24, 1), rate=0.2, pretrained_window_sizes=[3, 2], **{**SHORT, "window_size": 4}),
    "tiny": case(),
    "v2_tiny": case(True, image=(256, 256, 3), window_size=8),
}
