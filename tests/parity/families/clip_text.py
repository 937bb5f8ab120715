from functools import partial
from types import SimpleNamespace

import numpy as np
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from tests.parity.families import Case

SIZES = dict(hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22, vocab_size=29)
TEXTS = dict(max_position_embeddings=9, projection_dim=7)
END = 28
B_32 = dict(
    **dict(hidden_size=512, num_hidden_layers=12, num_attention_heads=8, intermediate_size=2048, vocab_size=49408),
    **dict(max_position_embeddings=77, projection_dim=512, eos_token_id=49407),
)


class Pooled(CLIPTextModelWithProjection):
    """The embedding and an output layer; transformers has no class of the two."""

    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Linear(config.projection_dim, 3)

    def forward(self, input_ids, attention_mask):
        found = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        return SimpleNamespace(logits=self.classifier(found.text_embeds))


def ended(ids, mask, end=END):
    """Every text ends with the end-of-text token, which occurs nowhere else in it, as its tokenizer has it."""
    last = np.arange(ids.shape[1]) == mask.sum(1, keepdims=True) - 1
    return np.where(last, end, np.where(ids == end, end - 1, ids)).astype(np.int32)


def case(rate=0.1, golden=True, **config):
    sizes = {**SIZES, **TEXTS, "eos_token_id": END, **config}
    units = {f"block_{i}": f"text_model.encoder.layers.{i}" for i in range(sizes["num_hidden_layers"])}
    return Case(
        layout=("clip_text", "hf"),
        make=lambda: Pooled(CLIPTextConfig(**sizes)),
        units={"stem": "text_model.embeddings", **units},
        texts=partial(ended, end=sizes["vocab_size"] - 1),
        last=r".*(self_attn\.out_proj|mlp\.fc2)",
        rate=rate,
        golden=golden,
        exported=False,
    )


CASES = {
    "odd": case(),
    # Older files name another token, and transformers pools the one with the highest id.
    "gelu": case(golden=False, hidden_act="gelu", eos_token_id=2, layer_norm_eps=0.01, num_attention_heads=5),
    "b_32": case(rate=0.0, golden=False, **B_32),
}
