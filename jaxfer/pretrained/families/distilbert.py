"""DistilBERT in Hugging Face's layout."""

from __future__ import annotations

from jaxfer.models.distilbert import Options
from jaxfer.pretrained.families._text import Names, text_layout

LAYOUTS = (
    text_layout(
        Names(
            family="distilbert",
            title="DistilBERT",
            classes="DistilBert",
            options=Options,
            model_types=("distilbert",),
            prefix="distilbert.",
            layer="transformer.layer.{i}.",
            parts={
                "attn/query": "attention.q_lin",
                "attn/key": "attention.k_lin",
                "attn/value": "attention.v_lin",
                "attn/out": "attention.out_lin",
                "norm_1": "sa_layer_norm",
                "mlp/fc1": "ffn.lin1",
                "mlp/fc2": "ffn.lin2",
                "norm_2": "output_layer_norm",
            },
            stem={
                "word": "embeddings.word_embeddings",
                "position": "embeddings.position_embeddings",
                "norm": "embeddings.LayerNorm",
            },
            pooler="pre_classifier",
            vocab={"dense": "vocab_transform", "norm": "vocab_layer_norm", "bias": "vocab_projector.bias"},
            tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
            fields={
                "width": "dim",
                "layers": "n_layers",
                "heads": "n_heads",
                "mlp_width": "hidden_dim",
                "activation": "activation",
                "epsilon": None,
                "dropout": "dropout",
                "attention_dropout": "attention_dropout",
                "classifier_dropout": "seq_classif_dropout",
            },
            defaults={"classifier_dropout": 0.2},
            ignored=(r"vocab_(transform|layer_norm|projector)\..*",),
            padded_encoder=False,
        )
    ),
)
