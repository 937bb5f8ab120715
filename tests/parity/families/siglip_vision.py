from types import SimpleNamespace

from torch import nn
from transformers import SiglipConfig, SiglipForImageClassification, SiglipVisionConfig, SiglipVisionModel

from tests.parity.families import Case

SIZES = dict(hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22, patch_size=4)
LAST = r".*(self_attn\.out_proj|mlp\.fc2)"


class Pooled(nn.Module):
    """Attention pooling and an output layer; transformers has no class of the two."""

    def __init__(self, config):
        super().__init__()
        self.config, self.vision_model = config, SiglipVisionModel(config)
        self.classifier = nn.Linear(config.hidden_size, 3)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.classifier(self.vision_model(pixel_values).pooler_output))


def scaled(model):
    """Three projections of the pooling attention are one parameter, no layer: `settle` draws it for tiny widths."""
    weight = model.vision_model.head.attention.in_proj_weight.data
    weight *= 2 * weight.shape[1] ** -0.5


def case(image, rate=0.1, golden=True, layers=2, **fields):
    units = {f"block_{i}": f"vision_model.encoder.layers.{i}" for i in range(layers)}
    return Case(
        layout=("siglip_vision", "hf"),
        units={"stem": "vision_model.embeddings", **units},
        image=image,
        last=LAST,
        rate=rate,
        golden=golden,
        **fields,
    )


def classifier(**config):
    return SiglipForImageClassification(SiglipConfig(vision_config={**config, "vision_use_head": False}, num_labels=3))


MEAN = dict(SIZES, image_size=8, num_channels=2, layer_norm_eps=0.01)
CASES = {
    "map": case(
        (12, 12, 3),
        make=lambda: Pooled(SiglipVisionConfig(**SIZES, image_size=12)),
        options=dict(pool="map"),
        exported=False,
    ),
    "mean": case((8, 8, 2), golden=False, make=lambda: classifier(**MEAN)),
    "b_16": case(
        (224, 224, 3),
        rate=0.0,
        golden=False,
        layers=12,
        make=lambda: Pooled(SiglipVisionConfig()),
        options=dict(pool="map"),
        prepared=scaled,
        exported=False,
    ),
}
