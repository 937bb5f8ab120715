from types import SimpleNamespace

from torch import nn
from transformers import SiglipTextConfig, SiglipTextModel

from tests.parity.families import Case

SIZES = dict(hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22, vocab_size=29)
TEXTS = dict(max_position_embeddings=9, projection_size=7)


class Pooled(nn.Module):
    """The embedding and an output layer; as its tokenizer has it, nothing says which places are padding."""

    def __init__(self, config):
        super().__init__()
        self.config, self.text_model = config, SiglipTextModel(config)
        self.classifier = nn.Linear(config.projection_size, 3)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.classifier(self.text_model(input_ids=input_ids).pooler_output))


def case(rate=0.1, **config):
    config = SiglipTextConfig(**config)
    units = {f"block_{i}": f"text_model.encoder.layers.{i}" for i in range(config.num_hidden_layers)}
    return Case(
        layout=("siglip_text", "hf"),
        make=lambda: Pooled(config),
        units={"stem": "text_model.embeddings", **units},
        last=r".*(self_attn\.out_proj|mlp\.fc2)",
        rate=rate,
        golden=bool(rate),
        exported=False,
    )


CASES = {"odd": case(**SIZES, **TEXTS), "base": case(rate=0.0, projection_size=768)}
