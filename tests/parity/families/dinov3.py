from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.modeling_outputs import ImageClassifierOutput

from tests.parity.families import Case

SMALL = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22, patch_size=4, layerscale_value=0.7
)


class Classifier(DINOv3ViTModel):
    """transformers' backbone, and the layer that an export keeps beside it."""

    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, pixel_values):
        return ImageClassifierOutput(logits=self.classifier(super().forward(pixel_values).pooler_output))


def case(image=(224, 256, 3), rate=0.1, **config):
    stated = DINOv3ViTConfig(num_labels=3, num_channels=image[2], pos_embed_rescale=None, **config)
    units = {"stem": "embeddings", **{f"block_{i}": f"model.layer.{i}" for i in range(stated.num_hidden_layers)}}
    return Case(
        layout=("dinov3", "hf"),
        make=lambda: Classifier(stated),
        units=units,
        image=image,
        last=r".*(o_proj|mlp\.down_proj)",
        gain=1.0 if rate else 0.5,
        rate=rate,
        unread=r".*\.mask_token|.*\.inv_freq",
        golden=bool(rate),
    )


CASES = {
    "odd": case((12, 20, 3), num_register_tokens=2, **SMALL),
    "gated": case((12, 12, 2), use_gated_mlp=True, hidden_act="silu", query_bias=False, value_bias=False, **SMALL),
    # ViT-S/16 at its published size.
    "small": case(rate=0.0, num_register_tokens=4),
}
