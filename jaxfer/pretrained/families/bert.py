"""BERT in Hugging Face's layout: `BertModel`, with a classifier or `BertForMaskedLM`'s head, sentence-transformers'."""

from __future__ import annotations

from jaxfer.models.bert import Options
from jaxfer.pretrained.families._text import BERT_PARTS, BERT_STEM, Names, text_layout

LAYOUTS = (
    text_layout(
        Names(
            family="bert",
            title="BERT",
            classes="Bert",
            options=Options,
            model_types=("bert",),
            prefix="bert.",
            parts=BERT_PARTS,
            stem=BERT_STEM,
            pooler="bert.pooler.dense",
            vocab={
                "dense": "cls.predictions.transform.dense",
                "norm": "cls.predictions.transform.LayerNorm",
                "bias": "cls.predictions.bias",
            },
            tied={"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"},
            defaults={"types": 2},
            ignored=(r"cls\..*",),
            prompts=("prompt_tuning", "prefix_tuning"),
        )
    ),
)
