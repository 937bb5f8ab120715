"""ELECTRA in Hugging Face's layout: the discriminator with a classifier, the generator with its vocab head."""

from __future__ import annotations

from jaxfer.models.electra import Options
from jaxfer.pretrained.families._text import BERT_PARTS, BERT_STEM, Names, text_layout

LAYOUTS = (
    text_layout(
        Names(
            family="electra",
            title="ELECTRA",
            classes="Electra",
            options=Options,
            model_types=("electra",),
            prefix="electra.",
            parts=BERT_PARTS,
            stem={**BERT_STEM, "project": "embeddings_project"},
            pooler="classifier.dense",
            out="classifier.out_proj",
            token_out="classifier",
            vocab={
                "dense": "generator_predictions.dense",
                "norm": "generator_predictions.LayerNorm",
                "bias": "generator_lm_head.bias",
            },
            tied={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
            fields={"embedding_width": "embedding_size"},
            defaults={"types": 2, "embedding_width": 128},
            ignored=(r"(discriminator|generator)_predictions\..*", r"generator_lm_head\..*"),
            prompts=("prompt_tuning", "prefix_tuning"),
            padded_encoder=False,
        )
    ),
)
