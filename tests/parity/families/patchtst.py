import numpy as np
import torch
from transformers import PatchTSTConfig, PatchTSTForClassification

from jaxfer.models.patchtst import sinusoids
from tests.parity.families import Case

ODD = dict(
    context_length=11,
    num_input_channels=3,
    patch_length=4,
    patch_stride=3,
    d_model=18,
    num_hidden_layers=2,
    num_attention_heads=3,
    ffn_dim=13,
    num_targets=3,
)


def placed(model):
    """Sinusoids are no parameters: back to what they were before the model was drawn."""
    table = model.model.encoder.positional_encoder.position_enc
    if model.config.positional_encoding_type == "sincos":
        with torch.no_grad():
            table.copy_(torch.from_numpy(sinusoids(*table.shape)))


def case(rate=0.05, golden=False, **config):
    full = PatchTSTConfig(**config)
    units = {"stem": "model.encoder.positional_encoder"}
    units |= {f"block_{i}": f"model.encoder.layers.{i}" for i in range(full.num_hidden_layers)}
    return Case(
        layout=("patchtst", "hf"),
        make=lambda: PatchTSTForClassification(full),
        units=units,
        series=(full.context_length, full.num_input_channels),
        outputs=full.num_targets,
        last=r".*\.(out_proj|ff\.3)",
        rate=rate,
        shaped=dict.fromkeys(units, lambda x: np.moveaxis(x, 3, 1)),  # undoes `channels_last`
        prepared=placed,
        logits=lambda output: output.prediction_logits,
        golden=golden,
    )


CASES = {
    "odd": case(golden=True, **ODD),
    "cls": case(
        norm_type="layernorm",
        pre_norm=False,
        positional_encoding_type="random",
        use_cls_token=True,
        scaling="mean",
        bias=False,
        activation_function="relu",
        **{**ODD, "d_model": 15},
    ),
    "mixing": case(channel_attention=True, share_embedding=False, pooling_type="max", scaling=None, **ODD),
    # PatchTST/64 at its published size.
    "64": case(
        rate=0.0,
        context_length=512,
        num_input_channels=2,
        patch_length=16,
        patch_stride=8,
        d_model=128,
        num_hidden_layers=3,
        num_attention_heads=16,
        ffn_dim=256,
        num_targets=3,
    ),
}
