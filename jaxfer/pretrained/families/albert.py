"""ALBERT in Hugging Face's layout: one group of one block, which all published ones have."""

from __future__ import annotations

from jaxfer.models.albert import Options
from jaxfer.pretrained.families._text import BERT_STEM, Names, text_layout

ONE = {"num_hidden_groups": 1, "inner_group_num": 1}

LAYOUTS = (
    text_layout(
        Names(
            family="albert",
            title="ALBERT",
            classes="Albert",
            options=Options,
            model_types=("albert",),
            prefix="albert.",
            layer="encoder.albert_layer_groups.0.albert_layers.0.",
            parts={
                "attn/query": "attention.query",
                "attn/key": "attention.key",
                "attn/value": "attention.value",
                "attn/out": "attention.dense",
                "norm_1": "attention.LayerNorm",
                "mlp/fc1": "ffn",
                "mlp/fc2": "ffn_output",
                "norm_2": "full_layer_layer_norm",
            },
            block="block_0/block",
            stem={**BERT_STEM, "project": "encoder.embedding_hidden_mapping_in"},
            pooler="albert.pooler",
            vocab={"dense": "predictions.dense", "norm": "predictions.LayerNorm", "bias": "predictions.bias"},
            tied={"predictions.decoder.weight": "albert.embeddings.word_embeddings.weight"},
            fields={"embedding_width": "embedding_size", "classifier_dropout": "classifier_dropout_prob"},
            defaults={
                "types": 2,
                "embedding_width": 128,
                "activation": "gelu_new",
                "dropout": 0.0,
                "attention_dropout": 0.0,
                "classifier_dropout": 0.1,
            },
            fixed=ONE,
            written=ONE,
            ignored=(r"(predictions|sop_classifier)\..*",),
        )
    ),
)
