"""MPNet in Hugging Face's layout."""

from __future__ import annotations

from jaxfer.models.mpnet import Options
from jaxfer.pretrained.families._text import Names, text_layout

BUCKETS = Options.form.relative.buckets

LAYOUTS = (
    text_layout(
        Names(
            family="mpnet",
            title="MPNet",
            classes="MPNet",
            options=Options,
            model_types=("mpnet",),
            prefix="mpnet.",
            parts={
                "attn/query": "attention.attn.q",
                "attn/key": "attention.attn.k",
                "attn/value": "attention.attn.v",
                "attn/out": "attention.attn.o",
                "norm_1": "attention.LayerNorm",
                "mlp/fc1": "intermediate.dense",
                "mlp/fc2": "output.dense",
                "norm_2": "output.LayerNorm",
            },
            stem={
                "word": "embeddings.word_embeddings",
                "position": "embeddings.position_embeddings",
                "norm": "embeddings.LayerNorm",
                "relative": "encoder.relative_attention_bias",
            },
            pooler="classifier.dense",
            out="classifier.out_proj",
            token_out="classifier",
            vocab={"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"},
            tied={"lm_head.decoder.weight": "mpnet.embeddings.word_embeddings.weight"},
            fields={"classifier_dropout": None},
            # transformers sorts distances into this many buckets whatever the field says.
            fixed={"relative_attention_num_buckets": BUCKETS},
            written={"relative_attention_num_buckets": BUCKETS, "pad_token_id": 1},
            ignored=(r"lm_head\..*", r"mpnet\.pooler\.dense\..*"),
        )
    ),
)
