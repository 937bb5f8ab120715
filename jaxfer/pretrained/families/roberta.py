"""RoBERTa, XLM-RoBERTa and CamemBERT in Hugging Face's layout, whose names are the same."""

from __future__ import annotations

import dataclasses

from jaxfer.models.port import Port
from jaxfer.models.roberta import KINDS, Options
from jaxfer.pretrained.families._text import BERT_PARTS, BERT_STEM, Names, classifier, encoder, text_layout

CLASSES = dict(zip(KINDS, ("Roberta", "XLMRoberta", "Camembert"), strict=True))
NAMES = Names(
    family="roberta",
    title="RoBERTa",
    classes=CLASSES["roberta"],
    options=Options,
    model_types=KINDS,
    prefix="roberta.",
    parts=BERT_PARTS,
    stem=BERT_STEM,
    pooler="classifier.dense",
    out="classifier.out_proj",
    token_out="classifier",
    vocab={"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"},
    tied={"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight"},
    fields={"kind": "model_type"},
    defaults={"types": 2},
    # Positions are counted from the padding's id.
    fixed={"pad_token_id": 1},
    written={"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    ignored=(r"lm_head\..*", r"roberta\.pooler\.dense\..*"),
    prompts=("prompt_tuning", "prefix_tuning"),
)


def _named(port: Port) -> Names:
    return dataclasses.replace(NAMES, classes=CLASSES[port.options.kind])


LAYOUTS = (
    text_layout(
        NAMES,
        config=lambda port, given, labels: classifier(port, labels, _named(port)),
        encoder=lambda port: encoder(port, _named(port)),
    ),
)
