from types import SimpleNamespace

import numpy as np
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from tests.parity.families import Case

SIZES = dict(hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22, vocab_size=29)
TEXTS = dict(max_position_embeddings=9, projection_dim=7)
END = 28


class Pooled(CLIPTextModelWithProjection):
    """The embedding and an output layer; transformers has no class of the two."""

    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Linear(config.projection_dim, 3)

    def forward(self, input_ids, attention_mask):
        found = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        return SimpleNamespace(logits=self.classifier(found.text_embeds))


def ended(ids, mask):
    """Every text ends with the end-of-text token, which occurs nowhere else in it, as its tokenizer has it."""
    last = np.arange(ids.shape[1]) == mask.sum(1, keepdims=True) - 1
    return np.where(last, END, np.where(ids == END, END - 1, ids)).astype(np.int32)


def case(rate=0.1, golden=True, **config):
    sizes = {**SIZES, **TEXTS, "eos_token_id": END, **config}
    units = {f"block_{i}": f"text_model.encoder.layers.{i}" for i in range(sizes["num_hidden_layers"])}
    return Case(
        layout=("clip_text", "hf"),
        make=lambda: Pooled(CLIPTextConfig(**sizes)),
        units={"stem": "text_model.embeddings", **units},
        texts=ended,
        last=r".*(self_attn\.out_proj|mlp\.fc2)",
        rate=rate,
        golden=golden,
        exported=False,
    )


CASES = {
    "odd": case(),
    # Older files name another token, and transformers pools the one with the highest id.
    "gelu": case(golden=False, hidden_act="gelu", eos_token_id=2, layer_norm_eps=0.01, num_attention_heads=5),
}
